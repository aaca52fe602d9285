"""Data sets in few large files (ArrayRecord): what is slow to read as a hundred thousand small ones.

```
root/prepared.json                 names, label of pixels that do not count, number of examples
root/00000-of-00012.array_record   a record for each example: picture as it was encoded, label map as PNG, name
```

`root` may be a folder of a bucket (gs://...). It is written to the temporary folder and then uploaded, prepared.json
last; and it is read from a copy in the cache, see `vlseg.remote`.
"""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlseg import files, remote
from vlseg.data.examples import Encoded, RecordDataset
from vlseg.data.images import decode_label
from vlseg.errors import DatasetError, StorageError, VlsegError, VocabularyError, one_line
from vlseg.labels import check_names
from vlseg.progress import Progress

INFO_FILE = "prepared.json"
FORMAT = "vlseg prepared data set 1"
NAMES = "surrogateescape"
"""How names of examples become bytes: those of files need not be UTF-8."""


def open_prepared(root: str | os.PathLike[str]) -> RecordDataset:
    """Opens what `write` wrote; reads no example.

    Raises:
        DatasetError: it is not a prepared data set, files are missing or damaged, or its bucket cannot be read.
        ConfigError, StorageError: as `remote.fetch`.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    _check_encoding(root, DatasetError)
    root = _fetched(os.fspath(root)) if files.is_remote(root) else Path(root)
    try:
        info = json.loads((root / INFO_FILE).read_text())
        if info["format"] != FORMAT:
            raise DatasetError(f"{root / INFO_FILE}: is of format {info['format']!r}, not {FORMAT!r}")
        paths = [root / name for name in info["files"]]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DatasetError(f"{root}: {', '.join(missing)} are missing: copy or prepare the data set anew")
        records = ArrayRecordDataSource(paths)
        if len(records) != info["examples"]:
            raise DatasetError(f"{root}: holds {len(records)} examples, not {info['examples']}: prepare it anew")
        names = check_names(info["names"], source=os.fspath(root / INFO_FILE), ignore_case=False)
        return RecordDataset(names, int(info["ignore_label"]), records, _unpack, decode_label)
    except (DatasetError, VocabularyError) as error:
        raise DatasetError(str(error)) from error
    except Exception as error:  # the library raises several kinds on damaged files
        raise DatasetError(f"{root}: is not a prepared data set, or is damaged: {one_line(error)}") from error


def _unpack(record: bytes, _: int) -> Encoded:
    return Encoded(**msgpack.unpackb(record, unicode_errors=NAMES))


def is_prepared(root: str | os.PathLike[str]) -> bool:
    """Whether a folder says that it is a prepared data set."""
    return (Path(root) / INFO_FILE).is_file()


def _check_encoding(root: str | os.PathLike[str], error: type[VlsegError]) -> None:
    """ArrayRecord opens names in UTF-8 only; of the examples' names it knows nothing."""
    try:
        os.fspath(root).encode("utf-8")
    except UnicodeEncodeError:
        raise error(
            f"{files.shown_path(root)}: the name of a prepared data set must be in UTF-8: choose another"
        ) from None


def _fetched(url: str) -> Path:
    """A local copy of a prepared data set in a bucket."""
    try:
        names = json.loads(remote.read(f"{url.rstrip('/')}/{INFO_FILE}", DatasetError))["files"]
        # A name must not lead out of the folder.
        if not all(name == Path(name).name for name in names):
            raise ValueError("a file lies outside")
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{url}: is not a prepared data set, or is damaged: {one_line(error)}") from error
    return remote.fetch(url, [*names, INFO_FILE], DatasetError)


def check_absent(target: str | os.PathLike[str]) -> None:
    """Raises StorageError if there is something at a local `target`, or a prepared data set at one in a bucket.

    Or if `target` is a name that cannot be.
    """
    if not files.is_remote(target):
        _check_encoding(target, StorageError)
        files.check_absent(target)
    elif remote.exists(f"{os.fspath(target).rstrip('/')}/{INFO_FILE}"):
        raise StorageError(f"{os.fspath(target)} holds a prepared data set already; remove it or choose another place")


def write(dataset: Any, target: str | os.PathLike[str], examples_per_file: int = 1000) -> int:
    """Writes a data set; whole or not at all.

    Pictures keep the bytes of their files where the data set has files, else they become PNG. Label ids stay what they
    are; those of pixels that do not count become 255, or 65535 where 255 is the id of a class.

    Args:
        dataset: of `vlseg.data.sources`.
        target: a new folder, local or of a bucket.
        examples_per_file: the last file may hold fewer.

    Returns:
        The number of examples.

    Raises:
        DatasetError, ImageError: an example cannot be read. StorageError: `target` exists, or cannot be written.
        ConfigError: a package to reach the bucket is missing.
    """
    check_absent(target)
    if not files.is_remote(target):
        _write_local(dataset, target, examples_per_file)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / "prepared"
            names = _write_local(dataset, local, examples_per_file)
            # Without INFO_FILE it is no data set: an upload that is cut off is never taken for one.
            remote.upload(local, [*names, INFO_FILE], os.fspath(target))
    return len(dataset)


def _write_local(dataset: Any, target: str | os.PathLike[str], examples_per_file: int) -> list[str]:
    """`write` to a local folder; the names of the files but INFO_FILE."""
    from array_record.python.array_record_module import ArrayRecordWriter

    dtype = label_dtype(dataset)
    starts = range(0, len(dataset), examples_per_file)
    names = [f"{number:05d}-of-{len(starts):05d}.array_record" for number in range(len(starts))]
    bar = Progress(len(dataset), "write", "example")
    with bar, files.atomic_directory(target) as folder:
        for start, name in zip(starts, names, strict=True):
            # One record in a group: any of them can be read alone.
            writer = ArrayRecordWriter(str(folder / name), "group_size:1")
            for index in range(start, min(start + examples_per_file, len(dataset))):
                example = dataset[index]
                image, label = picture_bytes(dataset, index, example.image), label_bytes(dataset, example.label, dtype)
                packed = {"name": example.name, "image": image, "label": label}
                writer.write(msgpack.packb(packed, unicode_errors=NAMES))
                bar.update()
            writer.close()
        info = {
            "format": FORMAT,
            "names": list(dataset.names),
            "ignore_label": largest(dtype),
            "examples": len(dataset),
            "files": names,
        }
        files.atomic_write_json(folder / INFO_FILE, info)
    return names


def label_dtype(dataset: Any) -> np.dtype:
    """The type of the label PNGs of a data set: its largest number is left for pixels that do not count."""
    return np.min_scalar_type(len(dataset.names))


def largest(dtype: np.dtype) -> int:
    """The largest number that a type holds."""
    return int(np.iinfo(dtype).max)


def label_bytes(dataset: Any, label: NDArray[np.int32], dtype: np.dtype) -> bytes:
    """A label map of a data set as a PNG of its `label_dtype`, whose largest number stands for `ignore_label`."""
    return png_bytes(np.where(label == dataset.ignore_label, largest(dtype), label).astype(dtype))


def picture_bytes(dataset: Any, index: int, image: NDArray[np.uint8]) -> bytes:
    """The file of a picture as it is where the data set has files, else its pixels `image` as PNG."""
    path = dataset.picture_file(index) if hasattr(dataset, "picture_file") else None
    return path.read_bytes() if path else png_bytes(image)


def png_bytes(pixels: NDArray[Any]) -> bytes:
    """Pixels [H, W, 3] or [H, W] as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
