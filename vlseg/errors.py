"""Errors that a user can act on.

Every error raised on purpose by this project derives from `VlsegError`. Its message is one line that says what is
wrong and what to do; the commands print that line on stderr and exit with code 2 (see `vlseg.cli`).
"""

LONGEST = 500
"""Characters of a message."""


def one_line(text: object) -> str:
    """A text, or the words of another library's error, for a message: see `VlsegError`."""
    words = _shortened(" ".join(str(text).split()))
    return words if words.isprintable() else _shortened("".join(map(printable, words)))


def _shortened(words: str) -> str:
    # What is wrong stands at the beginning, and what to do at the end.
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 155]} ... {words[-150:]}"


def printable(character: str) -> str:
    """A character, or its escape if it cannot be printed."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class VlsegError(Exception):
    """Base of all our errors. The message is complete without a traceback.

    It is one line of at most `LONGEST` characters, whatever it is made of: file names and other content that messages
    quote may be long, or hold line breaks and control characters, which are escaped.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class CheckpointError(VlsegError):
    """A checkpoint that cannot be read, is not what it says, or does not fit the model."""


class ImageError(VlsegError):
    """An image or label file that cannot be used."""


class DatasetError(VlsegError):
    """A data set whose files, names or labels do not fit together."""


class VocabularyError(VlsegError):
    """Category names or a tokenizer that cannot be used."""


class ConfigError(VlsegError):
    """A setting, flag or working directory that cannot be used."""


class DownloadError(VlsegError):
    """A file that could not be fetched."""


class StorageError(VlsegError):
    """A place that cannot be written to: full, read-only or absent."""


def is_of_jax(error: Exception) -> bool:
    """Whether JAX's runtime raised it: another process is lost, for example, or a device out of memory.

    By its name, because what needs no device does not import JAX.
    """
    return type(error).__name__ == "JaxRuntimeError"
