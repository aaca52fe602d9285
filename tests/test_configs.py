"""Every configuration can be loaded, and the commands that it documents run on samples in the official layouts."""

import dataclasses
import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lseg_jax
from configs import lseg_mix
from ifseg_jax.prompt import PROMPT, UNKNOWN
from ifseg_jax.settings import Adaptation
from lseg_jax.checkpoint import parameter_shapes
from lseg_jax.config import CLIPImageConfig, LSegConfig
from lseg_jax.objective import Matching
from lseg_jax.settings import Training
from tests import efficientnets, micro, samples
from tests.commands import ROOT, SPAWNED, Commands
from tests.samples import SAMPLES
from vlseg import labels, settings, torch_files
from vlseg.checkpoints import efficientnet
from vlseg.data import catalog, episodes
from vlseg.evaluation.protocols import PROTOCOLS
from vlseg.evaluation.scoring import Vocabulary

CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted({path.stem for path in CONFIGS.glob("*.py")} - {"__init__"})
RUNS = [name for name in EXPERIMENTS if name not in ("open_vocabulary", "tiny_pretrain", "clothing_pretrain")]
"""Those that a package's `train` takes."""
BLOCKS = [f"{block}-{depth}" for block in ("bottleneck", "depthwise") for depth in (1, 2, 4)]
DATA = ["voc20", "voc21", "context59", "context60", "coco_object", "coco_stuff", "cityscapes", "ade20k"]
ARGUMENTS = {
    "ade20k": ["image_free", "supervised"],
    "tiny": ["image_free", "supervised"],
    "ifseg_clothing": ["image_free", "supervised"],
    "coco_self_training": ["unseen", "seen"],
    "lseg_ade20k": ["vit_b32", "rn50x16", "clip_vit_b16"],
    "lseg_text_encoders": ["vit_b32", "vit_b16", "rn50x4", "rn50x16"],
    "lseg_blocks": ["none", *BLOCKS],
    "lseg_zero_shot": ["pascal5i", "coco20i", "fss1000"],
    "open_vocabulary": DATA,
    "ifseg_open_vocabulary": DATA,
}
COMMAND = re.compile(r"(?:Evaluate with: )?python -m (ifseg_jax|lseg_jax)\.(\w+) (.*)")


def documented(name: str) -> list[tuple[str, str, list[str]]]:
    """The commands in the docstring of a configuration: package, module and flags."""
    text = (importlib.import_module(f"configs.{name}").__doc__ or "").replace("\\\n", " ").replace("\\ ", " ")
    found = [COMMAND.fullmatch(line.strip()) for line in text.splitlines()]
    return [(match[1], match[2], shlex.split(match[3], comments=True)) for match in found if match]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_configuration_says_how_it_is_run_and_what_is_expected(name):
    module = importlib.import_module(f"configs.{name}")
    text = f"{module.__doc__}\n{module.get_config.__doc__}"
    assert "Hardware: " in text and "xpected" in text
    assert "not run" in text or "measured" in text
    lines = [" ".join(flags) for _, _, flags in documented(name)]
    assert any(f"--config=configs/{name}.py" in line for line in lines)
    for argument in ARGUMENTS.get(name, []):
        assert re.search(rf"\b{argument}\b", text), argument


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, argument) for name in EXPERIMENTS for argument in (None, *ARGUMENTS.get(name, []))],
)
def test_a_configuration_holds_settings_that_can_be(name, argument):
    get_config = importlib.import_module(f"configs.{name}").get_config
    config = get_config() if argument is None else get_config(argument)
    if name == "open_vocabulary":
        entry = catalog.entry(config.data)
        vocabulary = Vocabulary.from_config(config)
        vocabulary.check(entry.classes.names)
        assert config.split in entry.splits and len(set(vocabulary.asked)) == len(vocabulary.asked)
        # Apart from the background these are the words of the catalog.
        first = 0 if config.background == "none" else 1
        assert tuple(words[0] for words in config.words[first:]) == entry.classes.prompts[first:]
        return
    if name in RUNS:
        whole = completed(name, *([argument] if argument else []))
        if whole.package == "lseg_jax":
            LSegConfig.from_dict(whole.model.to_dict())
            settings.read(Training, whole.training, "training")
        else:
            settings.read(Adaptation, whole.adaptation, "adaptation")
            assert whole.categories


