"""Errors that a user can act on.

Every error raised on purpose by this project derives from `VlsegError`. Its message is one line that says what is
wrong and what to do; the commands print that line on stderr and exit with code 2 (see `vlseg.cli`).
"""


def one_line(error: BaseException) -> str:
    """The words of another library's error, for a message of ours."""
    return " ".join(str(error).split())


class VlsegError(Exception):
    """Base of all our errors. The message is one line, complete without a traceback."""


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
