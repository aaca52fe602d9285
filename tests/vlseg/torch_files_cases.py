"""Files as PyTorch writes them, instruction by instruction, and what a hostile or damaged one may hold."""

import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def push(value: Any) -> bytes:
    """The instructions that put a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stack_named(module: str, name: str) -> bytes:
    return push(module) + push(name) + pickle.STACK_GLOBAL


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def storage(key: Any = "0", count: Any = 6, kind: bytes = named("torch", "FloatStorage")) -> bytes:
    return (
        pickle.MARK + push("storage") + kind + push(key) + push("cpu") + push(count) + pickle.TUPLE + pickle.BINPERSID
    )


def tensor(offset: Any = 0, shape: Any = (2, 3), stride: Any = (3, 1), data: bytes | None = None) -> bytes:
    values = [push(offset), push(shape), push(stride), push(False), push({})]
    return call(named("torch._utils", "_rebuild_tensor_v2"), data or storage(), *values)


def write_archive(path: Path, body: bytes, compression: int = zipfile.ZIP_STORED, byteorder: str = "little") -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("x/byteorder", byteorder)
        archive.writestr("x/data/0", np.arange(6, dtype="<f4" if byteorder == "little" else ">f4").tobytes())
        archive.writestr("x/version", "3\n")
    return path


def mutate(content: bytes, seed: int) -> bytes:
    """A file with a few of its bytes changed, lost, or put in."""
    rng = random.Random(seed)
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        position = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[position] ^= 1 << rng.randrange(8)
            case 1:
                data[position] = rng.randrange(256)
            case 2:
                del data[position : position + rng.choice([1, 1, 4, 40])]
            case 3:
                data[position:position] = rng.randbytes(rng.choice([1, 1, 4]))
            case 4:
                data[position : position + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"])
        data = data or bytearray(b"P")
    return bytes(data)


def with_instructions(content: bytes, seed: int) -> bytes:
    """A pickle with a few instructions put in anywhere, or a part of it again."""
    rng = random.Random(seed)
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 50])):
        position = rng.randrange(len(data))
        start = rng.randrange(len(data))
        part = bytes(data[start : start + rng.choice([1, 4, 20, 100])])
        data[position:position] = rng.choice([rng.choice(INSTRUCTIONS), part])
    return bytes(data)


def with_pickle(source: Path, target: Path, seed: int) -> Path:
    """A copy of an archive with true checksums and a pickle that is changed by `mutate` or `with_instructions`."""
    change = (mutate, with_instructions)[seed % 2]
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            copy.writestr(name, change(content, seed) if name.endswith("data.pkl") else content)
    return target


INSTRUCTIONS = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def write_legacy(path: Path, body: bytes, storages: dict[str, np.ndarray], keys: list[str] | None = None) -> Path:
    """A file in PyTorch's format of before 1.6, its object made by the instructions `body`."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, system)]
    parts.append(b"\x80\x02" + body + b".")
    parts.append(pickle.dumps(list(storages) if keys is None else keys, 2))
    parts += [struct.pack("<q", values.size) + values.tobytes() for values in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


def legacy_storage(key: Any, count: Any, kind: bytes = named("torch", "FloatStorage"), view: Any = None) -> bytes:
    values = [push("storage"), kind, push(key), push("cpu"), push(count), push(view)]
    return pickle.MARK + b"".join(values) + pickle.TUPLE + pickle.BINPERSID


def put(index: int) -> bytes:
    return pickle.LONG_BINPUT + struct.pack("<I", index)


def get(index: int) -> bytes:
    return pickle.LONG_BINGET + struct.pack("<I", index)


SHARED = push(1) + pickle.TUPLE1 + (pickle.DUP + pickle.TUPLE2) * 400
"""A tuple of one tuple twice, which is a tuple of one tuple twice, and so on: 2 to the power of 400 parts."""


def _entries(keys: list[bytes]) -> bytes:
    return b"}" + b"".join(key + b"N" + pickle.SETITEM for key in keys)


def _twos(number: int, length: int) -> bytes:
    """A tuple of -1 and -2, whose hashes are equal."""
    ends = b"".join((push(-1), push(-2))[number >> bit & 1] for bit in range(length))
    return pickle.MARK + ends + pickle.TUPLE


def _dtype() -> bytes:
    state = push((3, "<", None, None, None, -1, -1, 0))
    return call(named("numpy", "dtype"), push("f4"), push(0), push(1)) + state + pickle.BUILD


def _long(number: int) -> bytes:
    return pickle.LONG4 + struct.pack("<i", 1 << 20) + number.to_bytes(1, "little") * (1 << 20)


_WIDE = pickle.MARK + (push(1) + pickle.TUPLE1) * 2000 + pickle.TUPLE
_LIST = named("builtins", "list")
_BIG_LIST = b"](" + b"N" * 50_000 + b"e"


# What takes exponential or quadratic time, or memory out of all proportion, unless it is refused or bounded.
COSTLY: dict[str, Callable[[], bytes]] = {
    "shared tuples as a key": lambda: b"}" + SHARED + b"Ns",
    "shared tuples in a set": lambda: b"\x8f(" + SHARED + b"\x90",
    "shared tuples as a frozen set": lambda: b"(" + SHARED + b"\x91",
    "shared tuples as a device": lambda: call(named("torch", "device"), SHARED, push(0)),
    "shared tuples as a device alone": lambda: call(named("torch", "device"), SHARED),
    "shared tuples as a class": lambda: SHARED + push("x") + pickle.STACK_GLOBAL,
    "shared tuples as a storage": lambda: tensor(
        data=pickle.MARK + push("storage") + named("torch", "FloatStorage") + SHARED + b"NK\x06t" + pickle.BINPERSID
    ),
    "shared tuples as a shape": lambda: tensor(shape=(2, 3)).replace(push((2, 3)), SHARED),
    "shared tuples as an argument": lambda: call(named("collections", "OrderedDict"), SHARED),
    "wide tuples as keys": lambda: _WIDE + put(0) + b"0" + _entries([get(0)] * 20_000),
    "tuples with equal hashes": lambda: _entries([_twos(number, 13) for number in range(1 << 13)]),
    "tuples with equal hashes in a set": lambda: (
        b"\x8f(" + b"".join(_twos(number, 13) for number in range(1 << 13)) + b"\x90"
    ),
    "long numbers with equal hashes": lambda: _entries([push(number * (2**61 - 1)) for number in range(1, 60_000)]),
    "items with equal hashes": lambda: call(
        named("builtins", "dict"), b"](" + b"".join(_twos(n, 13) + b"N\x86" for n in range(1 << 13)) + b"e"
    ),
    "a long number as keys": lambda: _long(1) + put(0) + b"0" + _entries([get(0)] * 20_000),
    "a long number as a shape": lambda: (
        _long(1) + put(0) + b"0" + tensor().replace(push((2, 3)), get(0) + get(0) + pickle.TUPLE2)
    ),
    "a long memo and many types": lambda: b"N" + b"".join(put(i) for i in range(20_000)) + (_dtype() + b"0") * 5_000,
    "copies of a list": lambda: (
        _BIG_LIST + put(0) + _LIST + put(1) + (get(1) + get(0) + pickle.TUPLE1 + pickle.REDUCE) * 20_000
    ),
    "copies of arguments": lambda: (
        _BIG_LIST + put(0) + named("argparse", "Namespace") + put(1) + (get(1) + get(0) + pickle.REDUCE) * 20_000
    ),
    "copies of a text": lambda: (
        push("x" * 1_000_000)
        + put(0)
        + named("_codecs", "encode")
        + put(1)
        + (get(1) + get(0) + pickle.TUPLE1 + pickle.REDUCE) * 20_000
    ),
    "long names": lambda: push("x" * 1_000_000) + put(0) + (get(0) + get(0) + pickle.STACK_GLOBAL + b"0") * 20_000,
    "a memo as long as numbers go": lambda: b"N" + put(2**32 - 1),
    "many far memo numbers": lambda: b"N" + b"".join(put(2**32 - 1 - (n << 16)) for n in range(50_000)),
}


def nested_slices(count: int = 1_000_000) -> bytes:
    """Slices of slices, which crash the interpreter when they are freed."""
    return (
        named("builtins", "slice") + put(0) + b"0N" + (pickle.TUPLE1 + put(1) + b"0" + get(0) + get(1) + b"R") * count
    )
