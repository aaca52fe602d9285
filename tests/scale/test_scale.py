"""One device and many, one process and several: the same numbers. In processes of their own, which simulate devices."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.commands import train_flags
from tests.scale import processes
from vlseg import cli
from vlseg.training import lease

FOLDER, ROOT = Path(__file__).parent, Path(__file__).parent.parent.parent


def start(script, *arguments, devices=1):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
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


def start_together(count, script, *arguments):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = [f"--coordinator=localhost:{free.getsockname()[1]}", f"--num_processes={count}"]
    return [start(script, *arguments, *where, f"--process_id={number}") for number in range(count)]


def together(count, script, *arguments):
    return results(*start_together(count, script, *arguments))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What this process makes by itself."""
    return json.loads(processes.everything(tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def several(request, tmp_path_factory):
    return together(request.param, "processes.py", tmp_path_factory.mktemp("several"))


def test_several_processes_make_the_batches_of_one(alone, several):
    assert alone["processes"] == 1 < several["processes"]
    assert several["batches"] == alone["batches"]
    assert len({row for batch in alone["batches"] for row in batch}) == 4 * processes.BATCH


def test_metrics_of_several_processes_are_those_of_one_and_of_numpy(alone, several):
    assert {key: several[key] for key in ("iou", "pixels", "aacc", "few")} == {
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
    np.testing.assert_allclose(several["iou"], (intersection / union).astype(float), rtol=1e-12)
    assert several["pixels"] == table.sum(1).tolist()


def test_a_report_of_several_processes_is_that_of_one(alone, several):
    for key in ("matrix", "pictures", "worst"):
        assert several[key] == alone[key]
    assert len(several["pictures"]) == processes.IMAGES
    for (number, *_), worst in zip(several["pictures"], several["worst"], strict=False):
        assert worst == processes.prediction(number).tolist()


def test_training_in_several_processes_has_the_losses_of_one(alone, several):
    assert len(alone["losses"]) == 20 and alone["losses"][-1] < 0.9 * alone["losses"][0]
    np.testing.assert_allclose(several["losses"], alone["losses"], rtol=1e-5)
    np.testing.assert_allclose(several["kernel"], alone["kernel"], rtol=1e-4)


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("refused", 2, "error: a fault of one process"),
        pytest.param("lost", 1, "OSError: [Errno 116] Stale file handle", marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_one_process_is_said_at_once(fault, code, said):
    other, faulty = start_together(2, "faults.py", fault)
    try:
        _, errors = faulty.communicate(timeout=60)
        assert (faulty.returncode, errors.splitlines()[-1]) == (code, said)
    finally:
        other.kill()
        other.communicate()


@pytest.mark.slow
def test_a_process_that_loses_another_ends_with_a_code_of_its_own():
    other, lost = start_together(2, "faults.py", "killed")
    assert lost.wait(60) == -signal.SIGKILL
    try:
        errors = other.communicate(timeout=150)[1]
    finally:
        other.kill()
    assert other.returncode == cli.LOST, errors


MESHES = 10
FEW = ["data=2,fsdp=2,tensor=2"]


def assert_equal_to_one_device(report):
    for mesh, (loss, gradient) in report.items():
        assert loss < 1e-5 and gradient < 1e-5, mesh


@pytest.mark.parametrize("model", [pytest.param("image_free", marks=pytest.mark.slow), "lseg"])
def test_a_mesh_of_eight_devices_computes_what_one_does(model):
    assert_equal_to_one_device(results(start("meshes.py", model, *FEW, devices=8)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["image_free", "supervised", "lseg"])
def test_every_mesh_of_eight_devices_computes_what_one_does(model):
    report = results(start("meshes.py", model, devices=8))
    assert len(report) == MESHES
    assert_equal_to_one_device(report)


@pytest.mark.slow
def test_the_kernel_of_attention_on_a_mesh_computes_what_one_device_does_without_it():
    meshes = ["data=8", "fsdp=4,tensor=2", "data=2,fsdp=2,tensor=2"]
    assert_equal_to_one_device(results(start("meshes.py", "kernel", *meshes, devices=8)))


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["image_free", "supervised", "lseg"])
def test_two_processes_have_the_losses_of_one(model, tmp_path):
    results(start("training.py", model, tmp_path / "one", 20))
    together(2, "training.py", model, tmp_path / "two", 20)
    assert len(losses(tmp_path / "one")) == 20
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["image_free", "lseg"])
def test_killed_at_random_moments(model, tmp_path):
    """Each time a little later after its start, so that it gets on; and then once left alone."""
    steps, rng = 200, np.random.default_rng(0)
    whole = results(start("training.py", model, tmp_path / "whole", steps))
    for _ in range(20):
        process = start("training.py", model, tmp_path / "killed", steps)
        assert process.stdout is not None
        process.stdout.readline()  # it has imported everything
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(float(rng.uniform(0.2, 6)))
        process.kill()
        process.communicate()
    assert results(start("training.py", model, tmp_path / "killed", steps)) == whole
    # Floats of the same program and order: bit by bit.
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_signals_to_one_of_two_processes_and_then_to_both_stop_them_after_the_same_step(tmp_path):
    both = start_together(2, "training.py", "lseg", tmp_path / "two", 10**6)
    while not (tmp_path / "two/metrics.jsonl").exists() or len(losses(tmp_path / "two")) < 5:
        time.sleep(0.2)
    both[1].send_signal(signal.SIGTERM)
    # Clouds tell every host, and some tell it twice.
    for process in (*both, both[1]):
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    ended = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [128 + signal.SIGTERM] * 2, ended
    done = len(losses(tmp_path / "two"))
    assert str(done) in {path.name for path in (tmp_path / "two/checkpoints").iterdir()}


@pytest.mark.slow
def test_two_processes_go_on_from_the_step_before_a_damaged_one(tmp_path):
    results(start("training.py", "lseg", tmp_path / "one", 6))
    together(2, "training.py", "lseg", tmp_path / "two", 4)
    newest = tmp_path / "two/checkpoints/4"
    counted = json.loads((newest / "checksums.json").read_text())["files"]
    assert {"default/array_metadatas/process_0", "default/array_metadatas/process_1"} <= counted.keys()
    changed = max((newest / "default").rglob("d/*"), key=lambda path: path.stat().st_size)
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    both = start_together(2, "training.py", "lseg", tmp_path / "two", 6)
    ended = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    said = [line for text, _ in ended for line in text.splitlines() if "is damaged" in line]
    assert len(said) == 1 and "checkpoint 4 is damaged" in said[0] and "going on from checkpoint 2" in said[0]
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)


@pytest.mark.slow
def test_two_processes_are_refused_a_directory_in_use_with_one_message(tmp_path):
    with lease.held(tmp_path / "run"):
        both = start_together(2, "training.py", "lseg", tmp_path / "run", 4)
        ended = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2], ended
    first, second = (errors.splitlines()[-1] for errors in ended)
    assert first.startswith(f"error: {tmp_path / 'run'} is in use by process {os.getpid()} on host ")
    assert first == second
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_that_were_taken_over_stop_together(tmp_path):
    both = start_together(2, "training.py", "lseg", tmp_path / "two", 10**6)
    while not (tmp_path / "two/metrics.jsonl").exists() or len(losses(tmp_path / "two")) < 5:
        time.sleep(0.2)
    (tmp_path / "two/.lease/1.json").unlink()
    ended = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2], ended
    assert len({errors.splitlines()[-1] for errors in ended}) == 1 and "was removed" in ended[1]


@pytest.mark.slow
def test_two_processes_validate_and_choose_as_one(folder, tmp_path):
    """The third model through its command: the same scores, and a model and a last step that process 0 writes."""
    settings = {"data.source": folder, "validation.source": folder, "validation.every": 10, "training.steps": 40}

    def flags(workdir):
        return train_flags(ROOT / "tests/toy/config.py", workdir, settings)

    started = [
        [start("train_command.py", *flags(tmp_path / "one"))],
        start_together(2, "train_command.py", *flags(tmp_path / "two")),
    ]
    for processes_of_a_run in started:
        for process in processes_of_a_run:
            errors = process.communicate(timeout=300)[1]
            assert process.returncode == 0, errors
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "validation.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two] == [10, 20, 30, 40]
    np.testing.assert_allclose([e["mIoU"] for e in one], [e["mIoU"] for e in two], atol=2e-3)
    for name in ("one", "two"):
        best = max(one if name == "one" else two, key=lambda entry: (entry["mIoU"], entry["step"]))["step"]
        records = [json.loads((tmp_path / name / kind / "config.json").read_text()) for kind in ("model", "last")]
        assert [record["training"]["step"] for record in records] == [best, 40]
