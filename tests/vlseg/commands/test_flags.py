"""Flags without effect are refused, and outputs that cannot be are told before a model is read."""

import pytest

from tests.buckets import stand_in
from tests.commands import ROOT, Commands
from vlseg.commands import models

TINY = f"--checkpoint={ROOT / 'lseg_jax/tiny'}"
USELESS = {
    ("export", "--out=out --height=64"): "--height has no effect with --format=directory",
    ("export", "--out=out --platforms=cpu"): "--platforms has no effect with --format=directory",
    ("export", "--out=a.ckpt --format=official --weights=float16"): "--weights has no effect with --format=official",
    ("export", "--out=a.ckpt --format=official --labels=cat,dog"): "--labels has no effect with --format=official",
    ("export", "--out=a --format=stablehlo --known_labels=cat"): "--known_labels has no effect with --format=stablehlo",
    ("convert", f"{TINY} --out=a.ckpt --tokenizer=a"): "--tokenizer has no effect",
    ("embed", "--images=configs --out=out --tokenizer=a"): "--tokenizer has no effect",
    ("predict", "--images=PHOTO --labels=cat --out=out --tokenizer=configs"): "a tokenizer has no effect",
    ("predict", "--images=PHOTO --labels=cat --out=out --min_margin=0.1"): "--min_margin has no effect with one label",
    ("pseudo_label", "--images=PHOTO --out=out --split=val --ignore_zero"): "--split, --ignore_zero: of a data set",
    ("evaluate", "--data=ade20k:ROOT:val --split=train"): "names the split, and so does --split=train",
    ("evaluate", "--data=tfds:scenes:ROOT:val --split=train"): "names the split, and so does --split=train",
    ("evaluate", "--data=tiny_world --coordinator_timeout=9"): "--coordinator_timeout has no effect on one process",
    (
        "evaluate",
        "--config=configs/lseg_ade20k.py --root=ROOT",
    ): "has no effect on evaluation, whose settings are",
    ("evaluate", "--config=configs/open_vocabulary.py:voc20 --root=ROOT --config.threshold=0.5"): (
        "--config.threshold has no effect with config.background=none"
    ),
    ("evaluate", "--data=tiny_world --out="): "--out is empty, as a shell variable without a value",
    ("export", "--out="): "--out is empty, as a shell variable without a value",
    ("fewshot", "--benchmark=fss1000 --root=ROOT --fold=1"): "fold 1 has no effect: FSS-1000 has no folds",
}


LOADING = "predict"
"""A command that reads the model before it can tell."""


@pytest.mark.parametrize(
    ("command", "flags"),
    [pytest.param(*key, marks=pytest.mark.slow) if key[0] == LOADING else key for key in USELESS],
)
def test_flags_without_effect(command, flags, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    line = Commands("lseg_jax").refusal(capsys, command, *flags.replace("PHOTO", str(photo)).split())
    assert USELESS[command, flags] in line
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


WRITING = {
    "evaluate": "--data=DATA",
    "predict": "--images=DATA/images --labels=cat,dog",
    "pseudo_label": "--images=DATA/images",
    "export": "",
    "embed": "--images=DATA/images",
    "fewshot": "--benchmark=pascal5i --root=DATA",
    "convert": TINY,
}


@pytest.mark.parametrize("command", WRITING)
def test_outputs_that_cannot_be_are_told_before_the_model_is_read(command, folder, tmp_path, capsys, monkeypatch):
    def read(*_):
        raise AssertionError("the model was read")

    monkeypatch.setattr(models, "load", read)
    (tmp_path / "file").write_text("")
    flags = WRITING[command].replace("DATA", str(folder)).split()
    line = Commands("lseg_jax").refusal(capsys, command, *flags, f"--out={tmp_path}/file/inner")
    assert f"cannot write {tmp_path}/file/inner" in line and "file" in line


def test_a_report_in_a_bucket_is_not_overwritten(tmp_path, monkeypatch, capsys):
    stand_in(tmp_path, monkeypatch)
    (tmp_path / "bucket").mkdir(exist_ok=True)
    (tmp_path / "bucket/report.json").write_text("mine")
    flags = ("--config=configs/coco.py", "--topology=v5e:2x2", "--out=gs://bucket/report.json")
    assert "gs://bucket/report.json exists already" in Commands("launch").refusal(capsys, "compile", *flags)
    assert (tmp_path / "bucket/report.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--config=configs/coco.py", "pre-training has no setting"),
        ("--config=configs/tiny_pretrain.py --config.model.width=100 --config.model.heads=3", "100 is not a multiple"),
        ("--config=configs/tiny_pretrain.py --config.batch_size=0", "config.batch_size is 0"),
        ("--config=configs/tiny_pretrain.py --config.image_size=63", "config.image_size is 63; it must be a multiple"),
        ("--config=configs/tiny_pretrain.py --config.adaptation.steps=0", "config.adaptation.steps is 0"),
    ],
)
def test_pretraining_names_what_is_wrong(flags, message, tmp_path, capsys):
    line = Commands("ifseg_jax").refusal(capsys, "pretrain", *flags.split(), f"--workdir={tmp_path / 'run'}")
    assert message in line and not (tmp_path / "run").exists()
