"""Data sets by the word that a flag or a configuration gives."""

import contextlib
import contextvars
import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from absl import flags

from vlseg import distributed, fields, files, paths
from vlseg.data import catalog
from vlseg.data.catalog.entry import EVALUATION
from vlseg.data.examples import Example
from vlseg.data.formats import tools
from vlseg.data.formats.folder import open_folder
from vlseg.data.formats.prepared import is_prepared, open_prepared
from vlseg.data.formats.tfds import PREFIX, open_tfds, parse_source
from vlseg.data.listing import Listing, announce, define_strict, split_list
from vlseg.data.orientation import RAW, TURNED
from vlseg.data.tiny_world import TinyWorldDataset
from vlseg.errors import ConfigError, DatasetError

TINY_WORLD = "tiny_world"
MODEL = "model"
"""What every run calls the model that it leaves."""

READING = (
    *("strict", "ignore_label", "label_offset", "ignore_zero", "label_orientation"),
    *("names", "image_feature", "label_feature"),
)
"""Flags that say how the labels of a data set are read."""

# They belong to the command that calls `define_flags`, so its --help shows them.
flags.disclaim_key_flags()


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


def open_dataset(source: str, strict: bool = False, **options: Any) -> Dataset:
    """Opens a data set.

    Args:
        source: "tiny_world"; NAME:ROOT or NAME:ROOT:SPLIT with a name of `vlseg.data.catalog` and the folder it was
            unpacked into; tfds:NAME:DATA_DIR or tfds:NAME:DATA_DIR:SPLIT with a data set that TFDS prepared, see
            `vlseg.data.formats.tfds`; the path, also in a bucket, of a prepared data set (`vlseg.data.prepare`);
            coco:, labelme:, cvat: or roboflow: and the path of annotations, with a second colon that of their
            pictures, see `vlseg.data.formats`; or the path of such annotations, or of a folder with images, labels and
            names.
        strict: whether files that are not read are an error.
        options: fields of `TinyWorldDataset`; "split" and "label_orientation" of the catalog's; or arguments of
            `open_tfds`, `open_folder` or `tools.open_annotated`.

    Raises:
        ConfigError: an option that the data set does not have, or lacks; or no such name.
        DatasetError: the folder is not a data set, or not all of it.
    """
    for part in (source, *source.split(":")):
        paths.check_reachable(part, DatasetError)
    dataset = _open(source, options)
    if listing := listing_of(dataset):
        listing.check(strict)
    return dataset


def listing_of(dataset: Dataset) -> Listing | None:
    """What the place of a data set holds and is not read, where that is known."""
    listing: Listing | None = getattr(dataset, "listing", None)
    return listing


def announced(dataset: Dataset) -> Dataset:
    """The data set, of which one process prints what is left out."""
    # Asked like this, a process that works alone does not start the accelerator.
    if not jax.distributed.is_initialized() or distributed.is_main():
        announce(listing_of(dataset))
    return dataset


def _open(source: str, options: dict[str, Any]) -> Dataset:
    found = kind(source)
    allowed = OPTIONS[found]
    strange = sorted(set(options) - set(allowed))
    if strange:
        raise ConfigError(
            f"data set {source}: has no option {', '.join(strange)}; it has {', '.join(allowed) or 'none'}"
        )
    for name, hint in _HINTS.items():
        if name in options and found != TINY_WORLD:
            fields.check_value(options[name], hint, f"data set {source}: {name}")
    if found == TINY_WORLD:
        return TinyWorldDataset(**options)
    if found == "catalog":
        return _named(source, **options)
    if found == "tfds":
        return open_tfds(source.removeprefix(PREFIX), **options)
    if found == "prepared":
        return open_prepared(source)
    if found in tools.READERS:
        annotated: Dataset = tools.open_annotated(found, source, **options)
        return annotated
    _check_local(source)
    return open_folder(source, **options)


_HINTS: dict[str, Any] = {"ignore_label": int | None, "label_offset": int, "ignore_zero": bool}
_COUNTING = ("ignore_label", "label_offset", "ignore_zero", "label_orientation")
OPTIONS = {
    TINY_WORLD: tuple(field.name for field in dataclasses.fields(TinyWorldDataset)),
    "catalog": ("split", "label_orientation"),
    "tfds": ("split", "image_feature", "label_feature", "names", *_COUNTING),
    "prepared": (),
    "coco": ("label_orientation",),
    "labelme": ("names", "label_orientation"),
    "cvat": ("label_orientation",),
    "roboflow": ("label_orientation",),
    "folder": ("images", "labels", "names", *_COUNTING),
}
"""What each kind of data set can be told."""


def _named(source: str, split: str = EVALUATION, label_orientation: str = "") -> Dataset:
    """A data set of the catalog from NAME:ROOT or NAME:ROOT:SPLIT."""
    name, _, root = source.partition(":")
    entry = catalog.entry(name)
    before, _, last = root.rpartition(":")
    if before and last in entry.splits:
        root, split = before, last
    if not root:
        raise ConfigError(f"{name} needs the folder that it was unpacked into: write {name}:FOLDER")
    _check_local(root)
    return entry.open(Path(root).expanduser(), split, label_orientation)


def names_split(source: str) -> bool:
    """Whether a source says itself which split is read: NAME:ROOT:SPLIT of the catalog, or the same of TFDS."""
    if source.startswith(PREFIX):
        return bool(parse_source(source.removeprefix(PREFIX))[2])
    name, _, root = source.partition(":")
    before, _, last = root.rpartition(":")
    return name in catalog.ENTRIES and bool(before) and last in catalog.ENTRIES[name].splits


