"""Settings of a run: dataclasses hold the defaults, a configuration file says what differs, flags override both.

    config = load("configs/coco.py")               # or what --config gives a command, see `define_flag`
    settings = read(Adaptation, config.adaptation, "config.adaptation")

A configuration file has a function `get_config()` (or `get_config(argument)`, for --config=FILE.py:ARGUMENT) that
returns a ConfigDict. Its `package` names the model's package, whose dataclasses are the defaults of everything that the
file does not say. So every setting is a flag, and a file can be copied anywhere.
"""

import contextlib
import dataclasses
import functools
import types
import typing
from collections.abc import Collection, Iterable
from typing import Annotated, Any, ClassVar

from absl import flags
from ml_collections import ConfigDict, FieldReference, config_dict
from ml_collections.config_flags import config_flags

from vlseg import effects, fields, packages
from vlseg.checks import ON_ERROR
from vlseg.effects import Idle
from vlseg.errors import ConfigError
from vlseg.fields import Choice, Count, CountOrNone, Positive, Range
from vlseg.fields import read as read

# The flag belongs to the command that calls `define_flag`, so its --help shows it.
flags.disclaim_key_flags()


@dataclasses.dataclass(frozen=True)
class Loading:
    """How batches are made ahead.

    Attributes:
        threads: in each process. workers: processes beside it, 0 for none.
        on_error: "stop" at an example that cannot be read, or "skip" it.
    """

    threads: Annotated[int, Range(1, 4096)] = 4
    workers: Annotated[int, Range(0, 4096)] = 0
    on_error: Annotated[str, Choice(ON_ERROR)] = "stop"


@dataclasses.dataclass(frozen=True)
class Folder:
    """How the labels of a folder are read, see `vlseg.data.formats.folder`; `label_orientation` also of annotations."""

    ignore_label: int = 255
    label_offset: int = 0
    ignore_zero: bool = False
    label_orientation: str = ""


@dataclasses.dataclass(frozen=True)
class Catalog:
    """A data set of the catalog.

    Attributes:
        split: "train", "evaluation" or one of its own. label_orientation: as for `Folder`.
    """

    split: str = "train"
    label_orientation: str = ""


@dataclasses.dataclass(frozen=True)
class Tfds:
    """How a data set of TFDS is read, see `vlseg.data.formats.tfds`.

    Attributes:
        split: as for `Catalog`. image_feature, label_feature: names, where there are several.
        names: of the classes, where the data set has none: with commas, or a file.
        ignore_label: by default what the data set says, or 255. label_offset, ignore_zero,
            label_orientation: as for `Folder`.
    """

    split: str = "train"
    image_feature: str = ""
    label_feature: str = ""
    names: str = ""
    ignore_label: int | None = None
    label_offset: int = 0
    ignore_zero: bool = False
    label_orientation: str = ""


