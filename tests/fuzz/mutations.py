"""Seeded ways to break the content of a file, and to put something else in its place."""

import contextlib
import io
import json
import os
import random
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HTML = b"<!DOCTYPE html><html><body>404</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
SIZES = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
PICKLES = (
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    b'cbuiltins\neval\n(S\'__import__("os").system("true")\'\ntR.',
    b"\x80\x02]r\xff\xff\xff\x3f.",
    b"\x80\x02" + b"(" * 50_000 + b".",
    b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    b"\x80\x02" + b")" + b"\x85" * 50_000 + b".",
)


class Broken(NamedTuple):
    """What a file becomes. sealed: its checksums were made anew, so that what is read may differ."""

    content: bytes
    sealed: bool = False


def broken(content: bytes, random: random.Random) -> Broken:
    """A file's content, broken in one way or several; the same for the same state of `random`."""
    if random.random() < 0.05:
        return Broken(random.choice([b"", HTML, LFS, b"\0" * 1000, os.urandom(0) + random.randbytes(500), *PICKLES]))
    reseal = _resealer(content)
    if reseal and random.random() < 0.5:
        with contextlib.suppress(
            zipfile.BadZipFile, zlib.error, struct.error, ValueError, IndexError, NotImplementedError
        ):
            return Broken(reseal(content, random), sealed=True)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        content = random.choice(_WAYS)(content, random)
    return Broken(content, sealed=reseal is None)


_NOT_WHOLE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, IndexError, NotImplementedError)


def replaced(path: Path, random: random.Random) -> None:
    """Puts something that is no file, or a strange one, in the place of a file."""
    path.unlink()
    random.choice(_SPECIAL)(path)


_SPECIAL: list[Callable[[Path], Any]] = [
    lambda path: None,
    os.mkfifo,
    os.mkdir,
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("/dev/null"),
]


def _flip(content: bytes, random: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(content: bytes, random: random.Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _slices(content: bytes, random: random.Random) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice([1, 4, 16, 256, 4096]))


def _delete(content: bytes, random: random.Random) -> bytes:
    start, end = _slices(content, random)
    return content[:start] + content[end:]


def _repeat(content: bytes, random: random.Random) -> bytes:
    start, end = _slices(content, random)
    return content[:end] + content[start:end] * random.choice([1, 2, 1000]) + content[end:]


def _splice(content: bytes, random: random.Random) -> bytes:
    (start, end), (other, stop) = _slices(content, random), _slices(content, random)
    return content[:start] + content[other:stop] + content[end:]


def _fill(content: bytes, random: random.Random) -> bytes:
    start, end = _slices(content, random)
    return content[:start] + random.choice([b"\0", b"\xff", b"\x80", b"("]) * (end - start) + content[end:]


def _insert(content: bytes, random: random.Random) -> bytes:
    start, _ = _slices(content, random)
    deep = random.choice([b"[", b'{"a":', b"(", b"]", b"\x85"]) * 100_000
    return content[:start] + random.choice([random.randbytes(16), deep, b"\n", b"\x1b[2J"]) + content[start:]


def _size(content: bytes, random: random.Random) -> bytes:
    """Another number where there may be a length."""
    form = random.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"])
    width = struct.calcsize(form)
    start = random.randrange(max(1, min(len(content), random.choice([64, 1024, 2**20]))))
    number = random.choice(SIZES) % 2 ** (8 * width)
    return content[:start] + struct.pack(form, number) + content[start + width :]


def _number(content: bytes, random: random.Random) -> bytes:
    """Another number where there is one in digits."""
    found = list(re.finditer(rb"\d+", content[:100_000]))
    if not found:
        return _flip(content, random)
    chosen = random.choice(found)
    number = random.choice([*map(str, SIZES), "-1", "1e999", "0.5", "9" * 5000, "x"])
    return content[: chosen.start()] + number.encode() + content[chosen.end() :]


def _swap(content: bytes, random: random.Random) -> bytes:
    lines = content.split(b"\n")
    random.shuffle(lines)
    return b"\n".join(lines)


_WAYS = [_flip, _flip, _flip, _cut, _delete, _repeat, _splice, _fill, _insert, _size, _size, _number, _swap]


# Content whose structure stays whole: what is in it is changed, and its checksums fit.


def _resealer(content: bytes) -> Callable[[bytes, random.Random], bytes] | None:
    if content[:4] == b"PK\x03\x04":
        return _zip
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return _png
    if content[:1] in b"{[" and content[:1]:
        return _json
    if content[8:9] == b"{":
        return _safetensors
    return None


def _zip(content: bytes, random: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one name twice
        names = old.namelist()
        chosen = random.choice(names)
        for name in names:
            member = old.read(name)
            if name == chosen:
                way = random.randrange(6)
                if way == 0:
                    continue
                member = random.choice(PICKLES) if way == 1 else broken(member, random).content
                if way == 2:
                    name = random.choice(["../x", "/x", "", "x" * 60_000, name + "\n", names[0]])
            new.writestr(name, member, random.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    return stream.getvalue()


def _png(content: bytes, random: random.Random) -> bytes:
    chunks, place = [], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    index = random.randrange(len(chunks))
    kind, body = chunks[index]
    way = random.randrange(6)
    if way == 0:
        del chunks[index]
    elif way == 1:
        chunks.insert(index, chunks[random.randrange(len(chunks))])
    elif way == 2:
        chunks.insert(index, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 50_000_000, 1)))
    elif way == 3:
        chunks[index] = (bytes(random.choices(b"IDATPLTEHRNStabc", k=4)), body)
    else:
        chunks[index] = (kind, random.choice([_flip, _size, _cut, _repeat])(body, random))
    parts = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return b"".join([content[:8], *parts])


def _safetensors(content: bytes, random: random.Random) -> bytes:
    (length,) = struct.unpack_from("<Q", content)
    header = _json(content[8 : 8 + length], random)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def nasty(random: random.Random) -> Any:
    """A value that is not what a JSON file should hold at a place."""
    number = random.choice([*SIZES, -1, 1_000_000, 10**9, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")])
    text = random.choice(["", "x", "../x", "a\0b", "\ud800", "x" * 100_000, "é\u0301", "{}", "1", "float32", "resnet"])
    deep: Any = []
    for _ in range(random.choice([3, 60, 90])):
        deep = [deep] if random.random() < 0.5 else {"a": deep}
    return random.choice([None, True, False, number, number, text, text, [], {}, [number], [text], [[number]], deep])


def _json(content: bytes, random: random.Random) -> bytes:
    try:
        whole = json.loads(content)
    except ValueError:
        return _number(content, random)
    for _ in range(random.choice([1, 1, 1, 2])):
        places = list(_places(whole))
        holder, key = random.choice(places) if places else ({"": whole}, "")
        way = random.randrange(8)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[random.choice(["colour", "", "kind", "__class__", "x" * 1000])] = nasty(random)
        elif way == 2:
            holder[key] = random.choice([[holder[key]], {"a": holder[key]}, str(holder[key])])
        elif way == 3:
            other, name = random.choice(places) if places else (holder, key)
            holder[key] = json.loads(json.dumps(other[name]))
        else:
            holder[key] = nasty(random)
    return json.dumps(whole).encode()


def _places(value: Any) -> Any:
    """Every item of every list and object, as the holder and the key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
