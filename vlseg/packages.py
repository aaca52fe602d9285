"""Packages of models: what a folder with a model tells shared code about itself.

A package makes a `Package` and registers it when it is imported. Shared code finds it by the `package` of a
configuration or by the `format` of a model directory, and names none itself.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from vlseg import overrides
from vlseg.checkpoints.directory import Stored
from vlseg.checkpoints.download import WeightFile
from vlseg.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from ml_collections import ConfigDict

    from vlseg.segmenter import Segmenter
    from vlseg.sharding import ParameterAxes
    from vlseg.training.program import Outline, Prepared
    from vlseg.verification import Verification

ENTRY_POINTS = "vlseg.packages"
"""The group of entry points by which installed packages are found that nobody has imported."""

SEEING = ("evaluate", "predict", "pseudo_label", "export")
"""Commands whose flags say how a model sees images."""

CRF, CRF_ITERATIONS = "crf", "crf_iterations"
USUAL_ITERATIONS = 10
"""Of a CRF, in IFSeg's figure of web images."""

# They belong to the command that is run, so its --help shows them.
flags.disclaim_key_flags()


@dataclass(frozen=True)
class Shortcut:
    """A flag for several settings of inference at once.

    Attributes:
        text: its help.
        on, off: what --NAME and --noNAME set, by the names of flags; with nothing, the model's own settings stay.
    """

    text: str
    on: Mapping[str, Any]
    off: Mapping[str, Any]


@dataclass(frozen=True)
class Flags:
    """The flags that commands have for one package, and what they do.

    Attributes:
        seen: the dataclass of its models' `Segmenter.inference`, whose fields are flags of the commands in `SEEING`.
        shortcuts: further flags of these commands, by name. Settings with a CRF have --crf besides.
        compiled: the flags of `seen` whose settings a compiled function of images keeps, see
            `Segmenter.image_function`.
    """

    seen: type | None = None
    shortcuts: Mapping[str, Shortcut] = field(default_factory=dict)
    compiled: Sequence[str] = ()

    def define(self, command: str) -> None:
        """Defines those of a command, "convert", "predict" and so on, or of all that load a model, "load"."""
        if self.seen is None or command not in SEEING:
            return
        for name, shortcut in self._all_shortcuts().items():
            flags.DEFINE_bool(name, None, shortcut.text)
        # What is exported has no CRF, so that there is only --nocrf to say.
        wanted = [name for name in overrides.fields(self.seen) if command != "export" or not name.startswith(f"{CRF}_")]
        overrides.define(self.seen, wanted)

    def load_options(self, options: Any) -> dict[str, Any]:
        """The arguments of `Package.load` and `Package.read` that the flags of "load" give."""
        del options
        return {}

    def given(self, options: Any) -> dict[str, Any]:
        """The settings of inference that the flags give, by the names of flags.

        Raises:
            ConfigError: a shortcut and a flag for the same setting.
        """
        if self.seen is None:
            return {}
        found = overrides.given(self.seen, options)
        for name, shortcut in self._all_shortcuts().items():
            if name not in options or options[name].value is None:
                continue
            chosen = shortcut.on if options[name].value else shortcut.off
            flag = f"--{'' if options[name].value else 'no'}{name}"
            twice = [other for other in chosen if other in found]
            if twice:
                raise ConfigError(f"{flag} and --{twice[0]} set the same: leave one of them out")
            found |= chosen
        return found

    def applied(self, model: "Segmenter", options: Any) -> "Segmenter":
        """The model, which sees images as the flags say.

        Raises:
            ConfigError: a value that cannot be, or that has no effect.
        """
        if self.seen is None:
            return model
        seen = overrides.changed(model.inference, overrides.nested(self.seen, self.given(options)), "--", "_")
        for name, shortcut in self.shortcuts.items():
            asked = name in options and options[name].value and not shortcut.on
            if asked and all(overrides.value(seen, other) == off for other, off in shortcut.off.items()):
                more = next(iter(shortcut.off))
                raise ConfigError(f"--{name} has no effect, because this model has it off: give --{more}")
        return dataclasses.replace(model, inference=seen)  # type: ignore[type-var]

    def for_directory(self, model: "Segmenter", options: Any) -> "Segmenter":
        """What `export` writes as a directory: the model, changed as flags say that only this package has."""
        del options
        return model

    def _all_shortcuts(self) -> Mapping[str, Shortcut]:
        if self.seen is None or CRF_ITERATIONS not in overrides.fields(self.seen):
            return self.shortcuts
        text = f"Refine probabilities with a dense CRF of {USUAL_ITERATIONS} iterations; default: as the model does."
        return {**self.shortcuts, CRF: Shortcut(text, {CRF_ITERATIONS: USUAL_ITERATIONS}, {CRF_ITERATIONS: 0})}