def completed(name, *argument):
    """With all defaults."""
    return settings.load(":".join([f"{CONFIGS / name}.py", *argument]))


@pytest.mark.parametrize("name", RUNS)
def test_a_configuration_works_wherever_it_is_copied(name, tmp_path, monkeypatch):
    text = (CONFIGS / f"{name}.py").read_text()
    assert not re.search(r"^\s*(from|import) (configs|ifseg_jax|lseg_jax)\b", text, re.MULTILINE)
    (tmp_path / "mine.py").write_text(text)
    here = completed(name)
    monkeypatch.chdir(tmp_path)
    assert settings.load("mine.py") == here


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "names no package"),
        ('{"package": "absent"}', "no package of that name is installed"),
        ('{"package": "json"}', "is no package with a model"),
        ('{"package": "lseg_jax", "speed": 3}', "config.speed: no such setting"),
        ('{"package": "lseg_jax", "training": {"speed": 3}}', "config.training.speed: no such setting"),
        ('{"package": "lseg_jax", "training": {"steps": "many"}}', "config.training.steps: "),
    ],
)
def test_a_configuration_that_cannot_be_used(text, message, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({text})\n"
    )
    flags = (f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}")
    assert message in Commands("lseg_jax").refusal(capsys, "train", *flags)


def test_a_configuration_of_another_package(capsys, tmp_path):
    line = Commands("lseg_jax").refusal(capsys, "train", "--config=configs/coco.py", f"--workdir={tmp_path / 'run'}")
    assert "run python -m ifseg_jax.train" in line


def test_published_settings():
    """What tells the tables apart (LSeg paper, Sec. 4 and 5)."""
    lseg = completed
    model = LSegConfig.from_dict(lseg("lseg_blocks", "depthwise-4").model.to_dict())
    assert (model.block, model.block_depth, model.image.patch, model.image.layers) == ("depthwise", 4, 32, 12)
    assert LSegConfig.from_dict(lseg("lseg_blocks", "none").model.to_dict()).block == "none"
    texts = {name: lseg("lseg_text_encoders", name).model.text for name in ARGUMENTS["lseg_text_encoders"]}
    assert {name: text.features for name, text in texts.items()} == {
        "vit_b32": 512, "vit_b16": 512, "rn50x4": 640, "rn50x16": 768,
    }  # fmt: skip
    large = lseg("lseg_ade20k", "rn50x16")
    assert (large.model.text.features, large.model.image.layers, large.model.image.patch) == (768, 24, 16)
    assert large.training.epochs == 240
    fss = lseg("lseg_zero_shot", "fss1000").training
    assert (fss.epochs, fss.stop_after) == (60, None)
    pascal = lseg("lseg_zero_shot", "pascal5i").training
    assert (pascal.epochs, pascal.stop_after) == (200, 4)
    mix = lseg("lseg_mix")
    assert mix.training.epochs == 200
    mix.root, mix.roots.idd = "/data", "/other/idd"
    assert mix.to_dict()["data"]["source"].split(",") == [
        "ade20k:/data/ade20k", "bdd100k:/data/bdd100k", "cityscapes:/data/cityscapes",
        "coco_panoptic:/data/coco_panoptic", "idd:/other/idd", "mapillary:/data/mapillary", "sun_rgbd:/data/sun_rgbd",
    ]  # fmt: skip


RATES = {
    **dict.fromkeys(("lseg_ade20k", "lseg_blocks", "lseg_text_encoders", "lseg_mix"), (12, 0.00025, 0.0025)),
    "lseg_from_ifseg": (12, 0.00025, 0.0025),
    "lseg_zero_shot:pascal5i": (40, 0.005, 0.05),
    "lseg_zero_shot:coco20i": (40, 0.005, 0.05),
    "lseg_zero_shot:fss1000": (40, 0.0625, 0.625),
    "lseg_tiny": (16, 1e-3, 1e-3),
    "lseg_folder": (8, 2e-4, 2e-3),
    "lseg_clothing": (8, 2e-4, 2e-3),
}
"""Images in an update, and learning rates of encoder and decoder. The authors' are base / 16 * images of a process."""