@dataclasses.dataclass(frozen=True)
class TinyWorld:
    """Scenes of the tiny world: split, number, and seed."""

    split: str = "train"
    count: Count = 20000


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        source: as `vlseg.data.sources.open_dataset` takes it; "" for none.
        strict: whether files of the data that are not read are an error.
        folder, catalog, tfds, tiny_world: how each kind of source is read.
    """

    source: str = ""
    strict: bool = False
    folder: Folder = Folder()
    catalog: Catalog = Catalog()
    tfds: Tfds = Tfds()
    tiny_world: TinyWorld = TinyWorld()

    several: ClassVar[bool] = False
    """Whether commas stand between several sources."""


KINDS = ("folder", "catalog", "tfds", "tiny_world")
"""Sections of `Data`, by what `vlseg.data.sources.kind` calls a source."""


ORIENTED = "folder.label_orientation"
"""What annotations read of the section "folder"."""

UNLISTED = {"tiny_world", "tfds", "prepared"}
"""Kinds of sources of which no files are left out."""


def sources_of(source: str, several: bool = False) -> list[str]:
    """The sources that a setting names."""
    from vlseg.data import sources

    return sources.split_sources(source) if several else [source] if source else []


def by_source(section: str, several: bool = False) -> tuple[Idle, ...]:
    """Of a section with `Data` that says how each kind of source is read: the parts for kinds that its source is not.

    What a file says of them stands for the source that it names, or for any if it names none.
    """

    def reason(config: ConfigDict, kind: str) -> str:
        # Imported here: whoever only reads settings needs no data.
        from vlseg.data import sources
        from vlseg.data.formats import tools

        source = config[section].source
        found = {sources.kind(one) for one in sources_of(source, several)}
        if kind in found or (kind == ORIENTED and found & {"folder", *tools.READERS}):
            return ""
        if not source:
            return f"without config.{section}.source"
        return f"because config.{section}.source={source} is read as {' and '.join(sorted(found))}"

    def strict(config: ConfigDict) -> str:
        from vlseg.data import sources

        source = config[section].source
        if not source:
            return f"without config.{section}.source"
        found = {sources.kind(one) for one in sources_of(source, several)}
        unlisted = f"because config.{section}.source={source} is no folder of files"
        return unlisted if found <= UNLISTED else ""

    def split(config: ConfigDict, kind: str) -> str:
        from vlseg.data import sources

        listed = [one for one in sources_of(config[section].source, several) if sources.kind(one) == kind]
        if not listed or not all(map(sources.names_split, listed)):
            return ""
        return f"because config.{section}.source={config[section].source} names the split"

    def yields(config: ConfigDict, flags: Collection[str]) -> bool:
        return f"{section}.source" in flags or not config[section].source

    oriented = f"{section}.{ORIENTED}"  # of annotations, too
    parts = [Idle((f"{section}.{kind}",), functools.partial(reason, kind=kind), (oriented,), yields) for kind in KINDS]
    parts.append(Idle((oriented,), functools.partial(reason, kind=ORIENTED), yields=yields))
    splits = [
        Idle((f"{section}.{kind}.split",), functools.partial(split, kind=kind), yields=yields)
        for kind in ("catalog", "tfds")
    ]
    return (*parts, *splits, Idle((f"{section}.strict",), strict, yields=yields))


@dataclasses.dataclass(frozen=True)
class Evaluation(Data):
    """Labelled images that a model is scored on.

    Attributes:
        score_labels: the classes that are scored, "" for all: names with commas, a list of `vlseg.labels`, or a file.
            Pixels of the others do not count.
    """

    score_labels: str = ""


EVALUATION = Evaluation("", False, Folder(), Catalog("evaluation"), Tfds("evaluation"), TinyWorld("test", 500))


@dataclasses.dataclass(frozen=True)
class Validation(Evaluation):
    """The labelled images that a run is validated on while it trains, when, and which step is the best.

    Without `every` or `epochs` a run is not validated. Otherwise the model of the run is that of the best step.

    Attributes:
        every: updates between two validations, 0 for none. epochs: the same in epochs, instead.
        metric: by which the best step is chosen, the higher the better: "mIoU", "mAcc" or "aAcc".
        count: of the data set the first so many images, 0 for all.
    """

    every: CountOrNone = 0
    epochs: CountOrNone = 0
    metric: str = "mIoU"
    count: CountOrNone = 0


VALIDATION = Validation("", False, Folder(), Catalog("evaluation"), Tfds("evaluation"), TinyWorld("validation", 200))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Settings that every package has; a package adds its own.

    Attributes:
        package: the import name of the model's package.
        checkpoint: what training starts from. tokenizer: its tokenizer, where the checkpoint has none.
        data: what is trained on. evaluation: what the finished model is scored on; none if there is no source.
        validation: what the model is scored on while it trains.
        mesh: such as "data=4,fsdp=2"; by default all devices share the batch, see `vlseg.sharding`.
        loading: how batches are made ahead.
        log_every, checkpoint_every: in steps. checkpoint_minutes: a checkpoint also with a log line when so much time
            has passed; 0 for never. keep_checkpoints: how many stay. keep_period: checkpoints at multiples of so many
            steps stay too; 0 for none.
        profile: first and last step of a profile, such as "10:12"; "" for none.

    A package's own class may say in `idle` which settings have no effect beside which others, see `vlseg.effects`; it
    begins with those of all packages, `(*Run.idle, ...)`.
    """

    idle: ClassVar[tuple[Idle, ...]] = (*by_source("evaluation"), *by_source("validation"))

    package: str
    checkpoint: str = ""
    tokenizer: str = ""
    data: Data = Data()
    evaluation: Evaluation = EVALUATION
    validation: Validation = VALIDATION
    mesh: str = ""
    loading: Loading = Loading()
    log_every: Count = 50
    checkpoint_every: Count = 500
    checkpoint_minutes: Positive = 0.0
    keep_checkpoints: Count = 2
    keep_period: CountOrNone = 0
    profile: str = ""