@dataclass(frozen=True)
class Official:
    """The format of the authors' code.

    Attributes:
        suffixes: of its files, the one that is written first.
        write: (path, stored) writes a file; raises ConfigError if the authors' code has no such model.
        of_model: from a model to what `write` is to write of it.
        labels: whether a file holds anything of a model's labels.
        complete: (stored, tokenizer) -> what `write` is to write of a model directory, and a line that names what it
            lacks, "" for nothing; a tokenizer is a directory or the name of one, None for the model's own. None where
            no tokenizer is needed.
    """

    suffixes: Sequence[str]
    write: Callable[[Path, Stored], None]
    of_model: "Callable[[Segmenter], Stored]" = lambda model: model.stored()
    labels: bool = False
    complete: "Callable[[Stored, str | None], tuple[Stored, str]] | None" = None


class Checked(NamedTuple):
    """What is known of a training run before its weights are read.

    words, replaced: as in `vlseg.training.program.Prepared`, as far as they are known.
    inputs: what it is made of besides data and checkpoints, by the names of settings, see `vlseg.training.inputs`.
    outline: its programs, where the weights are still to be fetched: their shapes are known before.
    """

    words: tuple[str, ...] | None = None
    inputs: Mapping[str, Any] = {}
    outline: "Outline | None" = None
    replaced: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Package:
    """A model's package.

    Attributes:
        name: its import name, which is also the format of its model directories.
        settings: from what a configuration file says to the defaults of a run, a `vlseg.settings.Run`.
        axes: of its parameters, see `vlseg.sharding`.
        load: (source, tokenizer, **options) loads a model.
        read: (path, **options) reads a directory, or a file of the official format, in its own data types.
        training: the module with `prepare(config, mesh)` and `outline(config, labels)`, and perhaps `check(config,
            mesh)`; it is imported when it is needed, because it brings the optimizers.
        verification: the module whose `VERIFICATION`, a `vlseg.verification.Verification`, adds to the checks of
            `verify`; None for those of all models alone.
        bundled: models that come with the package, name -> directory. weights: published ones, by name.
        official: the format of the authors' code, if there is one.
        flags: of commands.
        movable: settings of a run that hold paths whose parent folder may change on resume. free: settings that may.
        filled: settings that the run finds out where they are left open: those that `Prepared.filled` may have.
    """

    name: str
    settings: "Callable[[ConfigDict], Any]"
    axes: "ParameterAxes"
    load: "Callable[..., Segmenter]"
    read: Callable[..., Stored]
    training: str
    verification: str | None = None
    bundled: Mapping[str, Path] = field(default_factory=dict)
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    official: Official | None = None
    flags: Flags = field(default_factory=Flags)
    movable: Sequence[str] = ()
    free: Sequence[str] = ()
    filled: Sequence[str] = ()

    def outline(self, config: "ConfigDict", labels: int) -> "Outline":
        """The programs of a completed configuration as pure functions and shapes, without weights or data.

        Args:
            config: the configuration. labels: how many there are, where only data would tell.

        Raises:
            ConfigError: the configuration cannot be run.
        """
        return importlib.import_module(self.training).outline(config, labels)

    def prepare(self, config: "ConfigDict", mesh: "Mesh") -> "Prepared":
        """Everything that a training run needs, with weights and data.

        Raises:
            VlsegError: anything wrong with the configuration, checkpoint or data.
        """
        return importlib.import_module(self.training).prepare(config, mesh)

    def check(self, config: "ConfigDict", mesh: "Mesh") -> "Checked":
        """What can be known of a training run before its weights are fetched and read.

        The function `check` of the module `training`, where it has one.

        Raises:
            VlsegError: anything wrong with the configuration, tokenizer, words or data.
        """
        module = importlib.import_module(self.training)
        return module.check(config, mesh) if hasattr(module, "check") else Checked()

    def verify(self) -> "Verification":
        """The checks of `verify` that the package adds."""
        module = importlib.import_module(self.verification or "vlseg.verification")
        found: Verification = module.VERIFICATION
        return found


_registered: dict[str, Package] = {}


def register(package: Package) -> Package:
    """Makes a package known to shared code."""
    _registered[package.name] = package
    return package


def registered() -> tuple[str, ...]:
    """The names of the packages that are known so far."""
    return tuple(_registered)


def find(name: str) -> Package:
    """The package that a configuration names, imported if it is not known yet.

    Raises:
        ConfigError: there is no such package, or it has no model.
    """
    if name not in _registered:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ConfigError(f"config.package {name!r}: no package of that name is installed") from error
    if name not in _registered:
        raise ConfigError(f"config.package {name!r} is no package with a model")
    return _registered[name]


def of_format(name: str) -> Package:
    """The package that reads model directories of a format. Nothing is imported that is not installed as one.

    Raises:
        CheckpointError: no such package is installed.
    """
    if name not in _registered and name in _installed():
        importlib.import_module(name)
    if name not in _registered:
        known = ", ".join(sorted({*_registered, *_installed()}))
        raise CheckpointError(f"no package is installed that reads models of format {name!r}; there are {known}")
    return _registered[name]


@functools.cache
def _installed() -> frozenset[str]:
    return frozenset(point.value for point in metadata.entry_points(group=ENTRY_POINTS))
