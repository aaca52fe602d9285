import dataclasses
import functools

import jax.export
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.commands import SIZE, files_in, room_for
from vlseg import packages
from vlseg.checkpoints.directory import WEIGHTS_FILE
from vlseg.commands import export
from vlseg.errors import ConfigError
from vlseg.evaluation.crf import CRF


def test_a_directory(commands, model, loaded, tmp_path):
    out = tmp_path / "directory"
    flags = (f"--checkpoint={model}", "--labels=car,fish", "--weights=float16", f"--out={out}")
    assert commands.output("export", *flags) == f"wrote {out}\n"
    exported = packages.find(loaded.package).load(out)
    assert exported.labels == ("car", "fish") and exported.inference == loaded.inference
    found = load_file(out / WEIGHTS_FILE)
    for name, value in load_file(model / WEIGHTS_FILE).items():
        np.testing.assert_array_equal(found[name], value.astype(np.float16), strict=True)


def test_settings_of_inference(commands, model, loaded, folder, tmp_path, capsys):
    """A directory keeps them. A file of compiled code has no place for them: flags are refused, stored ones named."""
    out, refined = tmp_path / "directory", tmp_path / "refined"
    commands.output("export", f"--checkpoint={model}", "--brightness=0.5", f"--out={out}")
    exported = packages.find(loaded.package).load(out)
    assert exported.inference == dataclasses.replace(loaded.inference, brightness=0.5)
    seen = dataclasses.replace(loaded.inference, crf=CRF(iterations=2, exact=True))
    dataclasses.replace(loaded, inference=seen).save(refined)
    assert packages.find(loaded.package).load(refined).inference == seen

    def line(checkpoint, *flags):
        given = (f"--checkpoint={checkpoint}", f"--out={tmp_path / 'c'}", *flags)
        return commands.refusal(capsys, "export", *given)

    for kind in ("directory", "stablehlo"):
        assert "give --crf to evaluate or predict" in line(model, "--crf", f"--format={kind}")
    stablehlo = ("--format=stablehlo", "--platforms=cpu")
    assert "leave out --brightness, or give --format=directory" in line(model, "--brightness=0.5", *stablehlo)
    seen_too = dataclasses.replace(seen, brightness=0.5)
    dataclasses.replace(loaded, inference=seen_too).save(tmp_path / "both")
    for number, (source, flags, lost) in enumerate(
        (
            (
                refined,
                (),
                "without this model's crf_iterations 2, crf_exact True: a StableHLO file has no CRF and sees",
            ),
            (tmp_path / "both", ("--nocrf",), "without this model's brightness 0.5: a StableHLO file"),
            (refined, ("--nocrf",), ""),
        )
    ):
        target = tmp_path / f"file{number}"
        output = commands.output("export", f"--checkpoint={source}", f"--out={target}", *flags, *stablehlo)
        *first, last = output.splitlines()
        assert last == f"wrote {target}" and len(first) == bool(lost) and "".join(first).startswith(lost)
    commands.output("export", f"--checkpoint={refined}", f"--out={tmp_path / 'd'}")
    assert packages.find(loaded.package).load(tmp_path / "d").inference == seen


def test_a_stablehlo_file(commands, model, loaded, photo, tmp_path):
    target = tmp_path / "model.jax"
    sides = (f"--height={SIZE[0]}", f"--width={SIZE[1]}", "--platforms=cpu,tpu")
    commands.output("export", f"--checkpoint={model}", "--format=stablehlo", *sides, f"--out={target}")
    exported = jax.export.deserialize(bytearray(target.read_bytes()))
    assert exported.platforms == ("cpu", "tpu") and exported.in_avals[0].shape[1:] == (*SIZE, 3)
    result = exported.call(np.asarray(Image.open(photo))[None].repeat(2, axis=0))
    assert {name: int(index) for name, index in result["ids"].items()} == {n: i for i, n in enumerate(loaded.labels)}
    found = np.asarray(result["label_map"])
    assert np.mean(found == loaded.segment(photo).label_map) > 0.999


def test_targets_that_cannot_be(commands, model, loaded, tmp_path, capsys, monkeypatch):
    (tmp_path / "taken").mkdir()

    def line(target, *flags):
        return commands.refusal(capsys, "export", f"--checkpoint={model}", f"--out={tmp_path / target}", *flags)

    assert "exists already" in line("taken")
    stablehlo = functools.partial(line, "c", "--format=stablehlo")
    assert "platforms abacus: choose some of cpu, cuda" in stablehlo("--platforms=cpu,abacus")
    assert "--platforms is empty" in stablehlo("--platforms=")
    assert "format" in line("c", "--format=clay")
    assert "unexpected argument 'grass'" in line("c", "--labels=tree,", "grass")
    assert "--out is required" in commands.refusal(capsys, "export", f"--checkpoint={model}")
    assert "cannot write /proc/model" in line("/proc/model")  # it takes no files, not even root's
    with room_for(500):
        for kind in ("directory", "stablehlo"):
            assert f"cannot write {tmp_path / 'c'}" in line("c", f"--format={kind}")
    assert files_in(tmp_path) == set()
    monkeypatch.setattr("vlseg.commands.export._MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="GB of weights"):
        export.write_stablehlo(tmp_path / "c", loaded.image_function(None), *SIZE, ("cpu",))
