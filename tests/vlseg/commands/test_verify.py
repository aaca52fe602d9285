"""Checks of a model whose package adds none, and what they are made of."""

import shutil
import tomllib

import numpy as np
import pytest

from tests.buckets import stand_in
from tests.commands import ROOT
from vlseg import verification
from vlseg.checkpoints.directory import WEIGHTS_FILE
from vlseg.checkpoints.download import WeightFile
from vlseg.checkpoints.rules import ArrayTensor
from vlseg.verification import Check


def test_a_third_model(commands, model, tmp_path, capsys):
    code, found = commands.screen(capsys, f"--checkpoint={model}", f"--out={tmp_path / 'picture.jpg'}")
    assert code == 0
    assert {what: mark for what, (mark, _) in found.items()} == {
        "file": "yes", "SHA-256": "-", "names and shapes": "yes", "finite values": "yes", "plausible values": "yes",
        "tokens": "-", "photograph": "yes", "picture": "-", "time": "-",
    }  # fmt: skip
    assert verification.photograph().shape == (512, 512, 3)
    assert (tmp_path / "picture.jpg").stat().st_size > 10_000


def test_a_step_of_a_run(commands, run, capsys):
    step = max(int(path.name) for path in (run[0] / "checkpoints").iterdir() if path.name.isdecimal())
    for flags in ([f"--checkpoint={run[0]}"], [f"--checkpoint={run[0]}/checkpoints/{step}"]):
        code, found = commands.screen(capsys, *flags)
        assert code == 0 and found["finite values"][0] == "yes", found
    assert "a step of a training run" in found["file"][1]


def test_a_directory_that_lost_its_weights(commands, model, tmp_path, capsys):
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / WEIGHTS_FILE).write_bytes((copy / WEIGHTS_FILE).read_bytes()[:-40])
    code, found = commands.screen(capsys, f"--checkpoint={copy}")
    assert code == 1 and found["names and shapes"][0] == "no" and "cannot be read" in found["names and shapes"][1]
    (copy / WEIGHTS_FILE).unlink()
    code, found = commands.screen(capsys, f"--checkpoint={copy}")
    assert code == 1 and found["file"] == ("no", f"{copy / WEIGHTS_FILE} is not there")


def test_pictures_that_cannot_be_written_are_wrong_use(commands, model, tmp_path, capsys):
    assert commands.call("verify", f"--checkpoint={model}", f"--out={tmp_path}/absent/picture.png") == 2
    assert commands.call("verify", f"--checkpoint={model}", f"--out={tmp_path}/picture.text") == 2
    (tmp_path / "there.png").touch()
    assert commands.call("verify", f"--checkpoint={model}", f"--out={tmp_path}/there.png") == 2
    assert "there.png exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]


def test_a_picture_in_a_bucket(commands, model, tmp_path, monkeypatch, capsys):
    stand_in(tmp_path, monkeypatch)
    flags = f"--checkpoint={model}", "--out=gs://bucket/a/picture.png"
    code, found = commands.screen(capsys, *flags)
    assert code == 0 and "gs://bucket/a/picture.png shows it" in found["picture"][1]
    assert (tmp_path / "bucket/a/picture.png").stat().st_size > 10_000
    assert "gs://bucket/a/picture.png exists already" in commands.refusal(capsys, "verify", *flags)


def test_the_photograph_is_part_of_the_package():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["vlseg"]
    relative = verification.PHOTOGRAPH.relative_to(ROOT / "vlseg")
    assert any(relative.match(pattern) for pattern in data)
    assert verification.PHOTOGRAPH.stat().st_size <= 60_000
    assert "public domain" in verification.PHOTOGRAPH.with_name("README.md").read_text()


@pytest.mark.parametrize(
    ("published", "passed"),
    [
        (None, [True, None]),
        (WeightFile(""), [True, None]),
        (WeightFile("", 3), [True, None]),
        (WeightFile("", 4), [False, None]),
        (WeightFile("", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), [True, True]),
        (WeightFile("", 3, "aa7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), [True, False]),
    ],
)
def test_files_beside_published_ones(tmp_path, published, passed):
    (tmp_path / "file").write_bytes(b"abc")
    assert [check.passed for check in verification.of_file(tmp_path / "file", published)] == passed


KERNEL = np.random.default_rng(0).normal(0, 0.1, (3, 3, 8, 8)).astype(np.float32)


def one_of_zeros():
    kernel = KERNEL.copy()
    kernel[1, 2] = 0
    return kernel


@pytest.mark.parametrize(
    ("changes", "passed", "found"),
    [
        ({}, (True, True), "from 0.0"),
        ({"kernel": one_of_zeros()}, (True, False), "kernel deviates by 0 to 0.1"),
        ({"kernel": 1e3 * KERNEL}, (True, False), "kernel deviates by"),
        ({"variance": np.array([1.0, -1e-3])}, (True, False), "variance is below 0"),
        ({"scale": np.array([1.0, 1e6])}, (True, False), "scale reaches 1e+06"),
        ({"scale": np.array([1.0, np.nan])}, (False, True), "from 0.0"),
    ],
)
def test_values(changes, passed, found):
    values = {"kernel": KERNEL, "variance": np.ones(2), "scale": np.ones(2)} | changes
    checks = list(verification.of_values({"params": values}))
    assert tuple(check.passed for check in checks) == passed
    assert found in checks[1].found


@pytest.mark.parametrize(
    ("written", "passed"),
    [
        ({"a": np.float32([0.0, 1])}, True),
        ({"a": np.float32([-0.0, 1])}, False),
        ({"a": np.float64([0.0, 1])}, False),
        ({"a": np.float32([[0.0, 1]])}, False),
        ({}, False),
        ({"a": np.float32([0.0, 1]), "b": np.float32(0)}, False),
    ],
)
def test_conversion_to_the_last_bit(written, passed):
    assert verification.same_bits({"a": ArrayTensor(np.float32([0.0, 1]))}, written).passed == passed


def test_numbers_that_are_none_agree_with_nothing():
    numbers = np.array([1.0, -2.0])
    assert verification.agreement("x", numbers * (1 + 9e-5), numbers).passed
    assert not verification.agreement("x", numbers * (1 + 2e-4), numbers).passed
    for broken in ([np.nan, -2.0], [np.inf, -2.0]):
        assert verification.agreement("x", np.array(broken), numbers).passed is False
        assert verification.agreement("x", numbers, np.array(broken)).passed is False


def test_tokens():
    known = {"cat": (1, 2), "dog": (3,)}
    assert verification.tokens(known, {"cat": [1, 2], "dog": [3]}.__getitem__, "OFA's ids").passed
    expected = Check(False, "tokens", "1 of 2 known texts differ: 'cat' is [1], OFA's ids are [1, 2]")
    assert verification.tokens(known, {"cat": [1], "dog": [3]}.__getitem__, "OFA's ids") == expected
