"""Settings without effect: each setting of each package either has one, or is refused where it is given."""

import pytest

from tests.commands import ROOT
from vlseg import effects, settings
from vlseg.errors import ConfigError

RUN = {
    "package", "checkpoint", "mesh", "log_every", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints",
    "keep_period", "profile", "evaluation.source", "evaluation.score_labels", "validation.source",
    "validation.score_labels", "validation.every", "validation.epochs", "validation.metric", "validation.count",
}  # fmt: skip
LOADING = {"loading.threads", "loading.workers", "loading.on_error"}
FOLDER = {
    "data.strict",
    "data.source",
    "data.folder.ignore_label",
    "data.folder.label_offset",
    "data.folder.ignore_zero",
    "data.folder.label_orientation",
}
ADAPTATION = {
    f"adaptation.{name}"
    for name in (
        *("steps", "batch_size", "learning_rate", "warmup_steps", "b1", "b2", "epsilon", "weight_decay", "clip_norm"),
        *("image_size", "label_smoothing", "freeze_embedding", "freeze_embedding_iter", "row_block"),
        *("accumulation_steps", "seed"),
    )
}
IFSEG = {"mode", "categories", "tokenizer"} | ADAPTATION
IFSEG |= {
    f"model.{name}"
    for name in (
        *("dropout", "drop_path", "decoder_positions", "decoder_input_type", "full_context_alignment"),
        *("prompt_prefix", "dtype", "remat", "query_blocks"),
    )
}
CRF = {
    f"inference.crf.{name}"
    for name in (
        *("iterations", "gaussian_deviation", "gaussian_weight", "bilateral_deviation", "colour_deviation"),
        *("bilateral_weight", "exact"),
    )
}
IFSEG |= CRF | {f"inference.{name}" for name in ("short_side", "long_side", "knn_k", "knn_iterations")}
TRAINING = {
    f"training.{name}"
    for name in (
        *("steps", "batch_size", "accumulation_steps", "learning_rate", "scale_with_batch", "decoder_factor"),
        *("optimizer", "weight_decay", "b1", "power", "decay", "warmup_steps", "clip_norm", "base_size", "crop_size"),
        *("loss_mean", "loss_stride", "margin", "label_smoothing", "average", "row_block", "seed"),
    )
}
LSEG = RUN | LOADING | TRAINING | {"label_sets", "data.weights", "benchmark.name", "data.source"} | CRF
LSEG |= {f"inference.{name}" for name in ("base_size", "crop_size", "stride_rate", "scales", "flip", "trim")}
EPOCHS = {"training.epochs", "training.stop_after"}
FRESH = {"pretrained.text", "pretrained.image", "model.features", "model.block", "model.block_depth", "model.template"}
COMPUTED = {"model.dtype", "model.remat"}
VIEWS = {
    f"training.{name}" for name in ("scale_range", "crop_width", "distort_colours", "class_balance", "class_share")
}
FROZEN = {"training.frozen_levels"}
IMAGE = {f"model.image.{name}" for name in ("kind", "patch", "width", "heads", "layers", "grid", "reassembled")}
TEXT = {f"model.text.{name}" for name in ("kind", "width", "heads", "layers", "features", "context", "vocabulary")}
NEW = {
    f"model.{name}" for name in ("text.kind", "text.features", "image.kind", "image.variant", "image.norms", "dtype")
}
NEW |= {"training.b2", "training.stop_after"}
TINY = {"data.tiny_world.split", "data.tiny_world.count"}
EXPECTED = {
    ("ade20k", ""): RUN | IFSEG | {"adaptation.artificial_image_type"},
    ("ade20k:supervised", "data.source=photos"): RUN | IFSEG | LOADING | FOLDER
    | {f"adaptation.{name}" for name in ("upscale_lprobs", "freeze_entire_resnet", "freeze_resnet")},
    ("lseg_from_ifseg", "data.source=photos pretrained.text=a"): LSEG | FOLDER | EPOCHS | FRESH | COMPUTED | VIEWS
    | IMAGE | {"tokenizer"},
    ("lseg_from_ifseg", "data.source=photos pretrained.image=a"): LSEG | FOLDER | EPOCHS | FRESH | COMPUTED | VIEWS
    | FROZEN | TEXT | {"tokenizer"},
    ("lseg_from_ifseg", "data.source=tiny_world checkpoint=a"): LSEG | TINY | EPOCHS | COMPUTED | VIEWS
    | FROZEN | {"tokenizer"},
    ("lseg_from_ifseg", "data.source=ade20k:a,tiny_world checkpoint=a"): LSEG | TINY | EPOCHS | COMPUTED | VIEWS
    | FROZEN | {"tokenizer", "data.catalog.split", "data.catalog.label_orientation", "data.strict"},
    ("lseg_from_ifseg", "data.source=ade20k:a:val checkpoint=a"): LSEG | FROZEN | EPOCHS | COMPUTED | VIEWS
    | {"tokenizer", "data.strict", "data.catalog.label_orientation"},
    ("lseg_from_ifseg", "data.source=tfds:a:b checkpoint=a"): LSEG | FROZEN | EPOCHS | COMPUTED | VIEWS | {"tokenizer"}
    | {f"data.tfds.{name}" for name in ("split", "image_feature", "label_feature", "names", "ignore_label",
                                        "label_offset", "ignore_zero", "label_orientation")},
    ("lseg_tiny", ""): LSEG | TINY | FRESH | COMPUTED | VIEWS | IMAGE | {"training.b2", "training.stop_after"}
    | {"model.text.kind", "model.text.features", "evaluation.tiny_world.split", "evaluation.tiny_world.count"},
    ("lseg_folder", "data.source=photos"): LSEG | FROZEN | FOLDER | FRESH | NEW | VIEWS,
    ("lseg_folder", "data.source=photos pretrained.image=none"): LSEG | FOLDER | FRESH | NEW | VIEWS,
    ("lseg_folder", "data.source=photos pretrained.image=a"): LSEG | FROZEN | FOLDER | FRESH | VIEWS | COMPUTED
    | {"model.text.kind", "model.text.features", "model.image.norms", "training.b2", "training.stop_after"},
    ("lseg_folder", "data.source=photos checkpoint=a"): LSEG | FROZEN | FOLDER | COMPUTED | VIEWS
    | {"tokenizer", "training.b2", "training.stop_after"},
    ("lseg_zero_shot", "pretrained.text=a pretrained.image=a"): LSEG | FROZEN | EPOCHS | FRESH | COMPUTED
    | {"tokenizer", "benchmark.root", "benchmark.fold"},
    ("lseg_zero_shot:fss1000", "pretrained.text=a pretrained.image=a"): LSEG | FROZEN | FRESH | COMPUTED
    | {"tokenizer", "benchmark.root", "training.epochs", "training.stop_after"},
}  # fmt: skip
"""Configuration and what is set in it -> the settings that have an effect, all of them."""

