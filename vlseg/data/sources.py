"""Data sets by the word that a flag or a configuration gives."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from vlseg.data import catalog
from vlseg.data.folder import Example, FolderDataset
from vlseg.data.prepared import PreparedDataset, is_prepared
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
    """Opens a data set.

    Args:
        source: "tiny_world"; NAME:ROOT with a name of `vlseg.data.catalog` and the folder it was unpacked into; the
            path of a prepared data set (`vlseg.data.prepare`); or of a folder with images, labels and names.
        options: fields of `TinyWorldDataset`; "split" of the catalog's; or arguments of `FolderDataset.open`.

    Raises:
        ConfigError: an option that the data set does not have, or lacks.
        DatasetError: the folder is not a data set, or not all of it.
    """
    name, _, root = source.partition(":")
    openers: dict[str, Callable[..., Dataset]] = {
        TINY_WORLD: TinyWorldDataset,
        "catalog": functools.partial(catalog.open_named, name, root),
        "prepared": functools.partial(PreparedDataset.open, source),
        "folder": functools.partial(FolderDataset.open, source),
    }
    try:
        return openers[kind(source)](**options)
    except TypeError as error:
        raise ConfigError(f"data set {source}: {error}") from error


def kind(source: str) -> str:
    """How a source of `open_dataset` is read: "tiny_world", "catalog", "prepared" or "folder"."""
    if source == TINY_WORLD:
        return TINY_WORLD
    if source.partition(":")[0] in catalog.ENTRIES:
        return "catalog"
    return "prepared" if is_prepared(source) else "folder"


def open_section(source: str, section: Mapping[str, Mapping[str, Any]]) -> Dataset:
    """Opens a data set with the options that a section of a configuration has for its kind, see `open_dataset`."""
    return open_dataset(source, **section.get(kind(source), {}))
