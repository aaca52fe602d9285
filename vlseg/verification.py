"""What `verify` looks at: a model's file and values, its layers beside NumPy's, a photograph segmented by words."""

import hashlib
import math
import os
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vlseg import visualize
from vlseg.checkpoints import runs
from vlseg.checkpoints.directory import WEIGHTS_FILE, Stored, Weights
from vlseg.checkpoints.download import WeightFile
from vlseg.checkpoints.rules import Tensors, flatten
from vlseg.data import images as image_files
from vlseg.errors import VlsegError
from vlseg.nn import numpy_layers
from vlseg.nn.layers import EPSILON
from vlseg.nn.resnet import ResNet
from vlseg.segmentation import Segmentation
from vlseg.segmenter import Segmenter

PHOTOGRAPH = Path(__file__).with_name("photographs") / "astronaut.jpg"
"""The astronaut Eileen Collins, by NASA, in the public domain; see the README.md beside it."""

LABELS = ("person", "spacesuit", "flag", "space shuttle", "wall")
"""What it shows."""

TOLERANCE = 1e-4
"""Largest difference of compiled layers from NumPy's, relative to the largest value."""

DEVIATIONS = 1e-5, 10.0
"""Within which a kernel's standard deviation is plausible."""

LARGEST = 1e4
"""Beyond which no value is plausible."""

WIDTH, COLUMN = 110, 28
"""Of a line, and where its words and numbers begin."""

MARKS = {True: "yes", False: "no", None: "-"}

SHARES = 8
"""Labels of the photograph that are listed."""

LISTED = 3
"""Names and strings in a line, of those that fail."""


class Check(NamedTuple):
    """A line of the screen.

    passed: None where there is nothing to compare with. what: was looked at. found: in words and numbers.
    """

    passed: bool | None
    what: str
    found: str

    def line(self) -> str:
        """As it is printed, what is longer in several lines; a path stays whole."""
        head = f"{MARKS[self.passed]:<5}{self.what}"
        return textwrap.fill(
            self.found,
            WIDTH,
            initial_indent=f"{head:<{COLUMN}}",
            subsequent_indent=" " * COLUMN,
            break_long_words=False,
            break_on_hyphens=False,
        )


class Subject(NamedTuple):
    """How the photograph is segmented: by a model, into labels; `remark` says what to expect of it."""

    model: Segmenter
    labels: Sequence[str]
    remark: str = ""


class Verification:
    """What a package adds to the checks of all models. Here: nothing."""

    def describe(self, stored: Stored) -> str:
        """Which model it is, in a few words."""
        return f"a model of {type(stored.config).__module__}"

    def of_stored(self, path: Path, stored: Stored) -> Iterator[Check]:
        """Checks of a checkpoint as it was read, in its own data types."""
        del path, stored
        return iter(())

    def tokens(self, model: Any) -> Check:
        """Whether the model's tokenizer gives known ids.

        Raises:
            VocabularyError: it has none. The message says how to get one.
        """
        del model
        return Check(None, "tokens", "no ids are recorded for this model")

    def layers(self, model: Any) -> Iterator[Check]:
        """Some compiled layers beside NumPy's."""
        del model
        return iter(())

    def subject(self, model: Any) -> Subject:
        """How the photograph is segmented.

        Raises:
            VocabularyError: the model has no tokenizer for the labels. The message says how to get one.
        """
        return Subject(model, model.labels or LABELS)


VERIFICATION = Verification()
"""For packages that add nothing."""


def photograph(side: int | None = None) -> np.ndarray:
    """The photograph, uint8 [512, 512, 3], or resized to [side, side, 3]."""
    pixels = image_files.read_image(PHOTOGRAPH)
    return pixels if side is None else image_files.resize_image(pixels, (side, side))


