"""Labels images with a model's own predictions, for self-training or to train another model on them.

With --images every pixel is labelled. With --data the labels of a data set are kept, and the other pixels are labelled
with the labels that the data set lacks, as when some were seen in training and others were not. PSEUDO holds pictures
and labels (`vlseg.data.formats.prepared`) and is taken wherever data is. A run that was stopped goes on where it was.
"""

import dataclasses
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from absl import flags

from vlseg import cli, files, storage
from vlseg.commands import models
from vlseg.commands.journal import Journal, identity
from vlseg.data import images as image_files
from vlseg.data.examples import IGNORED, Example, LazySequence
from vlseg.data.formats import prepared
from vlseg.data.listing import list_checked_images
from vlseg.data.sources import READING, Dataset, define_flags, given, open_given
from vlseg.errors import ConfigError, StorageError, VocabularyError
from vlseg.evaluation.finite import check_scores, naming
from vlseg.labels import names_from
from vlseg.labels.binding import NO_CLASS, bind, explanation
from vlseg.packages import Package
from vlseg.segmenter import Segmenter

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


class Unlabelled(LazySequence[Example]):
    """Pictures as a data set without classes."""

    names: tuple[str, ...] = ()
    ignore_label = IGNORED

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def _read(self, index: int) -> Example:
        image = image_files.read_image(self.paths[index])
        return Example(image, np.full(image.shape[:2], IGNORED, np.int32), self.paths[index].stem)

    def picture_file(self, index: int) -> Path:
        """The file of a picture."""
        return self.paths[index]


class PseudoLabelled(LazySequence[Example]):
    """A data set in which a model labels the pixels that count for nothing; a sequence of `Example`.

    Attributes:
        names: the model's labels.
        binding: which of them stand for the classes of the data set.
        ignore_label: the label of pixels of which the model is not sure enough.
    """

    ignore_label = IGNORED

    def __init__(self, model: Segmenter, dataset: Dataset, names: Sequence[str], min_probability: float = 0.0) -> None:
        """Labels nothing yet.

        Args:
            model: makes the labels.
            dataset: the examples. Its classes keep their labels, found in `names` by `vlseg.labels.binding`.
            names: of the model's labels, where "name=word" has another word for a class of the data set. Those that the
                data set has are not given to other pixels.
            min_probability: a pixel whose best label has less, among those it may have, gets no label.

        Raises:
            ConfigError: a class of the data set is none of the labels, or all of them are. VocabularyError: labels that
                the model cannot use.
        """
        try:
            self.binding = bind(dataset.names, names, places=False)
        except VocabularyError as error:
            raise ConfigError(f"{error}; name all labels, seen and unseen") from error
        self.candidates = np.flatnonzero(np.array(self.binding.classes) == NO_CLASS)
        if not len(self.candidates):
            raise ConfigError("the data set has pixels of every label: there is nothing to label")
        self.names = model.names(self.binding.words)
        self._model, self._dataset, self._min_probability = model, dataset, min_probability
        self._embeddings = model.embed(self.names)
        if hasattr(dataset, "picture_file"):
            self.picture_file = dataset.picture_file
        self._kept = np.append(self.binding.places(len(dataset.names)), IGNORED)

    def __len__(self) -> int:
        return len(self._dataset)

    def unlabelled(self, index: int) -> Example:
        """The example as the data set has it."""
        return self._dataset[index]

    def stamp(self, index: int) -> str:
        """A text that changes when the files of the example do; "" if the data set has none."""
        pairs = getattr(self._dataset, "pairs", None)
        read = pairs[index][:2] if pairs else [self.picture_file(index)] if hasattr(self, "picture_file") else []
        return " ".join(map(identity, read))

    def _read(self, index: int) -> Example:
        example = self._dataset[index]
        wanted = [self._model.inference]
        ((_, (scores,)),) = self._model.score_each([example], lambda one: one.image, self._embeddings, wanted)
        # Among the labels that are allowed here, as if the model had been asked for these alone.
        with naming(example.name):
            best, share = scores.most_probable(self.candidates)
        check_scores(example.name, np.where(best < 0, np.nan, 0.0))  # a share may be 0 of 0
        guessed = np.where(share >= self._min_probability, best, IGNORED)
        known = example.label != self._dataset.ignore_label
        label = np.where(known, self._kept[np.where(known, example.label, 0)], guessed)
        return Example(example.image, label.astype(np.int32), example.name)