@pytest.mark.parametrize("name", RATES)
def test_rates_and_batches(name):
    training = settings.read(Training, completed(*name.split(":")).training, "training")
    examples = 20210
    summary = Matching(LSegConfig(), training, examples, 1, 1).summary()
    found = [summary[key] for key in ("images_per_update", "encoder_learning_rate", "decoder_learning_rate")]
    assert found == pytest.approx(RATES[name])
    assert summary["steps"] == training.total_steps(examples)
    if training.steps is None:
        assert summary["epochs"] == (training.stop_after or training.epochs)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_words_after_the_colon_that_are_unknown(name, capsys, tmp_path):
    evaluated = name == "open_vocabulary"
    package = "lseg_jax" if evaluated or name.startswith("lseg") else "ifseg_jax"
    module, flag = ("evaluate", "--root") if evaluated else ("train", "--workdir")
    arguments = (f"--config=configs/{name}.py:colours", f"{flag}={tmp_path / 'run'}")
    line = Commands(package).refusal(capsys, module, *arguments)
    assert ".py:colours: after the colon give one of " in line
    assert line.strip().split("give one of ")[1].split(", ") == ARGUMENTS[name]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_takes_nothing_after_the_colon(capsys):
    line = Commands("ifseg_jax").refusal(capsys, "train", "--config=configs/coco.py:unseen", "--workdir=absent")
    assert "configs/coco.py:unseen: this file takes nothing after the colon" in line


# The documented commands, word for word, in a folder with all that they name


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Path:
    """Files that LSeg starts from, by OpenAI's and timm's names, small."""
    root = tmp_path_factory.mktemp("encoders")
    tower = CLIPImageConfig(16, 64, 1, 4, 3, micro.IMAGE.reassembled)
    text = dataclasses.replace(micro.TEXT, context=77, vocabulary=49408)
    for name, encoder in {"CLIP": text, "VIT": micro.IMAGE, "CLIP_IMAGE": tower}.items():
        part = "text" if name == "CLIP" else "image"
        shapes_of = parameter_shapes(dataclasses.replace(micro.LSEG, **{part: encoder}))
        rules, state = encoder.rules(), {}
        for rule in rules:
            array = micro.parameter(rule.path, shapes_of[rule.path])[() if rule.layer is None else rule.layer]
            state[rule.official] = np.ascontiguousarray(rule.layout.to_official(array))
        torch_files.save(root / name, state)
    return root


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> Path:
    """Folders with a small model for IFSeg that knows all lists' words, adapted to the list that it is named after."""
    root = tmp_path_factory.mktemp("adapted")
    lists = " ".join(name for known in labels.known() for name in labels.load(known))
    texts = f"{PROMPT} {UNKNOWN} {lists} {' '.join(PROTOCOLS['voc21'].words[0])}"
    words = list(dict.fromkeys(texts.lower().split()))
    config = dataclasses.replace(micro.IFSEG, vocabulary_size=len(words) + 4, max_positions=512)
    inference = {"short_side": 40, "long_side": 64, "knn_k": 3, "knn_iterations": 1}
    for name in ("coco_unseen_15", "coco_stuff_171"):
        micro.save_ifseg(root / name, config, "\n".join(words), inference=inference, categories=list(labels.load(name)))
    return root


def ade20k(root):
    for split in ("train", "val"):
        SAMPLES["ade20k", split](root, split)


def coco(root):
    for split in ("train", "val"):
        samples.coco_unseen(root, split)


def voc(root):
    samples.voc(0, "SegmentationClass", "val")(root)


def mix(root):
    makers = {name: maker for (name, _), maker in SAMPLES.items()}
    for name in lseg_mix.DATA_SETS:
        makers[name](root / name, "train")
    samples.cityscapes(root / "cityscapes")


def folder(root):
    """Pictures with labels, as a user has them."""
    for number in range(3):
        samples.picture(root / f"images/{number}.jpg", number)
        samples.grey(root / f"labels/{number}.png", samples.blocks(range(3), number))
    (root / "names.txt").write_text("sky\ngrass\nroad\n")


def photos(root):
    for number in range(3):
        samples.picture(root / f"{number}.jpg", number)