OTHER = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value + 0.5}


def configured(name, changes):
    file, _, argument = name.partition(":")
    config = settings.load(f"{ROOT}/configs/{file}.py{':' * bool(argument)}{argument}")
    for change in changes.split():
        key, _, value = change.partition("=")
        put(config, key, value)
    return config, {change.partition("=")[0] for change in changes.split()}


def put(config, name, value):
    *sections, last = name.split(".")
    for section in sections:
        config = config[section]
    config[last] = value


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "changes"), EXPECTED)
def test_every_setting_has_an_effect_or_is_refused(name, changes, share):
    """All are told apart; of those without effect every so many-th is tried."""
    config, flags = configured(name, changes)
    changed, idle = settings.effective(config, flags)
    values = effects.leaves(changed.to_dict())
    assert values.keys() - idle == EXPECTED[name, changes]
    for setting in sorted(idle)[::share]:
        value = values[setting]
        other = OTHER.get(type(value), lambda value: "else")(value)
        tried = changed.copy_and_resolve_references()
        with tried.ignore_type():
            put(tried, setting, other)
        with pytest.raises(ConfigError, match=rf"config\.{setting}=.* no effect .*: leave it out"):
            settings.effective(tried, {*flags, setting})


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        ("lseg_folder", "loading.threads", -1, r"config.loading.threads is -1; it must be in \[1, 4096\]"),
        ("lseg_folder", "loading.on_error", "pass", "config.loading.on_error 'pass' is none of stop, skip"),
        ("lseg_folder", "checkpoint_every", 10**20, "config.checkpoint_every is 1000.*fit in 32 bits"),
        ("lseg_folder", "checkpoint_minutes", float("nan"), "config.checkpoint_minutes is nan"),
        ("lseg_tiny", "data.tiny_world.count", 0, "config.data.tiny_world.count is 0; it must be 1 or more"),
        ("lseg_tiny", "evaluation.tiny_world.count", -1, "config.evaluation.tiny_world.count is -1"),
        ("tiny", "model.dtype", "float16", "config.model.dtype 'float16' is none of float32, bfloat16"),
        ("tiny", "model.dropout", 2.0, r"config.model.dropout is 2.0; it must be in \[0, 1\)"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_the_name_of_its_setting(name, setting, value, message):
    config, _ = configured(name, "")
    put(config, setting, value)
    with pytest.raises(ConfigError, match=message):
        settings.effective(config, {setting})


FILE = """
import ml_collections

def get_config():
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    %s
    return config
"""


def given(tmp_path, lines, **flags):
    """The settings of a file and of flags, by names such as a__b for a.b."""
    (tmp_path / "mine.py").write_text(FILE % lines)
    config = settings.load(str(tmp_path / "mine.py"))
    named = {name.replace("__", "."): value for name, value in flags.items()}
    for name, value in named.items():
        put(config, name, value)
    return settings.effective(config, set(named))


@pytest.mark.parametrize(
    ("lines", "flags", "message"),
    [
        ('config.model = {"features": 64}', {"checkpoint": "a"}, None),
        ('config.pretrained = {"text": "b"}; config.model = {"image": {"kind": "resnet"}}', {"checkpoint": "a"}, None),
        ('config.checkpoint = "a"; config.model = {"features": 64}', {}, "model.features=64 .*config.checkpoint=a is"),
        ('config.checkpoint = "a"', {"pretrained__text": "b"}, "pretrained.text=b .*config.checkpoint=a is a whole"),
        ("", {"checkpoint": "a", "model__features": 64}, "model.features=64 .*config.checkpoint=a is a whole"),
        ('config.checkpoint = "a"', {"model__image__kind": "resnet"}, "model.image.kind=resnet .*is a whole model"),
        (
            'config.pretrained = {"image": "b"}; config.model = {"image": {"width": 8, "heads": 2}}',
            {},
            "heads=2, .*width",
        ),
        ('config.data = {"source": "tiny_world", "tiny_world": {"count": 3}}', {}, None),
        ('config.data = {"source": "photos", "tiny_world": {"count": 3}}', {}, r"source=photos is read as folder"),
        ('config.data = {"source": "tiny_world", "tiny_world": {"count": 3}}', {"data__source": "photos"}, None),
        ('config.data = {"folder": {"ignore_zero": True}}', {"data__source": "ade20k:a"}, None),
        ('config.data = {"folder": {"ignore_zero": True}}', {}, None),
        ("", {"data__folder__ignore_zero": True, "data__source": "ade20k:a"}, "ignore_zero=True .* read as catalog"),
        ("", {"evaluation__catalog__split": "val"}, "without config.evaluation.source"),
        ("", {"data__source": "ade20k:a:val", "data__catalog__split": "val"}, "source=ade20k:a:val names the split"),
        ('config.training = {"epochs": 9}', {"training__steps": 9}, None),
        (
            "",
            {"training__steps": 9, "training__epochs": 9},
            "training.epochs=9 has no effect beside config.tr",
        ),
        ('config.training = {"steps": 9, "epochs": 9}', {}, "training.epochs=9 has no effect beside"),
        ('config.training = {"epochs": 9, "stop_after": 9}', {}, "the schedule ends after 9 epochs"),
        ('config.root = "a"; config.data = {"source": config.get_ref("root") + "/b"}', {"root": "c"}, None),
        (
            'config.root = "a"; config.data = {"source": config.get_ref("root") + "/b"}',
            {"root": "c", "data__source": "photos"},
            "config.root=c has no effect, because flags give what the file makes of it",
        ),
    ],
)
def test_what_a_file_and_flags_say_together(lines, flags, message, tmp_path):
    """A flag replaces what a file says for what the flag replaces; anything else that is given and idle is refused."""
    if message is None:
        config, idle = given(tmp_path, lines, **flags)
        written = effects.recorded(config, idle, {})
        assert not effects.leaves(written).keys() & idle
        return
    with pytest.raises(ConfigError, match=message):
        given(tmp_path, lines, **flags)


def test_what_is_recorded():
    config = settings.load(f"{ROOT}/configs/lseg_mix.py")
    config.checkpoint = "a"
    changed, idle = settings.effective(config, {"checkpoint"})
    found = effects.recorded(changed, idle, {"model": {"features": 8, "image": {"kind": "vit"}}, "training.steps": 7})
    assert found["model"] == {"features": 8, "image": {"kind": "vit"}} and found["training"]["steps"] == 7
    assert "pretrained" not in found and set(found["data"]) == {"source", "strict", "catalog", "weights"}
