"""Records of a zip archive: where their bytes are, and reading a part of one."""

import dataclasses
import io
import os
import struct
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from vlseg.errors import CheckpointError

_CHUNK = 1 << 20
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of an archive: where its bytes are in the file. `crc32` is 0 if the writer did not compute it."""

    path: str
    name: str
    start: int
    stored_bytes: int
    size: int
    deflated: bool
    crc32: int

    def read(self, start: int, length: int) -> np.ndarray:
        """Bytes [start, start + length) of the uncompressed record, as uint8 [length].

        Raises:
          CheckpointError: the file changed, is truncated, damaged or cannot be read.
        """
        if start + length > self.size:
            raise CheckpointError(f"{self.path} is damaged: its record {self.name!r} is too short; get the file again")
        try:
            data = np.empty(length, np.uint8)
            with open(self.path, "rb") as file:
                complete = self._inflate(file, start, data) if self.deflated else self._copy(file, start, data)
        except (OSError, zlib.error, MemoryError) as error:
            raise CheckpointError(f"{self.path}: cannot read its record {self.name!r}: {one_line(error)}") from error
        if not complete:
            raise CheckpointError(f"{self.path} is truncated in its record {self.name!r}; get the file again")
        if length == self.size and self.crc32 and zlib.crc32(data.data) != self.crc32:
            raise CheckpointError(f"{self.path} is damaged: checksum of its record {self.name!r}; get the file again")
        return data

    def _copy(self, file: io.BufferedReader, start: int, data: np.ndarray) -> bool:
        file.seek(self.start + start)
        return file.readinto(data.data) == len(data)

    def _inflate(self, file: io.BufferedReader, start: int, data: np.ndarray) -> bool:
        file.seek(self.start)
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        remaining, position, end = self.stored_bytes, 0, start + len(data)
        pending = b""
        while position < end:
            if not pending and remaining:
                pending = file.read(min(_CHUNK, remaining))
                remaining -= len(pending)
            plain = decoder.decompress(pending, _CHUNK)
            pending = decoder.unconsumed_tail
            if not plain and not pending and (decoder.eof or not remaining):
                return False
            low, high = max(position, start), min(position + len(plain), end)
            if low < high:
                data[low - start : high - start] = np.frombuffer(plain, np.uint8)[low - position : high - position]
            position += len(plain)
        return True


def open_archive(path: str) -> dict[str, Entry]:
    """The records of the archive by their names within it ("data.pkl", "data/0", ...)."""
    try:
        if os.path.isdir(path):
            raise CheckpointError(f"{path} is a directory; name the checkpoint file in it")
        with open(path, "rb") as file:
            _check_kind(path, file.read(len(_LEGACY_MAGIC)))
            with zipfile.ZipFile(file) as archive:
                entries = [_entry(path, file, info) for info in archive.infolist() if not info.is_dir()]
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from error
    # zipfile answers a damaged directory with errors of many classes.
    except Exception as error:
        raise CheckpointError(f"{path} is truncated or damaged ({one_line(error)}); get the file again") from error
    roots = [entry.name.removesuffix("data.pkl") for entry in entries if entry.name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise CheckpointError(f"{path} is not a PyTorch zip archive: it has no record data.pkl")
    return {entry.name.removeprefix(roots[0]): entry for entry in entries if entry.name.startswith(roots[0])}


def _check_kind(path: str, head: bytes) -> None:
    if not head:
        raise CheckpointError(f"{path} is empty; get the file again")
    if head.startswith(_LEGACY_MAGIC):
        raise CheckpointError(
            f"{path} has PyTorch's old format from before 1.6; load it in any PyTorch >= 1.6 and torch.save it again"
        )
    if not head.startswith(b"PK"):
        raise CheckpointError(f"{path} is not a PyTorch zip archive")


def _entry(path: str, file: BinaryIO, info: zipfile.ZipInfo) -> Entry:
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(f"{path}: its record {info.filename!r} is encrypted or compressed in an unknown way")
    file.seek(info.header_offset)
    signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
    start = info.header_offset + 30 + name_length + extra_length
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    end = start + info.compress_size
    if signature != b"PK\x03\x04" or end > os.fstat(file.fileno()).st_size:
        raise CheckpointError(f"{path} is truncated or damaged at its record {info.filename!r}; get the file again")
    if not deflated and info.compress_size != info.file_size:
        raise CheckpointError(f"{path} is damaged at its record {info.filename!r}; get the file again")
    return Entry(path, info.filename, start, info.compress_size, info.file_size, deflated, info.CRC)


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