PLACES = {
    "ade20k": {"ROOT": ade20k},
    "clothing_pretrain": {"ROOT": samples.clothing},
    "coco": {"ROOT": samples.coco_stuff},
    "coco_self_training": {"ROOT": coco},
    "coco_unseen": {"ROOT": samples.coco_unseen},
    "ifseg_clothing": {"ROOT": samples.clothing},
    "ifseg_open_vocabulary": {"ROOT": voc},
    "lseg_ade20k": {"ROOT": ade20k},
    "lseg_blocks": {"ROOT": ade20k},
    "lseg_clothing": {"ROOT": samples.clothing},
    "lseg_folder": {"FOLDER": folder, "HELD_OUT": folder},
    "lseg_from_ifseg": {"PHOTOS": photos},
    "lseg_mix": {"ROOT": mix},
    "lseg_text_encoders": {"ROOT": ade20k},
    "lseg_zero_shot": {"ROOT": samples.pascal5i},
    "open_vocabulary": {"ROOT": voc},
}
"""Folders that the commands of a configuration name, and what fills them."""

SHRUNK = {
    ("lseg_jax", "train"): {
        "training.steps": 1,
        "training.batch_size": 2,
        "training.base_size": 64,
        "training.crop_size": 64,
        "model.features": 16,
        "data.tiny_world.count": 8,
        "evaluation.tiny_world.count": 2,
    },
    ("ifseg_jax", "train"): {
        "adaptation.steps": 1,
        "adaptation.batch_size": 1,
        "data.tiny_world.count": 8,
        "evaluation.tiny_world.count": 2,
    },
    ("ifseg_jax", "pretrain"): {"steps": 1, "batch_size": 2},
}
"""What makes a command short."""


@pytest.fixture
def desk(encoders, adapted, tmp_path, monkeypatch) -> Path:
    """The folder in which commands run, with the files and models that they name."""
    named = {
        "configs": CONFIGS,
        "BPE_DIRECTORY": adapted / "coco_unseen_15",
        **dict.fromkeys(("CLIP_VIT_B32", "CLIP_RN50X16"), encoders / "CLIP"),
        "CLIP_VIT_B16": encoders / "CLIP_IMAGE",
        **dict.fromkeys(("VIT_L16_384", "VIT_B32_384", "ENCODER"), encoders / "VIT"),
        "ADAPTED": adapted / "coco_unseen_15",
        "runs/coco_unseen/model": adapted / "coco_unseen_15",
        "runs/coco/model": adapted / "coco_stuff_171",
    }
    desk = tmp_path / "desk"
    for name, target in named.items():
        (desk / name).parent.mkdir(parents=True, exist_ok=True)
        (desk / name).symlink_to(target)
    monkeypatch.setattr(episodes, "TEST_EPISODES", 4)
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(desk)
    return desk


def lay_out(name: str, desk: Path) -> None:
    """Makes the folders that the commands of a configuration name."""
    for place, make in PLACES.get(name, {}).items():
        make(desk / place)


def shortened(package: str, module: str, flags: list[str]) -> list[str]:
    """The flags of a documented command, and those that make it short."""
    changes: dict[str, object] = dict(SHRUNK.get((package, module), {}))
    config = next((flag for flag in flags if flag.startswith("--config=")), "")
    if (package, module) == ("ifseg_jax", "train") and not config.startswith(OWN_START):
        changes["checkpoint"] = "ADAPTED"
    if module == "train":
        changes = {name: value for name, value in changes.items() if name not in without_effect(config, flags)}
    return [*flags, *(f"--config.{key}={value}" for key, value in changes.items())]


def without_effect(config: str, flags: list[str]) -> frozenset[str]:
    """The settings that have no effect in a documented run."""
    loaded = settings.load(config.removeprefix("--config="))
    given = dict(flag.removeprefix("--config.").split("=", 1) for flag in flags if flag.startswith("--config."))
    for name, value in given.items():
        *sections, last = name.split(".")
        section = functools.reduce(lambda above, part: above[part], sections, loaded)
        section[last] = int(value) if isinstance(section[last], int) else value
    return settings.effective(loaded, given.keys())[1]


