"""Data sets of TensorFlow Datasets (TFDS) that are stored as ArrayRecord, read without TensorFlow.

A source is `tfds:NAME:DATA_DIR` or `tfds:NAME:DATA_DIR:SPLIT`. NAME is as in TFDS, with its configuration if it has
several ("cityscapes/semantic_segmentation"), and may end with a version ("scene_parse150/1.0.0"; by default the
newest). SPLIT may be a part ("train[:90%]") or a sum ("train+validation").
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlseg import files
from vlseg.data import catalog, decoding
from vlseg.data.catalog.entry import EVALUATION, table
from vlseg.data.catalog.scenes import ADE20K, CITYSCAPES, CITYSCAPES_CLASSES, CITYSCAPES_VOID
from vlseg.data.decoding import Converter
from vlseg.data.examples import IGNORE_LABEL, Encoded, RecordDataset
from vlseg.data.images import decode_image, decode_label
from vlseg.data.orientation import check_rule
from vlseg.errors import ConfigError, DatasetError, VocabularyError, one_line
from vlseg.labels import check_names, names_from
from vlseg.labels.binding import NO_CLASS, bind

PREFIX = "tfds:"
INFO_FILE = "dataset_info.json"
FILE_FORMAT = "array_record"
IGNORE_KEY = "ignore_label"
"""What the metadata of a data set may say of pixels that do not count."""

_EVALUATION_SPLITS = ("validation", "val", "test")
_INSTALL = 'data sets of TFDS need tensorflow-datasets: pip install "vlseg-jax[tfds]"'
_NAME_FEATURES = ("file_name", "filename", "image_id", "image/filename", "image/id", "id")


class Labels(NamedTuple):
    """What the numbers in a label map mean: `convert` gives ids, which index `names` or are `ignore_label`."""

    names: tuple[str, ...]
    ignore_label: int
    convert: Converter


class Known(NamedTuple):
    """What the features of a data set of TFDS do not say: where its labels are and what they mean.

    `evaluation` is the split that scores are published of, `red` whether only the red of a label map is the label.
    """

    image: str
    label: str
    labels: Labels
    evaluation: str
    red: bool = False


class Fields(NamedTuple):
    """The features that are read: picture, label map and, where there is one, name."""

    image: str
    label: str
    name: str | None


def _instances() -> dict[int, int]:
    """ADE20K's 100 classes of objects as its instance annotations number them -> ids among all 150."""
    numbers, names = table("ade20k_instances_100")
    return {number: ADE20K.classes.names.index(name) for number, name in zip(numbers, names, strict=True)}


def _known_labels(entry: catalog.Entry, ids: Mapping[int, int]) -> Labels:
    return Labels(entry.classes.prompts, entry.ignore_label, decoding.lookup(ids))


KNOWN = {
    # Its label maps are those of instances: red is one of 100 classes, and walls, skies and the like are 0.
    "scene_parse150": Known(
        "image", "annotation", _known_labels(ADE20K, {0: ADE20K.ignore_label, **_instances()}), "test", red=True
    ),
    "cityscapes": Known(
        "image_left",
        "segmentation_label",
        _known_labels(CITYSCAPES, decoding.by_value(CITYSCAPES_CLASSES.values, CITYSCAPES_VOID)),
        "validation",
    ),
}
"""By the name that TFDS gives them."""


