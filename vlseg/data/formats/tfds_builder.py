"""Writes data sets for TensorFlow Datasets (TFDS), as ArrayRecord and without TensorFlow.

What `write` leaves is read by `tfds.data_source(NAME, data_dir=...)` where nothing of this package is known, and by
`vlseg.data.formats.tfds`. (`tfds.load` reads no ArrayRecord, and what it reads cannot be written without TensorFlow.)
Features: `image`, `segmentation_label` with the names of the classes, and `file_name`. The number of pixels that do not
count is `ignore_label` in the metadata. The labels of more than 255 classes have 16 bits, for which TFDS needs OpenCV.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlseg import files
from vlseg.data.formats.prepared import label_bytes, label_dtype, largest, picture_bytes, png_bytes
from vlseg.data.formats.tfds import FILE_FORMAT, IGNORE_KEY, library
from vlseg.data.images import is_plain
from vlseg.errors import ConfigError, VlsegError
from vlseg.progress import Progress

VERSION = "1.0.0"
RESERVED = "all"
"""What TFDS calls all splits together."""


def write(splits: Mapping[str, Any], data_dir: str | os.PathLike[str], name: str) -> int:
    """Writes the splits of a data set; whole or not at all.

    Pictures keep the bytes of their files where these are JPEG or PNG files that every reader shows alike; else they
    become PNG. Examples keep their order.

    Args:
        splits: data sets of `vlseg.data.sources` by the names of the splits, of the same classes.
        data_dir: a folder for data sets of TFDS, which may hold others.
        name: of the data set; a new folder in `data_dir`.

    Returns:
        The number of examples.

    Raises:
        ConfigError: tensorflow-datasets is missing, or does not allow a name.
        DatasetError, ImageError: an example cannot be read.
        StorageError: there is a data set of that name, or the place cannot be written.
    """
    tfds = library()
    _check_names(tfds, name, splits)
    count = sum(map(len, splits.values()))
    bar = Progress(count, "write", "example")
    with files.output_directory(data_dir) as root, bar, files.atomic_directory(root / name) as folder:
        failures: list[Exception] = []
        builder = _builder_class(tfds, name, splits, bar, failures)(data_dir=folder, file_format=FILE_FORMAT)
        # TFDS says much, and has bars of its own.
        tfds.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        except Exception as error:
            # TFDS wraps what an example that cannot be read raises.
            raise (failures or [error])[0] from None
        # The folder has the name already.
        os.rename(folder / name / VERSION, folder / VERSION)
        (folder / name).rmdir()
    return count


def _builder_class(tfds: Any, name: str, splits: Mapping[str, Any], bar: Any, failures: list[Exception]) -> Any:
    """The class that TFDS wants; of the library that is imported when it is needed only.

    Args:
        splits: see `write`. bar: moves on with each example. failures: takes the error of one that cannot be read.
    """
    first = next(iter(splits.values()))
    names, dtype = list(first.names), label_dtype(first)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version(VERSION)
        # TFDS would look for checksums of downloads beside this file, with a package that it does not declare.
        code_path = None

        def _info(self) -> Any:
            ignored = largest(dtype)
            label = tfds.features.LabeledImage(labels=names, dtype=dtype.type, encoding_format="png")
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Pictures and label maps, in which {ignored} stands for pixels that do not count.",
                features=tfds.features.FeaturesDict(
                    {"image": tfds.features.Image(), "segmentation_label": label, "file_name": tfds.features.Text()}
                ),
                supervised_keys=("image", "segmentation_label"),
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict({IGNORE_KEY: ignored}),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            dataset = splits[split]
            for index in range(len(dataset)):
                try:
                    example = dataset[index]
                    encoded = picture_bytes(dataset, index, example.image)
                    image = encoded if is_plain(encoded) else png_bytes(example.image)
                except VlsegError as error:
                    failures.append(error)
                    raise
                label = label_bytes(dataset, example.label, dtype)
                yield index, {"image": image, "segmentation_label": label, "file_name": example.name}
                bar.update()

    Builder.name = name
    return Builder


def _check_names(tfds: Any, name: str, splits: Mapping[str, Any]) -> None:
    """Raises ConfigError for names that TFDS does not allow or has given away."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{name!r} cannot be the name of a data set of TFDS: use small letters, digits and _")
    if name in tfds.list_builders(with_community_datasets=False):
        raise ConfigError(f"TFDS has a data set of its own that is called {name}: give another name")
    if RESERVED in splits:
        raise ConfigError(f"TFDS calls all splits together {RESERVED!r}: no split can have that name")