def _check_local(root: str) -> None:
    if files.is_remote(root):
        raise ConfigError(f"{root} is no local folder: mount the bucket, or copy the data set to a local disk")
    name = root.partition(":")[0]
    if ":" in root and not Path(root).exists():
        near = difflib.get_close_matches(name.lower(), catalog.ENTRIES, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "python -m vlseg.data.list shows them"
        raise ConfigError(f"{root}: there is no such folder, and no data set is called {name!r}; {hint}")


def kind(source: str) -> str:
    """How a source of `open_dataset` is read: a key of OPTIONS."""
    if source == TINY_WORLD:
        return TINY_WORLD
    if source.partition(":")[0] in catalog.ENTRIES:
        return "catalog"
    if source.startswith(PREFIX):
        return "tfds"
    # Nothing else is read from buckets, so none has to be asked.
    if files.is_remote(source) or is_prepared(source):
        return "prepared"
    return next((name for name in tools.READERS if source.startswith(f"{name}:")), "") or tools.recognised(Path(source))


def without_folders(sources: str) -> str:
    """What stays when data and files are moved: NAME and SPLIT of a data set, and of any other path its last part.

    Args:
        sources: as for `open_dataset`, or several with commas; or the path of any file. The model of a run,
            WORKDIR/model, keeps the name of its run.
    """
    return ",".join(_without_folder(source.strip()) for source in sources.split(","))


def _without_folder(source: str) -> str:
    name, colon, root = source.partition(":")
    if colon and name in tools.READERS:
        return ":".join([name, *(Path(part).name for part in root.split(":"))])
    if not colon or name not in catalog.ENTRIES:
        path = Path(source)
        return path.name if path.name != MODEL else "/".join(path.parts[-2:])
    _, split_colon, split = root.rpartition(":")
    return f"{name}:{split}" if split_colon and split in catalog.ENTRIES[name].splits else name


def split_sources(sources: str) -> list[str]:
    """Several sources with commas; one that exists may have commas in its name."""
    return split_list(sources, _is_there)


def _is_there(source: str) -> bool:
    if os.path.exists(source):
        return True
    name, _, root = source.partition(":")
    if name not in (*catalog.ENTRIES, *tools.READERS, PREFIX.rstrip(":")):
        return False
    before, _, last = root.rpartition(":")
    has_split = "," not in last and os.path.exists(before)
    return has_split or all(map(os.path.exists, root.split(":")))


def open_section(source: str, section: Mapping[str, Mapping[str, Any]]) -> Dataset:
    """Opens a data set with the options that a section of a configuration has for its kind, see `open_dataset`.

    One process prints what is left out. Within `opened_once` what was opened already is given again.
    """
    found = kind(source)
    options = {"strict": bool(section.get("strict", False)), **section.get(found, {})}
    if found in tools.READERS:  # they have no section of their own
        options["label_orientation"] = section.get("folder", {}).get("label_orientation", "")
    kept, key = _opened.get(), (source, repr(sorted(options.items())))
    if kept is None:
        return announced(open_dataset(source, **options))
    if key not in kept:
        kept[key] = announced(open_dataset(source, **options))
    return kept[key]


_opened: contextvars.ContextVar[dict[Any, Dataset] | None] = contextvars.ContextVar("opened", default=None)


@contextlib.contextmanager
def opened_once() -> Iterator[None]:
    """Data sets that are opened in the block by `open_section` are opened once: a large one takes seconds to list."""
    token = _opened.set({})
    try:
        yield
    finally:
        _opened.reset(token)


def define_flags(required: bool = True) -> None:
    """Defines --data, which may be left out if it is not `required`, and what `define_reading` does."""
    flags.DEFINE_string(
        "data",
        None,
        "A folder with images/, labels/ and names.txt; NAME:ROOT of the catalog (python -m vlseg.data.list); "
        "coco:FILE.json, labelme:FOLDER or cvat:FILE.xml, each also with :PICTURES; roboflow:FOLDER; "
        "tfds:NAME:DATA_DIR; what vlseg.data.prepare wrote, also to gs://; or tiny_world.",
        required=required,
    )
    flags.DEFINE_string(
        "split", None, "Of the catalog, TFDS or the tiny world; default: the one that scores are published of."
    )
    define_reading()


def define_reading() -> None:
    """Defines the flags that say how the labels of a data set are read, and --strict."""
    define_strict()
    flags.DEFINE_integer("ignore_label", 255, "Value of pixels that do not count.")
    flags.DEFINE_integer("label_offset", 0, "Id of the first category, if the files do not count from 0.")
    flags.DEFINE_bool("ignore_zero", False, "0 is ignored and categories count from 1, as in ADE20K's files.")
    flags.DEFINE_enum(
        "label_orientation",
        None,
        [RAW, TURNED],
        "What labels were made of where EXIF turns photographs to the same size: these as files store them, or as they "
        "are shown.",
    )
    flags.DEFINE_string(
        "names",
        None,
        "A folder's file of category names (default: names.txt); those of tfds: and labelme: with commas or as a file.",
    )
    flags.DEFINE_string("image_feature", None, "Of tfds: the feature with the picture, where there are several.")
    flags.DEFINE_string("label_feature", None, "Of tfds: the feature with the labels, where there are several.")


def given(options: Any, *names: str) -> dict[str, Any]:
    """Those of some flags that the command line has."""
    return {name: options[name].value for name in names if options[name].present}


def open_given(options: Any, split: str = "") -> Dataset:
    """The data set that the flags name, or another `split` of it; prints what is left out."""
    chosen = {"split": split} if split else given(options, "split")
    if options.split and names_split(options.data):
        raise ConfigError(f"--data={options.data} names the split, and so does --split={options.split}: leave one out")
    return announced(open_dataset(options.data, **chosen, **given(options, *READING)))
