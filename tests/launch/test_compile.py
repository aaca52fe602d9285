"""Compiling for a TPU slice, with libtpu where `make test` puts it."""

import json
import os
import types
from pathlib import Path

import jax
import pytest
from jax.experimental import topologies

from launch import hlo
from tests import micro
from tests.commands import ROOT, Commands, ending

COMMANDS = Commands("launch")
LIBTPU = Path(os.environ.get("TPU_LIBRARY_PATH", ROOT / ".venv/libtpu/libtpu/libtpu.so"))
needs_libtpu = pytest.mark.skipif(
    not LIBTPU.exists(), reason="libtpu is not there: make test puts it into .venv/libtpu"
)
TINY = ("--config=configs/tiny.py", "--topology=v5e:2x4", f"--libtpu={LIBTPU.parent}")


def compile_for(*arguments):
    return COMMANDS.spawn("compile", *arguments, TPU_LIBRARY_PATH=str(LIBTPU), PYTHONWARNINGS="ignore")


@needs_libtpu
def test_data_parallel_training_exchanges_its_gradients_once(tmp_path):
    report = tmp_path / "report.json"
    micro.save_ifseg(tmp_path / "model")
    # Without dropout, which is a quarter of the time to compile.
    model = {"remat": "none", "dropout": 0.0, "drop_path": 0.0}
    settings = [f"--config.checkpoint={tmp_path / 'model'}", *(f"--config.model.{k}={v}" for k, v in model.items())]
    code, output, errors = ending(compile_for(*TINY, *settings, "--programs=train", f"--out={report}"))
    assert (code, errors) == (0, "") and "16 images on 8 chips (TPU v5e), per chip" in output
    (found,) = json.loads(report.read_text())["programs"]
    # In a model this small products of full precision, which take six passes, are much of the rest.
    assert found["fits"] and 0.65 < found["model_share"] < 1
    assert {exchange["kind"] for exchange in found["exchanges"]} == {"all-reduce"}
    # Parameters, two moments of each, and next to nothing that is not trained.
    parameters = found["state_bytes"] / 3
    exchanged = sum(exchange["bytes"] for exchange in found["exchanges"])
    assert 0.9 * parameters < exchanged < 1.1 * parameters


@needs_libtpu
@pytest.mark.slow
def test_neither_scores_nor_biases_of_the_trained_grid_reach_memory(tmp_path):
    """And averaging over neighbours neither sorts all similarities nor gathers rows of them."""
    line = ("--config=configs/coco.py", "--topology=v5e:2x4", f"--libtpu={LIBTPU.parent}", f"--texts={tmp_path}")
    process = compile_for(*line, "--config.model.dtype=bfloat16", "--programs=train,segmentation")
    code, _, errors = ending(process)
    assert (code, errors) == (0, "")

    def found(name):
        program, _ = hlo.parse((tmp_path / f"{name}.hlo").read_text())
        for instruction in (instruction for inside in program.values() for instruction in inside.values()):
            for array in hlo.arrays(instruction.shape):
                yield instruction.operation, array.kind, array.sizes

    lengths = (1024, 1025, 1237)  # of cells, with <s>, and with words
    kernels = 0
    for operation, kind, sizes in found("train"):
        kernels += operation == "custom-call" and sizes == (2, 1237, 768)
        assert kind not in ("f32", "bf16") or sum(size in lengths for size in sizes) < 2, sizes
        assert tuple(sizes[-4:]) != (32,) * 4
    assert kernels
    rows = {size for _, _, sizes in found("segmentation") for size in sizes if 1300 < size < 2000}
    for operation, _, sizes in found("segmentation"):
        square = len(sizes) > 1 and sizes[-2] in rows and sizes[-1] in rows
        assert not (square and operation in ("sort", "gather")), sizes


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_is_said(tmp_path):
    line = ("--config=configs/lseg_ade20k.py", "--topology=v5e:2x2", "--chips=1", "--programs=train")
    code, output, errors = ending(compile_for(*line, f"--libtpu={LIBTPU.parent}", "--config.training.batch_size=64"))
    assert (code, errors) == (1, "") and ("does not fit" in output or "DOES NOT FIT" in output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology=v9:2x2",), "topology 'v9:2x2' is not like v5e:4x4"),
        (("--libtpu=nowhere",), "nowhere: no libtpu.so below"),
        (("--chips=9",), "--chips=9: v5e:2x4 has 8"),
        (("--programs=trian",), "--programs=trian: there are train, inference, segmentation"),
        (("--config.data.source=photos",), "config.data.source=photos has no effect in image_free training"),
        (("--mesh=data=3",), "asks for 3 devices, which does not fit the 8"),
    ],
)
def test_refusals(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "libtpu.so").touch()
    chips = types.SimpleNamespace(devices=[object()] * 8)
    monkeypatch.setattr(topologies, "get_topology_desc", lambda *_, **__: chips)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    assert message in COMMANDS.refusal(capsys, "compile", *TINY[:2], f"--libtpu={tmp_path}", *arguments)