OWN_START = ("--config=configs/tiny.py", "--config=configs/coco_self_training.py")
"""Configurations of IFSeg that do not start from an official checkpoint."""
FAST = ("open_vocabulary",)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS]
)
def test_documented_commands_run(name, desk, capsys, tmp_path, monkeypatch):
    lay_out(name, desk)
    encoder = completed(name).get("pretrained", {}).get("image") if name in RUNS else None
    if name == "clothing_pretrain" or encoder in efficientnet.WEIGHTS:
        efficientnets.install(monkeypatch, tmp_path / "site", efficientnets.state())
    if name == "open_vocabulary":
        (desk / "runs/lseg_mix").mkdir()
        (desk / "runs/lseg_mix/model").symlink_to(Path(lseg_jax.__file__).with_name("tiny"))
        (desk / "runs/ifseg_voc21").mkdir()
        (desk / "runs/ifseg_voc21/model").symlink_to(desk / "ADAPTED")
    elif name in ("coco", "coco_unseen"):
        (desk / f"runs/{name}/model").unlink()
    for package, module, flags in documented(name):
        capsys.readouterr()
        assert Commands(package).call(module, *shortened(package, module, flags)) == 0, (
            module,
            capsys.readouterr().err,
        )
        output, errors = capsys.readouterr()
        assert "wrote " in output or "mIoU " in output, (module, output)
        assert "WARN" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["coco20i", "fss1000"])
def test_documented_commands_of_the_other_benchmarks(benchmark, desk, capsys):
    if benchmark == "coco20i":
        samples.coco20i(desk / "ROOT", fold=0)
    else:
        for name in ("ac_wall", "abacus", "bus"):
            for number in (1, 2):
                label = f"FSS-1000/{name}/{number}.png"
                samples.labelled(desk / "ROOT", f"FSS-1000/{name}/{number}.jpg", label, [0, 255], number)
    for package, module, flags in documented("lseg_zero_shot"):
        line = [flag.replace("pascal5i", benchmark) for flag in shortened(package, module, flags)]
        assert Commands(package).call(module, *line) == 0, capsys.readouterr().err
    assert "FB-IoU" in capsys.readouterr().out


@pytest.mark.slow
def test_a_documented_command_from_a_clean_shell(desk):
    lay_out("lseg_zero_shot", desk)
    (package, module, flags), _ = documented("lseg_zero_shot")
    line = [sys.executable, "-m", f"{package}.{module}", *shortened(package, module, flags)]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "VLSEG_CACHE")}
    environment |= SPAWNED | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(line, cwd=desk, env=environment, capture_output=True, text=True, timeout=600)
    assert (result.returncode, result.stderr) == (0, "")
    assert "wrote runs/fold0/model\n" in result.stdout and "FB-IoU" in result.stdout


HALF = {
    "lseg_jax.train": "--config=configs/lseg_blocks.py --workdir=out --config.data.source=ade20k:ROOT",
    "lseg_jax.evaluate": "--data=ade20k:ROOT --out=out",
    "ifseg_jax.train": "--config=configs/ade20k.py:supervised --workdir=out --config.data.source=ade20k:ROOT",
    "ifseg_jax.evaluate": "--config=configs/open_vocabulary.py:ade20k --root=ROOT --out=out",
    "ifseg_jax.pseudo_label": "--data=ade20k:ROOT --out=out",
    "vlseg.data.prepare": "--data=ade20k:ROOT --out=out",
    "vlseg.data.check": "--dataset=ade20k --root=ROOT --out=out",
}


@pytest.mark.parametrize("command", HALF)
def test_half_a_data_set_is_refused_with_what_is_missing(command, desk, capsys):
    ade20k(desk / "ROOT")
    for split, part in {"train": "training", "val": "validation"}.items():
        (desk / f"ROOT/ADEChallengeData2016/annotations/{part}/ADE_{split}_00000001.png").unlink()
    package, _, module = command.rpartition(".")
    flags = HALF[command].split()
    if command == "ifseg_jax.train":
        flags += ["--config.checkpoint=runs/coco/model", "--config.tokenizer=BPE_DIRECTORY"]
    line = Commands(package).refusal(capsys, module, *flags)
    assert re.search(r"1 label files are missing: ADE_(train|val)_00000001\.png; ADE20K .* unpacked as ", line), line
    assert not (desk / "out").exists()


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("train", "--config=configs/lseg_zero_shot.py --workdir=out --config.benchmark.root=ROOT"),
        ("fewshot", "--benchmark=pascal5i --root=ROOT --out=out"),
    ],
)
def test_half_a_benchmark_is_refused_with_what_is_missing(module, flags, desk, capsys):
    samples.pascal5i(desk / "ROOT")
    (desk / "ROOT/VOC2012/JPEGImages/2007_000000.jpg").unlink()  # of the fold that is tested, not trained on
    line = Commands("lseg_jax").refusal(capsys, module, *flags.split())
    assert "1 of 4 files are missing: VOC2012/JPEGImages/2007_000000.jpg" in line
    assert not (desk / "out").exists()