def library() -> Any:
    """The module `tensorflow_datasets`; ConfigError if it is not installed."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ConfigError(f"{_INSTALL} ({one_line(error)})") from error
    return tensorflow_datasets


def open_tfds(
    source: str,
    split: str = EVALUATION,
    image_feature: str = "",
    label_feature: str = "",
    names: str = "",
    ignore_label: int | None = None,
    label_offset: int = 0,
    ignore_zero: bool = False,
    label_orientation: str = "",
) -> RecordDataset:
    """Opens what TFDS prepared; reads no example.

    Args:
        source: NAME:DATA_DIR or NAME:DATA_DIR:SPLIT.
        split: where `source` has none; "evaluation" is the one that scores are published of, as far as known.
        image_feature, label_feature: where they are; by default the only ones of their kind.
        names: category names as `names_from` takes them, for a data set that gives none.
        ignore_label, label_offset, ignore_zero: as in `open_folder`, for a data set that is not KNOWN. By
            default the data set's metadata says what does not count, and without that it is 255.
        label_orientation: as in `open_folder`.

    Raises:
        ConfigError: tensorflow-datasets is missing, or an option does not fit the data set.
        DatasetError: there is no such data set or split, it is not stored as ArrayRecord, or is damaged.
    """
    tfds = library()
    name, data_dir, given = parse_source(source)
    builder = _builder(tfds, name, data_dir)
    features = dict(sorted(builder.info.features.items()))
    known = _known(builder.name, features)
    if known:
        image_feature, label_feature = image_feature or known.image, label_feature or known.label
    found = _fields(tfds, name, features, image_feature, label_feature)
    known_label = known if known and found.label == known.label else None
    if names or not known_label:
        by_default = (builder.info.metadata or {}).get(IGNORE_KEY, IGNORE_LABEL)
        ignore_label = by_default if ignore_label is None else ignore_label
        named = _names(name, features[found.label], names)
        convert = decoding.counted(name, named, ignore_label, label_offset, ignore_zero)
        labels = Labels(named, ignore_label, convert)
    elif ignore_label in (None, IGNORE_LABEL) and not label_offset and not ignore_zero:
        labels = known_label.labels
    else:
        raise ConfigError(f"{name}: what its labels mean is known; to read them in another way, also give their names")
    split = given or _split(builder, name, split, known)
    records = _records(tfds, builder, name, split)
    red = known_label is not None and known_label.red

    def decode(stored: Any, name: str) -> NDArray[np.int32]:
        return labels.convert(_numbers(stored, name, red), name)

    unpack, rule = _unpacker(tfds, features, found), check_rule(label_orientation)
    evidence = getattr(labels.convert, "evidence", None)
    return RecordDataset(labels.names, labels.ignore_label, records, unpack, decode, rule, evidence)


def _unpacker(tfds: Any, features: Mapping[str, Any], found: Fields) -> Callable[[bytes, int], Encoded]:
    """From a record and its number to an example, pictures as they are encoded.

    TFDS would decode all features, and 16-bit pictures only with OpenCV.
    """
    wanted = {key: features[key] for key in found if key}
    pictures = [key for key, feature in wanted.items() if isinstance(feature, tfds.features.Image)]
    parser, decoders = tfds.features.FeaturesDict(wanted), {key: tfds.decode.SkipDecoding() for key in pictures}

    def unpack(record: bytes, index: int) -> Encoded:
        values = parser.deserialize_example_np(record, decoders=decoders)
        name = values[found.name].decode() if found.name else f"{index:06d}"
        return Encoded(values[found.image], values[found.label], name)

    return unpack


def parse_source(source: str) -> tuple[str, str, str]:
    """Name, folder and split ("" if there is none) from NAME:DATA_DIR or NAME:DATA_DIR:SPLIT."""
    name, _, data_dir = source.partition(":")
    # The split may hold a colon, as in "train[:90%]".
    parts = re.fullmatch(r"(.+?):(\w+(?:\[[^\]]*\])?(?:\+.+)?)", data_dir)
    split = ""
    if parts and not Path(data_dir).expanduser().is_dir():
        data_dir, split = parts[1], parts[2]
    if not name or not data_dir:
        raise ConfigError(f"{PREFIX}{source}: write {PREFIX}NAME:DATA_DIR or {PREFIX}NAME:DATA_DIR:SPLIT")
    return name, data_dir, split


def _builder(tfds: Any, name: str, data_dir: str) -> Any:
    """The data set's description, from its files."""
    if files.is_remote(data_dir):
        raise ConfigError(f"{data_dir} is no local folder, and the ArrayRecord files of TFDS can be read from one only")
    folder = _prepared_folder(name, Path(data_dir).expanduser())
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # the library raises several kinds on damaged files
        raise DatasetError(f"{folder}: cannot be read by TFDS: {one_line(error)}") from error
    stored = builder.info.file_format.file_suffix
    if stored != FILE_FORMAT:
        raise DatasetError(
            f"{folder}: is stored as {stored}, which needs TensorFlow; {_how_to_prepare(name, data_dir)}"
        )
    return builder


def _prepared_folder(name: str, data_dir: Path) -> Path:
    """The folder of the newest version of a data set."""
    root = data_dir / name
    if (root / INFO_FILE).is_file():
        return root
    configurations: dict[str, list[Path]] = {}
    for info in (*root.glob(f"*/{INFO_FILE}"), *root.glob(f"*/*/{INFO_FILE}")):
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name):
            configurations.setdefault(info.parent.parent.relative_to(data_dir).as_posix(), []).append(info.parent)
    if not configurations:
        raise DatasetError(f"{data_dir}: holds no data set {name}; {_how_to_prepare(name, data_dir)}")
    if len(configurations) > 1 and name not in configurations:
        raise DatasetError(f"{root}: has several configurations; name one: {', '.join(sorted(configurations))}")
    versions = configurations.get(name) or next(iter(configurations.values()))
    return max(versions, key=lambda folder: tuple(map(int, folder.name.split("."))))


def _how_to_prepare(name: str, data_dir: str | Path) -> str:
    return (
        'prepare it with TFDS (and TensorFlow): python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{data_dir}', file_format='{FILE_FORMAT}').download_and_prepare()\""
    )


def _known(name: str, features: Mapping[str, Any]) -> Known | None:
    """What is known of a data set, unless it is another one of that name."""
    known = KNOWN.get(name)
    is_official = known and {known.image, known.label} <= set(features) and not hasattr(features[known.label], "names")
    return known if is_official else None


