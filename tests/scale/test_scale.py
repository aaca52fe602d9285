"""One device and many, one process and several: the same numbers. In processes of their own, which simulate devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.scale import processes

FOLDER, ROOT = Path(__file__).parent, Path(__file__).parent.parent.parent
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def start(script, *arguments, devices=1):
    environment = os.environ | {
        "XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count={devices}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(ROOT),
    }
    line = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def results(*started):
    """What the first of some processes printed, after all ended well."""
    ended = [(process, *process.communicate(timeout=580)) for process in started]
    for process, _, errors in ended:
        assert process.returncode == 0, errors
    return json.loads(ended[0][1].splitlines()[-1])


def together(count, script, *arguments, devices=1):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    where = [f"--coordinator=localhost:{port}", f"--num_processes={count}"]
    return results(
        *(start(script, *arguments, *where, f"--process_id={number}", devices=devices) for number in range(count))
    )


@pytest.fixture(scope="module")
def alone():
    return results(start("processes.py"))


@pytest.fixture(scope="module")
def four():
    return together(4, "processes.py")


def test_four_processes_make_the_batches_of_one(alone, four):
    assert (alone["processes"], four["processes"]) == (1, 4)
    assert four["batches"] == alone["batches"]
    assert len({row for batch in alone["batches"] for row in batch}) == 4 * processes.BATCH


def test_metrics_of_four_processes_are_those_of_one_and_of_numpy(alone, four):
    assert {key: four[key] for key in ("iou", "pixels", "aacc", "few")} == {
        key: alone[key] for key in ("iou", "pixels", "aacc", "few")
    }
    times = [2**24, *[1] * (processes.IMAGES - 1)]
    dataset = processes.Drawn(0)
    table = np.zeros((processes.CLASSES, processes.CLASSES), object)
    for number, weight in enumerate(times):
        label, found = dataset[number].label, processes.prediction(number)
        for true, predicted in zip(label[label != 255].tolist(), found[label != 255].tolist(), strict=True):
            table[true, predicted] += weight
    assert max(map(sum, table)) > 2**32
    intersection, union = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
    np.testing.assert_allclose(four["iou"], (intersection / union).astype(float), rtol=1e-12)
    assert four["pixels"] == table.sum(1).tolist()


MESHES = 10
FEW = ["data=2,fsdp=2,tensor=2"]


def assert_equal_to_one_device(report):
    for mesh, (loss, gradient) in report.items():
        assert loss < 1e-5 and gradient < 1e-5, mesh


@pytest.mark.parametrize("model", ["image_free", "lseg"])
def test_a_mesh_of_eight_devices_computes_what_one_does(model):
    assert_equal_to_one_device(results(start("meshes.py", model, *FEW, devices=8)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["image_free", "supervised", "lseg"])
def test_every_mesh_of_eight_devices_computes_what_one_does(model):
    report = results(start("meshes.py", model, devices=8))
    assert len(report) == MESHES
    assert_equal_to_one_device(report)
