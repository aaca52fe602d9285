"""Exports a model: as a directory, as an official checkpoint, or as one StableHLO file that needs nothing but JAX.

The StableHLO file holds weights and labels. A process that has JAX alone runs it on any of --platforms:

    import jax.export
    import numpy as np

    images = np.zeros((1, 512, 512, 3), np.uint8)  # [B, H, W, 3] RGB, already --height x --width; any B
    result = jax.export.deserialize(bytearray(open("FILE", "rb").read())).call(images)
    result["label_map"], result["probabilities"]  # int32 [B, H, W]; float32 [B, h, w, N] on the model's grid
    result["label_map"] == result["ids"]["cat"]  # the labels by name, whatever order they are in

A pixel whose scores are not finite has the label -1: a program cannot refuse.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from absl import flags

from vlseg import cli, overrides, storage
from vlseg.checkpoints import directory, runs
from vlseg.commands import models
from vlseg.errors import ConfigError
from vlseg.labels import names_from
from vlseg.nn import multi_head
from vlseg.packages import Package
from vlseg.segmenter import OFF, Segmenter

FORMATS = ("directory", "official", "stablehlo")
ONLY = {
    "weights": ("directory",),
    "known_labels": ("directory",),
    "height": ("stablehlo",),
    "width": ("stablehlo",),
    "platforms": ("stablehlo",),
}
"""Flags that some formats alone have a use for."""

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
REASONS = {
    "official": "a file of the official code has no settings of inference",
    "stablehlo": "a StableHLO file has no CRF and sees images whole and of the size that they have (--height, --width)",
}
"""Why formats have no place for settings of inference."""

_MAX_BYTES = 2_000_000_000  # the file's format counts bytes with 31 bits

# They belong to the module that calls `run`, so its --help shows them.
if __name__ != "__main__":
    flags.disclaim_key_flags()


def write_stablehlo(
    path: str | os.PathLike[str],
    segment: jax.tree_util.Partial,
    height: int,
    width: int,
    platforms: Sequence[str],
    labels: Sequence[str] = (),
) -> None:
    """Writes a function of images uint8 [B, H, W, 3] for one size and any batch size.

    Args:
        path: a file; gs://... too.
        segment: from images to a dict of arrays; the arrays that it holds are baked in.
        height, width: of the images, in pixels.
        platforms: of `PLATFORMS`, whatever this machine has.
        labels: the names of the ids in its label maps; the result of the file has them as "ids", int32 [] by name.

    Raises:
        ConfigError: an unknown platform, or a model too large for one file.
        StorageError: the file cannot be written.
    """
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise ConfigError(f"platforms {', '.join(unknown) or 'are missing'}: choose some of {', '.join(PLATFORMS)}")
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(segment))
    if weights > _MAX_BYTES:
        raise ConfigError(f"{weights / 1e9:.1f} GB of weights do not fit one StableHLO file; use --format=directory")
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    ids = {label: np.int32(index) for index, label in enumerate(labels)}

    def named(segment: jax.tree_util.Partial, images: jax.Array) -> dict[str, Any]:
        return {**segment(images), "ids": jax.tree.map(jnp.asarray, ids)}

    function = jax.tree_util.Partial(named, segment)
    with multi_head.kernels("none"):
        exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(images)
    storage.write_bytes(path, bytes(exported.serialize()))


def seen(package: Package, model: Segmenter, options: Any) -> Segmenter:
    """The model, which sees images as the flags say.

    Raises:
        ConfigError: flags that the format has no place for, or of a CRF.
    """
    given = package.flags.given(options)
    model = package.flags.applied(model, options)
    if getattr(model.inference, "crf", OFF).iterations and any(name.startswith("crf") for name in given):
        raise ConfigError("a CRF is no part of what is exported: give --crf to evaluate or predict instead")
    if options.format == "directory":
        return model
    kept = package.flags.compiled if options.format == "stablehlo" else ()
    lost = [f"--{name}" for name in given if name not in kept and not name.startswith("crf")]
    if lost:
        raise ConfigError(f"{REASONS[options.format]}: leave out {', '.join(lost)}, or give --format=directory")
    return model


def check_flags(package: Package, options: Any) -> None:
    """Raises ConfigError for a flag that the format has no use for."""
    wanted: dict[str, tuple[str, ...]] = dict(ONLY)
    if package.official is None or not package.official.labels:
        wanted["labels"] = ("directory", "stablehlo")
    for name, formats in wanted.items():
        if name in options and options[name].value != options[name].default and options.format not in formats:
            raise ConfigError(
                f"--{name} has no effect with --format={options.format}: leave it out, or give "
                f"--format={' or '.join(formats)}"
            )


def left_out(package: Package, model: Segmenter, kind: str) -> str:
    """One line that names the settings of inference that the model stores and a format has no place for, or ""."""
    if kind == "directory" or package.flags.seen is None:
        return ""
    kept = package.flags.compiled if kind == "stablehlo" else ()
    lost = {name: value for name, value in overrides.stored(model.inference).items() if name not in kept}
    return f"without this model's {overrides.shown(lost)}: {REASONS[kind]}" if lost else ""


def record(source: Path) -> dict[str, Any]:
    """What a checkpoint says of the run that it comes from, as settings of a model directory."""
    settings = directory.read_settings(source) if source.is_dir() else {}
    return {name: value for name, value in settings.items() if name == runs.RECORD}


def main(package: Package, _: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    check_flags(package, options)
    storage.check_new(options.out)
    if options.format != "directory":
        storage.check_local(options.out)
    out = Path(options.out)
    suffixes = package.official.suffixes if package.official else ()
    if options.format == "directory" and out.suffix in suffixes:
        raise ConfigError(f"{out} would be a directory; for a file of the official code give --format=official")
    source = models.path(package, options)
    model = seen(package, models.load(package, options, source), options)
    if options.labels:
        model = model.with_labels(model.names(names_from(options.labels)))
        model.embed()  # refuses labels that it cannot tell apart
    if options.format == "directory":
        model = package.flags.for_directory(model, options)
        variables = jax.tree.map(lambda value: np.asarray(value, options.weights), dict(model.variables))
        stored = dataclasses.replace(model, variables=variables).stored()  # type: ignore[type-var]
        directory.write(options.out, package.name, stored._replace(settings={**stored.settings, **record(source)}))
    elif options.format == "official":
        if package.official is None:
            raise ConfigError(f"{package.name} has no official format; export a directory (--format=directory)")
        package.official.write(out, package.official.of_model(model))
    else:
        names = model.names()
        side, multiple = model.export_size
        height, width = options.height or side, options.width or side
        if height % multiple or width % multiple:
            raise ConfigError(f"images of {height} x {width} pixels: both sides must be multiples of {multiple}")
        function = model.image_function(model.inference)
        write_stablehlo(options.out, function, height, width, options.platforms, names)
    print(*filter(None, [left_out(package, model, options.format), f"wrote {options.out}"]), sep="\n")


def run(package: Package | None = None, usage: str | None = None) -> NoReturn:
    """Runs the command; `usage` is what --help says of it."""
    package = models.define(package, "export")
    flags.DEFINE_string("out", None, "A new directory, or a file.", required=True)
    flags.DEFINE_enum("format", "directory", FORMATS, "What to write.")
    flags.DEFINE_string("labels", None, "Labels with commas, or a file with one per line; default: the model's own.")
    flags.DEFINE_enum("weights", "float32", ["float32", "float16"], "directory: data type of the weights in the file.")
    flags.DEFINE_integer("height", None, "stablehlo: rows of the images; default: as in training.", lower_bound=8)
    flags.DEFINE_integer("width", None, "stablehlo: columns of the images.", lower_bound=8)
    flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "stablehlo: where the file shall run.")
    cli.run(functools.partial(main, package), usage or __doc__)


if __name__ == "__main__":
    run()
