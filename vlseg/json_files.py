"""JSON from files that may hold anything."""

import json
import os
import re
from typing import Any

from vlseg import files
from vlseg.errors import VlsegError

MAX_DEPTH = 64
"""Of nested lists and objects; nothing that we read has more than a dozen."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)


def read(path: str | os.PathLike[str], error: type[VlsegError]) -> Any:
    """The content of a JSON file, see `parse` and `files.read_regular`."""
    return parse(files.read_regular(path, error), path, error)


def parse(content: bytes | str, source: object, error: type[VlsegError]) -> Any:
    """JSON that was read.

    Args:
        content: in UTF-8, with or without a byte order mark.
        source: what messages call it. error: what is raised.

    Raises:
        VlsegError: it is no JSON, or nested deeper than MAX_DEPTH, on which the interpreter would run out of its stack.
            NaN and infinities, which are no JSON though Python writes them, are refused.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError:
        kind = files.kind_of(content if isinstance(content, bytes) else b"")
        raise error(f"{source}: is {kind or 'not text in UTF-8'}, not JSON") from None
    if _depth(text) > MAX_DEPTH:
        raise error(f"{source}: is JSON nested deeper than {MAX_DEPTH} levels, which no file of this kind is")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as problem:
        kind = files.kind_of(text[:1024].encode())
        raise error(f"{source}: is {kind or 'not JSON'} ({problem})") from problem


def _depth(text: str) -> int:
    depth = deepest = 0
    for match in _BRACKETS.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
