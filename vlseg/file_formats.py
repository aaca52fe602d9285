"""Well-known formats by the first bytes of a file, for messages about files that are none of what was asked for."""

_FORMATS = (
    (b"\xff\xd8\xff", 0, "a JPEG picture"), (b"\x89PNG\r\n", 0, "a PNG picture"), (b"GIF8", 0, "a GIF picture"),
    (b"II*\0", 0, "a TIFF picture"), (b"MM\0*", 0, "a TIFF picture"), (b"WEBP", 8, "a WebP picture"),
    (b"\x89HDF\r\n", 0, "an HDF5 file, as of Keras"), (b"GGUF", 0, "a GGUF file"), (b"TFL3", 4, "a TFLite model"),
    (b"pytorch", 4, "an ONNX model"), (b"\x93NUMPY", 0, "a single NumPy array (.npy)"),
    (b"MATLAB ", 0, "a MATLAB file"), (b"PK\x03\x04", 0, "a zip archive, as of PyTorch or .npz"),
    (b"ustar", 257, "a tar archive: unpack it"), (b"\x1f\x8b", 0, "compressed with gzip: unpack it"),
    (b"BZh", 0, "compressed with bzip2: unpack it"), (b"\xfd7zXZ\0", 0, "compressed with xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", 0, "compressed with zstd: unpack it"), (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive: unpack it"),
    (b"Rar!", 0, "a RAR archive: unpack it"), (b"%PDF", 0, "a PDF document"), (b"\x7fELF", 0, "a program"),
    (b'{"', 8, "a safetensors file"), (b"\x80\x02", 0, "a bare pickle"),
    (b"\x80\x03", 0, "a bare pickle"), (b"\x80\x04", 0, "a bare pickle"), (b"\x80\x05", 0, "a bare pickle"),
    (b"\x82\xa6params", 0, "Flax's msgpack"), (b"<?xml", 0, "XML, as of a server's error"), (b'{"', 0, "JSON"),
)  # fmt: skip


def format_of(head: bytes) -> str:
    """Which well-known format a file has, from its first 512 bytes: "a JPEG picture"; "" where none is recognised.

    `vlseg.files.kind_of` tells what no reader takes.
    """
    known = (what for mark, place, what in _FORMATS if head[place : place + len(mark)] == mark)
    if found := next(known, ""):
        return found
    text = head.strip()
    return "text" if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text) else ""
