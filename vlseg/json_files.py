"""JSON from files that may hold anything."""

import json
import os
import re
from typing import Any

import numpy as np

from vlseg import files
from vlseg.errors import VlsegError

MAX_DEPTH = 64
"""Of nested lists and objects; nothing that we read has more than a dozen."""

_CHUNK = 1 << 20  # bytes that are looked at together

_KINDS = np.zeros(256, np.int8)
"""Of bytes: by how much they change the depth; 2 for a quotation mark."""
_KINDS[list(b"[{")], _KINDS[list(b"]}")], _KINDS[list(b'"')] = 1, -1, 2


def read(path: str | os.PathLike[str], error: type[VlsegError]) -> Any:
    """The content of a JSON file, see `parse` and `files.read_regular`."""
    # The bytes are not kept beside the text and what it stands for.
    return _parsed(_decoded(files.read_regular(path, error), path, error), path, error)


def parse(content: bytes | str, source: object, error: type[VlsegError]) -> Any:
    """JSON that was read.

    Args:
        content: in UTF-8, with or without a byte order mark.
        source: what messages call it. error: what is raised.

    Raises:
        VlsegError: it is no JSON, or nested deeper than MAX_DEPTH, on which the interpreter would run out of its stack.
            NaN and infinities, which are no JSON though Python writes them, are refused.
    """
    if isinstance(content, bytes):
        return _parsed(_decoded(content, source, error), source, error)
    _check_depth(content.encode("utf-8", "surrogatepass"), source, error)
    return _parsed(content, source, error)


def _decoded(content: bytes, source: object, error: type[VlsegError]) -> str:
    """The text of a file that is not nested too deeply."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise error(f"{source}: is {files.kind_of(content) or 'not text in UTF-8'}, not JSON") from None
    _check_depth(content, source, error)
    return text


def _parsed(text: str, source: object, error: type[VlsegError]) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as problem:
        kind = files.kind_of(text[:1024].encode("utf-8", "replace"))
        raise error(f"{source}: is {kind or 'not JSON'} ({problem})") from problem


def _check_depth(content: bytes, source: object, error: type[VlsegError]) -> None:
    if _depth(content) > MAX_DEPTH:
        raise error(f"{source}: is JSON nested deeper than {MAX_DEPTH} levels, which no file of this kind is")


def _depth(content: bytes) -> int:
    """How deep JSON is nested, as far as it is JSON: what a reader has not refused before is counted as it counts."""
    if b"\\" in content:  # which stands in strings only, and makes the next character no end of it
        content = re.sub(rb"\\.", b"", content, flags=re.DOTALL)
    depth = deepest = quotes = 0
    for start in range(0, len(content), _CHUNK):
        kinds = _KINDS[np.frombuffer(content, np.uint8, min(_CHUNK, len(content) - start), start)]
        kinds = kinds[kinds != 0]
        marks = quotes + np.cumsum(kinds == 2)
        depths = depth + np.cumsum(np.where((kinds != 2) & (marks % 2 == 0), kinds, 0))
        if len(kinds):
            quotes, depth, deepest = int(marks[-1]), int(depths[-1]), max(deepest, int(depths.max()))
    return deepest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