def _fields(tfds: Any, name: str, features: Mapping[str, Any], image: str, label: str) -> Fields:
    """The features to read."""
    labelled = [key for key in features if isinstance(features[key], tfds.features.LabeledImage)]
    labels = labelled if len(labelled) == 1 else [key for key in features if _may_be_labels(tfds, features[key])]
    images = [key for key in features if _may_be_picture(tfds, features[key])]
    return Fields(
        _chosen(name, features, image, images, "image_feature", "picture"),
        _chosen(name, features, label, labels, "label_feature", "label map"),
        next((key for key in _NAME_FEATURES if isinstance(features.get(key), tfds.features.Text)), None),
    )


def _chosen(name: str, features: Mapping[str, Any], given: str, found: Sequence[str], option: str, what: str) -> str:
    """The feature that is given, or else the only one found."""
    if given and given not in features:
        raise ConfigError(f"{name}: has no feature {given}; it has {', '.join(features)}")
    if not given and len(found) != 1:
        problem = f"any of {', '.join(found)} may be its {what}" if found else f"no feature is plainly a {what}"
        raise ConfigError(f"{name}: {problem}; name it with {option}, among {', '.join(features)}")
    return given or found[0]


def _may_be_labels(tfds: Any, feature: Any) -> bool:
    """Whether a feature holds whole numbers [H, W] or [H, W, 1]."""
    shape = _pixel_shape(tfds, feature)
    return shape is not None and (len(shape) == 2 or shape[2] == 1) and np.issubdtype(feature.np_dtype, np.integer)


def _may_be_picture(tfds: Any, feature: Any) -> bool:
    """Whether a feature holds colours uint8 [H, W, 3]."""
    shape = _pixel_shape(tfds, feature)
    return shape is not None and len(shape) == 3 and shape[2] == 3 and feature.np_dtype == np.uint8


def _pixel_shape(tfds: Any, feature: Any) -> tuple[int | None, ...] | None:
    """The shape of a feature that may hold pixels."""
    if not isinstance(feature, tfds.features.Image | tfds.features.Tensor) or len(feature.shape) not in (2, 3):
        return None
    return tuple(feature.shape)


def _names(name: str, feature: Any, given: str) -> tuple[str, ...]:
    found = tuple(feature.names) if getattr(feature, "num_classes", None) else ()
    # TFDS makes numbers of names that it does not have.
    nameless = not found or found == tuple(map(str, range(len(found))))
    if given:
        words = names_from(given, pairs=True)
        if nameless:
            return words
        try:
            bound = bind(found, words, what="names")
        except VocabularyError as error:
            raise ConfigError(f"{name}: {error}") from error
        if NO_CLASS in bound.classes:
            strange = bound.words[bound.classes.index(NO_CLASS)]
            raise ConfigError(f"{name}: has no class {strange!r}: leave it out of the names")
        words = tuple(bound.words[index] for index in bound.places(len(found)))
        return check_names(words, source=name, ignore_case=False)
    if nameless:
        raise ConfigError(
            f"{name}: does not say what its classes are called; give their names, with commas or as a file of them"
        )
    return check_names(found, source=name, ignore_case=False)


def _split(builder: Any, name: str, split: str, known: Known | None) -> str:
    """The split that is asked for, or the one that scores are published of."""
    splits = list(builder.info.splits)
    if split != EVALUATION or EVALUATION in splits:
        return split
    official = catalog.ENTRIES[builder.name].evaluation if builder.name in catalog.ENTRIES else ""
    wanted = (known.evaluation if known else official, *_EVALUATION_SPLITS)
    found = [candidate for candidate in wanted if candidate in splits] or splits
    if found is splits and len(splits) != 1:
        raise ConfigError(f"{name}: name a split: {', '.join(splits)}")
    return found[0]


def _records(tfds: Any, builder: Any, name: str, split: str) -> Sequence[bytes]:
    try:
        records: Sequence[bytes] = builder.as_data_source(
            split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except Exception as error:  # ValueError for a split that is not there, and several kinds on damaged files
        splits = ", ".join(builder.info.splits)
        raise DatasetError(f"{name}: cannot read split {split!r} (it has {splits}): {one_line(error)}") from error
    return records


def _numbers(stored: Any, name: str, red: bool) -> NDArray[np.int32]:
    """The numbers of a label map [H, W], from pixels or from a PNG, there the `red` ones of its colours."""
    if not isinstance(stored, bytes):
        if stored.min() < 0 or stored.max() > decoding.MAX_VALUE:
            raise DatasetError(
                f"{name}: has labels {stored.min()} to {stored.max()}; they are 0 to {decoding.MAX_VALUE}"
            )
        return stored.reshape(stored.shape[:2]).astype(np.int32)
    return decode_image(stored, name)[..., 0].astype(np.int32) if red else decode_label(stored, name)
