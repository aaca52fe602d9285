"""Conversion between a package's format and an official one."""

import dataclasses

import numpy as np
import pytest

from tests import toy
from tests.commands import files_in, room_for
from vlseg import packages, torch_files
from vlseg.checkpoints.directory import WEIGHTS_FILE, Stored, Weights
from vlseg.checkpoints.rules import unflatten
from vlseg.commands.convert import convert
from vlseg.errors import ConfigError, StorageError


def read(path, place=np.ascontiguousarray):
    if path.is_dir():
        return toy.read(path, place=place)
    flat = {f"params/{name}": place(one.read()) for name, one in torch_files.load_state_dict(path).items()}
    return Stored(toy.Config(flat["params/bias"].size), Weights(unflatten(flat)))


def write(path, stored):
    torch_files.save(path, {"model": dict(stored.weights.variables["params"])})


@pytest.fixture
def package():
    """The package as if others had published models in a format of theirs."""
    before = packages.find(toy.Toy.package)
    official = packages.Official((".pt", ".bin"), write)
    yield packages.register(dataclasses.replace(before, read=read, official=official))
    packages.register(before)


def test_there_and_back(commands, package, model, tmp_path):
    first, middle, last, exported = (tmp_path / name for name in ("first.pt", "directory", "last.bin", "exported.pt"))
    assert commands.output("convert", f"--checkpoint={model}", f"--out={first}") == f"wrote {first}\n"
    convert(package, first, middle)
    assert (middle / WEIGHTS_FILE).read_bytes() == (model / WEIGHTS_FILE).read_bytes()
    convert(package, middle, last)
    commands.output("export", f"--checkpoint={model}", "--format=official", f"--out={exported}")
    assert first.read_bytes() == last.read_bytes() == exported.read_bytes()


def test_targets_that_cannot_be(commands, package, model, tmp_path, capsys):
    official = tmp_path / "a.pt"
    convert(package, model, official)

    def line(target, command="convert", *flags):
        return commands.refusal(capsys, command, f"--checkpoint={model}", f"--out={tmp_path / target}", *flags)

    assert "is a model directory already; name a target that ends in .pt" in line("b")
    assert "exists already" in line("a.pt")
    assert "exists already" in line("a.pt", "export", "--format=official")
    assert "give --format=official" in line("b.pt", "export")
    assert "create that first" in line("absent/b.pt")
    with pytest.raises(ConfigError, match=r"official checkpoint already; name a target that does not end in \.pt"):
        convert(package, official, tmp_path / "b.pt")
    with room_for(500):
        with pytest.raises(StorageError, match=f"cannot write {tmp_path / 'b'}"):
            convert(package, official, tmp_path / "b")
        assert f"cannot write {tmp_path / 'b.pt'}" in line("b.pt", "export", "--format=official")
    assert files_in(tmp_path) == {"a.pt"}


@pytest.mark.parametrize(("command", "flags"), [("convert", []), ("export", ["--format=official"])])
def test_a_package_without_an_official_format(commands, model, tmp_path, capsys, command, flags):
    line = commands.refusal(capsys, command, f"--checkpoint={model}", f"--out={tmp_path / 'a.pt'}", *flags)
    assert "has no official format" in line