class Resumed(LazySequence[Example]):
    """A data set that a model labels, whose label maps are kept in a folder until all is done.

    Attributes:
        names, ignore_label: as of `PseudoLabelled`.
    """

    ignore_label = IGNORED

    def __init__(self, labelled: PseudoLabelled, folder: Path, settings: Mapping[str, Any]) -> None:
        """Reads nothing yet; `settings` are all that labels depend on, see `Journal`."""
        self.names = labelled.names
        if hasattr(labelled, "picture_file"):
            self.picture_file = labelled.picture_file
        self._labelled, self._folder, self._journal = labelled, folder, Journal(folder, settings)
        if self._journal.entries:
            print(f"going on: {len(self._journal.entries)} of {len(labelled)} were labelled", file=sys.stderr)

    def __len__(self) -> int:
        return len(self._labelled)

    def _read(self, index: int) -> Example:
        path, key = self._folder / f"{index}.npz", f"{index} {self._labelled.stamp(index)}"
        if key in self._journal.entries:
            example = self._labelled.unlabelled(index)
            return example._replace(label=np.load(path)["label"])
        example = self._labelled[index]
        with files.atomic_file(path) as file:
            np.savez_compressed(file, label=example.label)
        self._journal.add(key, {})
        return example


def unfinished(out: str) -> Path:
    """The folder with what has been done so far for `out`, which is written at the end only."""
    if files.is_remote(out):
        return files.cache_directory() / "unfinished" / hashlib.sha256(out.encode()).hexdigest()[:16]
    target = Path(os.path.abspath(out))
    return target.with_name(f".{target.name}.unfinished")


def main(package: Package, _: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    if bool(options.images) == bool(options.data):
        raise ConfigError("give pictures as --images, or a labelled data set as --data: one of the two")
    part = unfinished(options.out)
    try:
        prepared.check_absent(options.out)
    except StorageError:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped after it had written everything
        raise
    storage.check_creatable(options.out)
    dataset: Dataset
    if options.images:
        useless = [name for name in given(options, "split", *READING) if name != "strict"]
        if useless:
            raise ConfigError(f"--{', --'.join(useless)}: of a data set, which --images names none of: leave that out")
        dataset = Unlabelled(list_checked_images(options.images, options.strict))
    else:
        dataset = open_given(options)
    source = models.path(package, options)
    model = package.flags.applied(models.load(package, options, source), options)
    names = names_from(options.labels, pairs=bool(options.data)) if options.labels else model.names()
    labelled = PseudoLabelled(model, dataset, names, options.min_probability)
    if labelled.binding.replaced:
        print(explanation(labelled.binding.replaced))
    settings = {
        "checkpoint": identity(source),
        "labels": labelled.names,
        "classes": labelled.binding.classes,
        "inference": dataclasses.asdict(model.inference),
        **{name: options[name].value for name in ("images", "data", "split", "min_probability", *READING)},
    }
    with files.output_directory(part):
        count = prepared.write(Resumed(labelled, part, settings), options.out)
    shutil.rmtree(part, ignore_errors=True)
    print(f"wrote {count:,} labelled images to {options.out}")


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    package = models.define(package, "pseudo_label")
    flags.DEFINE_string("images", None, "A file, a directory, a pattern, or several with commas.")
    define_flags(required=False)
    flags.DEFINE_string(
        "labels",
        None,
        "All labels with commas, or in a file; default: the model's. NAME=WORD has another word for a class of --data.",
    )
    flags.DEFINE_float("min_probability", 0.0, "Less than this gives no label.", lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_string("out", None, "A new folder.", required=True)
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
