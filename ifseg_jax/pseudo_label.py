"""Labels images with a model's own predictions, for self-training or to train another model on them.

python -m ifseg_jax.pseudo_label --checkpoint=MODEL --images=photos/ --out=PSEUDO
python -m ifseg_jax.pseudo_label --checkpoint=MODEL --data=coco_seen:/data/coco --split=train --out=PSEUDO

The first labels every pixel. The second keeps the labels of a data set and labels the other pixels with the categories
that the data set lacks, as when some categories were seen in training and others were not. PSEUDO holds pictures and
labels (`vlseg.data.prepared`) and is taken wherever data is: train IFSeg on it with --config.mode=supervised, or LSeg.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from ifseg_jax.model import IFSeg, load
from vlseg import cli
from vlseg.data import flags as data_flags
from vlseg.data import images as image_files
from vlseg.data import prepared
from vlseg.data.folder import Example
from vlseg.data.sources import Dataset
from vlseg.errors import ConfigError

IGNORED = -1


class Unlabelled:
    """Pictures as a data set without classes."""

    names: tuple[str, ...] = ()
    ignore_label = IGNORED

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        image = image_files.read_image(self.paths[index])
        return Example(image, np.full(image.shape[:2], IGNORED, np.int32), self.paths[index].stem)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def picture_file(self, index: int) -> Path:
        """The file of a picture."""
        return self.paths[index]


class PseudoLabelled:
    """A data set in which a model labels the pixels that count for nothing; a sequence of `Example`.

    Attributes:
        names: the model's categories.
        ignore_label: the label of pixels of which the model is not sure enough.
    """

    ignore_label = IGNORED

    def __init__(self, model: IFSeg, dataset: Dataset, names: Sequence[str], min_probability: float = 0.0) -> None:
        """Labels nothing yet.

        Args:
            model: makes the labels.
            dataset: the examples. Its classes keep their labels, found in `names` by name.
            names: the model's categories. Those that the data set has are not given to other pixels.
            min_probability: a pixel whose best category has less, among those it may have, gets no label.

        Raises:
            ConfigError: a class of the data set is none of the categories, or all of them are.
        """
        strangers = [name for name in dataset.names if name not in names]
        if strangers:
            raise ConfigError(
                f"{len(strangers)} of {len(dataset.names)} classes of the data set are none of the categories: "
                f"{', '.join(strangers[:5])}; name all categories, seen and unseen"
            )
        self.candidates = np.array([index for index, name in enumerate(names) if name not in dataset.names])
        if not len(self.candidates):
            raise ConfigError("the data set has labels for every category: there is nothing to label")
        self.names = tuple(names)
        self._model, self._dataset, self._min_probability = model, dataset, min_probability
        if hasattr(dataset, "picture_file"):
            self.picture_file = dataset.picture_file
        self._kept = np.array([names.index(name) for name in dataset.names] or [IGNORED])

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example:
        example = self._dataset[index]
        allowed = self._model.segment(example.image, self.names).probabilities[..., self.candidates]
        best = self.candidates[np.argmax(allowed, axis=-1)]
        # Among the categories that are allowed here, as if the model had been asked for these alone.
        share = allowed.max(axis=-1) / allowed.sum(axis=-1)
        guessed = np.where(share >= self._min_probability, best, IGNORED)
        known = example.label != self._dataset.ignore_label
        label = np.where(known, self._kept[np.where(known, example.label, 0)], guessed)
        return Example(example.image, label.astype(np.int32), example.name)


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    if bool(options.images) == bool(options.data):
        raise ConfigError("give pictures as --images, or a labelled data set as --data: one of the two")
    prepared.check_absent(options.out)
    dataset: Dataset
    if options.images:
        dataset = Unlabelled(image_files.list_checked_images(options.images))
    else:
        dataset = data_flags.open_data(options)
    model = load(options.checkpoint, tokenizer=options.tokenizer)
    labelled = PseudoLabelled(model, dataset, model.named(options.labels), options.min_probability)
    count = prepared.write(labelled, options.out)
    print(f"wrote {count:,} labelled images to {options.out}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "checkpoint", "tiny", "tiny, ofa_base (or another size), a .pt or a model directory; gs://... too."
    )
    flags.DEFINE_string("tokenizer", None, "Directory or hub name of a tokenizer; not needed for tiny.")
    flags.DEFINE_string("images", None, "A file, a directory, a pattern, or several with commas.")
    data_flags.define(required=False)
    flags.DEFINE_string("labels", None, "All categories with commas, or in a file; default: the model's.")
    flags.DEFINE_float("min_probability", 0.0, "Less than this gives no label.", lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_string("out", None, "A new folder.", required=True)
    cli.run(main)
