"""What a run is made of beside its settings: names, data and weights, each told by its content, wherever it lies."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlseg import files, remote
from vlseg.checkpoints import runs
from vlseg.data import sources
from vlseg.data.formats import prepared, tfds
from vlseg.errors import DatasetError

Identity = Mapping[str, Any]

WHOLE = 64 << 20
"""Bytes up to which a file is read whole; of larger ones its beginning, its end and pieces between."""

PIECES, PIECE = 16, 1 << 20

OF_MODELS = (".safetensors", ".json", ".pt", ".pth", ".bin", ".npz", ".txt", ".bpe")
"""Files of a directory that make a model or a tokenizer."""


def of_data(dataset: Any, source: str = "") -> dict[str, Any]:
    """What tells a data set from others: names and number, and of one that lies in files their paths and sizes.

    Args:
        dataset: of `vlseg.data.sources` or `vlseg.data.episodes`. source: what it was opened from.

    Returns:
        JSON-ready; equal wherever the files lie.
    """
    found: dict[str, Any] = {"names": list(dataset.names), "examples": len(dataset)}
    pairs = getattr(dataset, "pairs", None) or getattr(dataset, "queries", None)
    kind = sources.kind(source) if source else ""
    if pairs:
        found["files"] = _digest_of({file for pair in pairs for file in (pair.image, pair.label)})
    elif kind == "prepared" and files.is_remote(source):
        content = remote.read(f"{source.rstrip('/')}/{prepared.INFO_FILE}", DatasetError)
        found["files"] = hashlib.sha256(content).hexdigest()
    elif kind == "prepared":
        found["files"] = _digest_of(path for path in Path(source).iterdir() if path.is_file())
    elif kind == "tfds":
        name, _, split = tfds.parse_source(source.removeprefix(tfds.PREFIX))
        found["data set"] = f"{name}:{split}"
    elif hasattr(dataset, "picture_file"):
        found["files"] = _digest_of({dataset.picture_file(index) for index in range(len(dataset))})
    for name in ("split", "seed", "size"):  # of what is drawn
        value = getattr(dataset, name, None)
        if isinstance(value, int | str):
            found[name] = value
    return found


def of_files(path: Path) -> dict[str, Any]:
    """What tells the files of a model or a tokenizer from others: their content, in pieces if they are large.

    Args:
        path: a file, a directory of a model, or a step that a run has kept.
    """
    if path.is_file():
        return {"bytes": path.stat().st_size, "sha256": _sampled(path)}
    listed = _model_files(path)
    if runs.is_step(path):
        listed = [*listed, *(file for file in path.rglob("*") if file.is_file()), *_model_files(runs.frozen(path))]
    digest, size = hashlib.sha256(), 0
    for file in sorted(set(listed)):
        size += file.stat().st_size
        digest.update(f"{file.name}\0{_sampled(file)}\n".encode(errors="surrogateescape"))
    return {"bytes": size, "sha256": digest.hexdigest()}


def difference(before: Any, now: Any) -> str:
    """What has changed in an input, for people; both as above, or lists of names."""
    if isinstance(before, list) and isinstance(now, list):
        return _of_names(before, now)
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return "other content"
    if before.get("names") != now.get("names"):
        names = before.get("names") or [], now.get("names") or []
        return _of_names(*names) if all(isinstance(part, list) for part in names) else "other names than before"
    if before.get("examples") != now.get("examples"):
        return f"{before.get('examples')} examples before, {now.get('examples')} now"
    if before.get("files") != now.get("files"):
        return "files of other names or sizes than before"
    if before.get("bytes") != now.get("bytes"):
        return f"{before.get('bytes')} bytes before, {now.get('bytes')} now"
    return "other content than before, though of the same size"


def _of_names(before: Sequence[str], now: Sequence[str]) -> str:
    if len(before) != len(now):
        return f"{len(before)} names before, {len(now)} now"
    number = next((i for i, (one, other) in enumerate(zip(before, now, strict=True)) if one != other), 0)
    return f"name {number} was {before[number]!r} and is {now[number]!r} now"


def _digest_of(paths: Iterable[Path]) -> str:
    """Of the sorted paths and sizes of files, below the folder that holds them all."""
    listed = sorted(os.path.abspath(path) for path in paths)
    common = os.path.commonpath([os.path.dirname(path) for path in listed]) if listed else ""
    lines = []
    for path in listed:
        inside = unicodedata.normalize("NFC", os.path.relpath(path, common))
        lines.append(f"{inside}\0{os.stat(path).st_size if os.path.exists(path) else -1}\n")
    return hashlib.sha256("".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _model_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in OF_MODELS and path.is_file()]


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(PIECES):
            file.seek(number * (size - PIECE) // (PIECES - 1))
            digest.update(file.read(PIECE))
    return digest.hexdigest()
