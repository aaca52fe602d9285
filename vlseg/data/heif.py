"""HEIC and AVIF: recognised by their content, and read by what is installed for them."""

import importlib.util

from PIL import Image, features

from vlseg.errors import ImageError

_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def kind(head: bytes) -> str:
    """Which of the two a file is, from its first bytes: "AVIF", "HEIC", or "" for neither."""
    if head[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
    if any(brand in _AVIF for brand in brands):
        return "AVIF"
    return "HEIC" if any(brand in _HEIC for brand in brands) else ""


def formats(head: bytes, name: str) -> tuple[str, ...]:
    """The format, as Pillow calls it, of a file of one of these kinds; none if it is of another.

    Raises:
        ImageError: what would read the file `name` is not installed.
    """
    found = kind(head)
    if found == "AVIF" and _pillow_reads_avif():
        return ("AVIF",)
    if not found:
        return ()
    try:
        import pillow_heif
    except ImportError as error:
        remedy = "pip install pillow-heif" if found == "HEIC" else "pip install --upgrade pillow"
        raise ImageError(f"{name}: is {found}: {remedy}") from error
    if found == "AVIF" and not hasattr(pillow_heif, "register_avif_opener"):
        raise ImageError(f"{name}: is AVIF: pip install --upgrade pillow")
    registered = "HEIF" if found == "HEIC" else "AVIF"
    if registered not in Image.OPEN:
        register = pillow_heif.register_heif_opener if found == "HEIC" else pillow_heif.register_avif_opener
        register()
    return (registered,)


def extensions() -> tuple[str, ...]:
    """Endings of the files that can be read with what is installed."""
    heic = (".heic", ".heif") if importlib.util.find_spec("pillow_heif") else ()
    return (*heic, ".avif") if _pillow_reads_avif() else heic


def _pillow_reads_avif() -> bool:
    return "avif" in features.get_supported_modules()
