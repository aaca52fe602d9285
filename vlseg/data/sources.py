"""Data sets by the word that a flag or a configuration gives."""

from collections.abc import Iterator
from typing import Any, Protocol

from vlseg.data.folder import Example, FolderDataset
from vlseg.data.tiny_world.dataset import TinyWorldDataset
from vlseg.errors import ConfigError

TINY_WORLD = "tiny_world"


class Dataset(Protocol):
    """Images with label maps and the names of the labels."""

    @property
    def names(self) -> tuple[str, ...]:
        """Category names; a label is an index into them."""

    @property
    def ignore_label(self) -> int:
        """The label that does not count."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...


def open_dataset(source: str, **options: Any) -> Dataset:
    """Opens "tiny_world", or a folder with images, labels and names (see `FolderDataset.open`).

    Args:
        source: "tiny_world" or a path.
        options: fields of `TinyWorldDataset`, or arguments of `FolderDataset.open`.

    Raises:
        ConfigError: an option that the data set does not have.
        DatasetError: the folder is not a data set.
    """
    try:
        if source == TINY_WORLD:
            return TinyWorldDataset(**options)
        return FolderDataset.open(source, **options)
    except TypeError as error:
        raise ConfigError(f"data set {source}: {error}") from error