def of_file(path: Path, published: WeightFile | None) -> Iterator[Check]:
    """Size and SHA-256 of a checkpoint, or of a directory's weights, beside the published ones if there are any."""
    if runs.is_step(path):
        yield Check(True, "file", f"{path}, a step of a training run")
        return
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        yield Check(False, "file", f"{file} is not there")
        return
    size = os.path.getsize(file)
    wanted = published.size if published else None
    problem = f", but {wanted:,} bytes are published" if wanted not in (None, size) else ""
    yield Check(not problem, "file", f"{file}, {size:,} bytes{problem}")
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    expected = published.sha256 if published else None
    if expected is None:
        yield Check(None, "SHA-256", f"{found} (none published)")
    else:
        yield Check(found == expected, "SHA-256", found + ("" if found == expected else f", published: {expected}"))


def of_names(description: str, weights: Weights) -> Check:
    """Of a checkpoint that was read, so whose names and shapes are those of a model."""
    numbers = sum(np.size(value) for value in flatten(weights.variables).values())
    parts = {"carried along": weights.carried, "tied copies": weights.tied, "started fresh": weights.fresh}
    besides = ", ".join(f"{len(names)} {title}" for title, names in parts.items() if names)
    found = f"{description}: {_count(numbers)}, none missing, none left over"
    return Check(True, "names and shapes", found + (f" ({besides})" if besides else ""))


def of_values(variables: Mapping[str, Any]) -> Iterator[Check]:
    """Whether all values are finite, and roughly what weights look like."""
    flat = {name: np.asarray(value, np.float32) for name, value in flatten(variables).items()}
    lost = {name: int(value.size - np.isfinite(value).sum()) for name, value in flat.items()}
    lost = {name: number for name, number in lost.items() if number}
    total = sum(value.size for value in flat.values())
    listed = ", ".join(f"{number} in {name}" for name, number in list(lost.items())[:LISTED])
    yield Check(
        not lost, "finite values", f"not finite: {_more(listed, len(lost))}" if lost else f"all {_count(total)}"
    )
    finite = {name: value for name, value in flat.items() if name not in lost}
    spreads = {name: _spread(value) for name, value in finite.items() if name.endswith("kernel")}
    least, most = DEVIATIONS
    odd = [
        f"{name} deviates by {low:.1g} to {high:.1g}"
        for name, (low, high) in spreads.items()
        if low < least or high > most
    ]
    odd += [f"{name} reaches {peak:.1g}" for name, value in finite.items() if (peak := np.abs(value).max()) > LARGEST]
    odd += [f"{name} is below 0" for name, value in finite.items() if name.endswith("variance") and value.min() < 0]
    found = "no kernels"
    if spreads:
        lows, highs = zip(*spreads.values(), strict=True)
        found = f"standard deviations of kernels from {min(lows):.2g} to {max(highs):.2g}"
    yield Check(not odd, "plausible values", _more(", ".join(odd[:LISTED]), len(odd)) if odd else found)


def _spread(kernel: np.ndarray) -> tuple[float, float]:
    """Least and largest deviation among the matrices of a kernel: of stacked layers, or places of a convolution."""
    matrices = math.prod(kernel.shape[-2:]) >= 16
    deviations = kernel.std(axis=(-2, -1) if matrices else None, dtype=np.float64)
    return float(np.min(deviations)), float(np.max(deviations))


def same_bits(found: Tensors, written: Mapping[str, np.ndarray]) -> Check:
    """Whether tensors of a file are what would be written of the model that was read from it."""

    def differs(name: str) -> bool:
        if name not in found or name not in written:
            return True
        one, other = found[name].read(), written[name]
        return (one.dtype, one.shape) != (other.dtype, other.shape) or one.tobytes() != other.tobytes()

    wrong = [name for name in {**found, **written} if differs(name)]
    listed = _more(", ".join(wrong[:LISTED]), len(wrong))
    return Check(
        not wrong,
        "converted and back",
        f"not the same: {listed}" if wrong else f"{len(found)} tensors, every bit the same",
    )