def as_config(settings: Any) -> ConfigDict:
    """A dataclass as a ConfigDict whose fields may be overridden; an optional field that is None keeps its type."""
    config = ConfigDict()
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            value = as_config(value)
        elif value is None:
            (kind,) = (kind for kind in typing.get_args(hints[field.name]) if kind is not types.NoneType)
            value = config_dict.placeholder(kind)
        config[field.name] = value
    return config


def complete(config: ConfigDict) -> ConfigDict:
    """A configuration with everything that it does not say, from the defaults of its package.

    Raises:
        ConfigError: it names no package, or has a setting that the package lacks and no other setting refers to.
    """
    if not config.get("package"):
        raise ConfigError("the configuration names no package: write config.package = ..., the model's import name")
    laid = as_config(packages.find(config.package).settings(config))
    _lay(laid, config, "config.")
    return laid


def effective(config: ConfigDict, flags: Collection[str] = ()) -> tuple[ConfigDict, frozenset[str]]:
    """A completed configuration in which what has no effect has its default, see `vlseg.effects.effective`.

    Raises:
        ConfigError: a value that its setting cannot have; or a setting without effect is given.
    """
    package = packages.find(config.package)
    defaults = package.settings(ConfigDict())
    rules = (*type(defaults).idle, *by_source("data", defaults.data.several))
    further = defaults
    with contextlib.suppress(ConfigError):  # an unknown kind, which may have no effect and otherwise is refused later
        further = package.settings(config)
    found, idle = effects.effective(config, as_config(defaults), as_config(further), rules, flags)
    fields.check_section(found, type(defaults), "config.")
    return found, idle


def takes_several(config: ConfigDict) -> bool:
    """Whether commas stand between several data sets in config.data.source."""
    found: bool = packages.find(config.package).settings(ConfigDict()).data.several
    return found


def _lay(base: ConfigDict, over: ConfigDict, path: str) -> None:
    for name, value in over.iteritems(preserve_field_references=True):
        if name not in base:
            if not _is_referred_to(value):
                raise ConfigError(f"{path}{name}: no such setting")
            base[name] = ConfigDict() if isinstance(value, ConfigDict) else value
            if not isinstance(value, ConfigDict):
                continue
        if isinstance(base[name], ConfigDict) and isinstance(value, ConfigDict):
            _lay(base[name], value, f"{path}{name}.")
            continue
        try:
            base[name] = value
        except TypeError as error:
            raise ConfigError(f"{path}{name}: {error}") from error


def _is_referred_to(value: Any) -> bool:
    """Whether other settings of a file are made of this one, or of all its parts: such a setting is the file's own."""
    if isinstance(value, ConfigDict):
        return bool(value) and all(_is_referred_to(part) for _, part in value.iteritems(preserve_field_references=True))
    return isinstance(value, FieldReference)


class _CompletingParser(config_flags.ConfigFileFlagParser):
    """Reads a configuration file, completed, before overrides are parsed: so all its settings can be overridden."""

    def parse(self, path: str) -> Any:
        config = super().parse(path)
        # Of a file that cannot be read the library keeps the error until the configuration is used.
        return complete(config).lock() if isinstance(config, ConfigDict) else config


def define_flag(help_string: str) -> None:
    """Defines --config, the file of a run, which must be given, and an override for each of its settings."""
    config_flags.DEFINE_config_file("config", help_string=help_string)
    flags.FLAGS["config"].parser = _CompletingParser("config", lock_config=False)
    flags.mark_flag_as_required("config")


def given(flag: str) -> tuple[str, frozenset[str]]:
    """What the command line says of a configuration: the file, and the names of the settings that have flags."""
    holder = flags.FLAGS[flag]
    return config_flags.get_config_filename(holder), frozenset(config_flags.get_override_values(holder))


def load(path: str) -> ConfigDict:
    """The completed configuration of a file, given as for --config.

    Raises:
        ConfigError: as `complete`. OSError: there is no such file.
    """
    return _CompletingParser("config", lock_config=False).parse(path).unlock()


def check_argument(file: str, argument: str, choices: Iterable[str]) -> None:
    """Refuses what a configuration file does not know after the colon of --config=FILE.py:ARGUMENT.

    Args:
        file: its name, for the message. argument: what was given. choices: what may be.

    Raises:
        ConfigError: the argument is none of the choices.
    """
    known = tuple(choices)
    if argument not in known:
        raise ConfigError(f"--config={file}:{argument}: after the colon give one of {', '.join(known)}")