def tokens(known: Mapping[str, Sequence[int]], encode: Callable[[str], Sequence[int]], whose: str) -> Check:
    """Whether a tokenizer gives the ids that are known of these texts."""
    wrong = [(text, list(ids)) for text, known_ids in known.items() if (ids := encode(text)) != list(known_ids)]
    if wrong:
        text, ids = wrong[0]
        instead = f"{text!r} is {ids[:8]}, {whose} are {list(known[text])[:8]}"
        return Check(False, "tokens", f"{len(wrong)} of {len(known)} known texts differ: {instead}")
    return Check(True, "tokens", f"{whose} of {len(known)} known texts")


def agreement(what: str, ours: Any, numpy: np.ndarray) -> Check:
    """Compiled layers beside NumPy's."""
    ours = np.asarray(ours, np.float64).reshape(numpy.shape)
    if not (np.isfinite(ours).all() and np.isfinite(numpy).all()):
        return Check(False, what, "not finite")
    difference = float(np.abs(ours - numpy).max() / np.abs(numpy).max())
    found = f"differs from NumPy's by {difference:.1e} of the largest value, at most {TOLERANCE:g} is right"
    return Check(difference <= TOLERANCE, what, found)


def exactly(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` compiled, with products of full precision on every device."""
    with jax.default_matmul_precision("highest"):
        return jax.jit(function)(*arguments)


def resnet(image: np.ndarray, variables: Mapping[str, Mapping[str, Any]], width: int) -> Check:
    """Stem and first bottleneck of a ResNet.

    Args:
        image: float [H, W, 3], as the network takes it.
        variables: {"params", "batch_stats"} of the network. width: channels of its stem.
    """
    used = {
        kind: {name: tree[name] for name in ("conv1", "bn1", "layer1_0") if name in tree}
        for kind, tree in variables.items()
    }
    model: Any = ResNet((1,), width)
    ours = exactly(lambda images: model.apply(used, images)[-1], jnp.asarray(image, jnp.float32)[None])
    wide = numpy_layers.float64(used)
    expected = numpy_layers.resnet_beginning(image.astype(np.float64), wide["params"], wide["batch_stats"], EPSILON)
    return agreement("ResNet, first block", ours, expected)


def of_photograph(subject: Subject, out: str | None) -> Iterator[Check]:
    """Segments the photograph, writes the picture if `out` names a file, and times it.

    Raises:
        ConfigError, StorageError: the picture cannot be written.
    """
    image = Image.fromarray(photograph())

    def segmented() -> tuple[Segmentation, float]:
        start = time.perf_counter()
        return subject.model.segment(image, subject.labels), time.perf_counter() - start

    try:
        segmentation, first = segmented()
    except VlsegError as error:
        yield Check(False, "photograph", str(error))
        return
    _, warm = segmented()
    finite = bool(np.isfinite(segmentation.top_similarities).all())
    shown = _shares(segmentation) if finite else "its scores are not finite"
    yield Check(finite, "photograph", shown)
    if out is not None:
        visualize.save_image(out, segmentation.overlay())
    where = f"{out} shows it" if out is not None else "--out=FILE.png writes it"
    remark = f"; {subject.remark}" if subject.remark else ""
    yield Check(None, "picture", f"{where}; no official figure exists, so you judge it{remark}")
    (device, *_) = jax.devices()
    named = device.platform if device.device_kind == device.platform else f"{device.platform} ({device.device_kind})"
    times = f"{warm:.2f} s for the photograph, {first:.1f} s the first time"
    yield Check(None, "time", f"{times}, on {named}")


def _shares(segmentation: Segmentation) -> str:
    """The labels with the largest parts of the picture."""
    ranked = sorted(segmentation.shares().items(), key=lambda pair: -pair[1])[:SHARES]
    return ", ".join(f"{label} {share:.0%}" for label, share in ranked)


def _count(numbers: int) -> str:
    return f"{numbers / 1e6:.1f} million numbers" if numbers >= 1e5 else f"{numbers:,} numbers"


def _more(listed: str, count: int) -> str:
    return f"{listed}, and {count - LISTED} more" if count > LISTED else listed
