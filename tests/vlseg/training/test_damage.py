"""Checkpoints that are damaged: named, and the one before is used."""

import errno
import json
import os
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.buckets import stand_in
from vlseg import storage
from vlseg.checkpoints import checksums, runs
from vlseg.errors import CheckpointError, StorageError
from vlseg.training.checkpoints import Checkpoints
from vlseg.training.finite import NonFiniteLossError, not_finite
from vlseg.training.loop import Schedule, train
from vlseg.training.program import run_in_memory
from vlseg.training.validation import History, Validation


def fresh():
    return {"params": {"params/w": jnp.zeros(300)}, "optimizer": {"m": jnp.zeros(300), "count": jnp.zeros((), int)}}


def step(state, number):
    return jax.tree.map(lambda leaf: leaf + 1, state), {"loss": np.float32(1)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with steps 2, 4 and 6."""
    path = tmp_path_factory.mktemp("whole") / "run"
    train(fresh(), step, path, Schedule(6, 1, 2, keep=9))
    return path


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


def restored(workdir):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore(fresh())
    finally:
        checkpoints.close()


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 4
    path.write_bytes(content)


def assert_from_the_one_before(workdir, capsys, damaged=6):
    capsys.readouterr()
    state, number = restored(workdir)
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert f"checkpoint {damaged} is damaged (" in said and f"going on from checkpoint {number}" in said
    assert number == damaged - 2
    np.testing.assert_array_equal(state["params"]["params/w"], np.full(300, number))
    return said


def test_a_changed_byte_in_any_file_is_found(run, capsys):
    newest = run / "checkpoints/6"
    for path in files_of(newest):
        if path.relative_to(newest).as_posix() == runs.COMMITTED:
            continue  # its content means nothing
        before = path.read_bytes()
        flip(path)
        with pytest.raises(CheckpointError, match=r"has changed|is not JSON"):
            runs.check_step(newest)
        path.write_bytes(before)
    assert runs.check_step(newest)
    flip(max(files_of(newest), key=lambda path: path.stat().st_size))
    assert "has changed" in assert_from_the_one_before(run, capsys)
    assert not newest.exists()
    # The steps that were lost are made again.
    state = train(fresh(), step, run, Schedule(6, 1, 2, keep=9))
    np.testing.assert_array_equal(state["params"]["params/w"], np.full(300, 6))
    assert runs.kept_steps(run) == [2, 4, 6] and runs.check_step(newest)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def cut(folder):
    path = next((folder / "default/d").iterdir())
    path.write_bytes(path.read_bytes()[:-1])


def lose(folder):
    next((folder / "default/ocdbt.process_0/d").iterdir()).unlink()


def add(folder):
    shutil.copy(folder / "default/array_metadatas/process_0", folder / "default/array_metadatas/process_1")


def lose_checksums(folder):
    (folder / checksums.FILE).unlink()


def spoil_checksums(folder):
    table = json.loads((folder / checksums.FILE).read_text())
    (folder / checksums.FILE).write_text(json.dumps({**table, "files": {}}))


def replace_checksums(folder):
    (folder / checksums.FILE).write_text("[1]")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def spoil_metadata(folder):
    (folder / runs.METADATA_FILE).write_bytes(b"\xff\x00")


def rename_a_key_of_the_metadata(folder):
    path = folder / runs.METADATA_FILE
    path.write_bytes(path.read_bytes().replace(b"performance_metrics", b"performance_metribs"))


def replace_by_folder(folder):
    path = next((folder / "default/d").iterdir())
    path.unlink()
    path.mkdir()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax abandons its other reads
@pytest.mark.parametrize(
    "damage",
    [
        *(cut, lose, add, lose_checksums, spoil_checksums, replace_checksums, empty, spoil_metadata),
        *(rename_a_key_of_the_metadata, replace_by_folder),
    ],
)
def test_the_step_before_a_damaged_one_is_used(run, capsys, damage):
    damage(run / "checkpoints/6")
    assert_from_the_one_before(run, capsys)


def test_several_damaged_steps(run, capsys):
    for number in (4, 6):
        flip(run / f"checkpoints/{number}/default/_METADATA")
    _, number = restored(run)
    said = capsys.readouterr().out
    assert "checkpoint 6 is damaged (" in said and "checkpoint 4 is damaged (" in said and number == 2
    assert runs.kept_steps(run) == [2]


def test_a_run_whose_steps_are_all_damaged_is_refused_and_keeps_them(run):
    for number in (2, 4, 6):
        flip(run / f"checkpoints/{number}/default/_METADATA")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint in .* can be used: checkpoint 6 is damaged .*checkpoint 2"
    ):
        restored(run)
    assert runs.kept_steps(run) == [2, 4, 6]


def test_what_cannot_be_read_is_no_damage(run, monkeypatch):
    """Nothing is removed because a place does not answer, or denies access."""

    def failing(number):
        def open_(path, *_, **__):
            raise OSError(number, os.strerror(number), str(path))

        return open_

    for number in (errno.EACCES, errno.EIO, errno.ESTALE):
        with monkeypatch.context() as patched:
            patched.setattr(storage, "opened", failing(number))
            with pytest.raises(StorageError, match=r"cannot read .*checkpoints/6/"):
                restored(run)
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", failing(number))
            with pytest.raises(StorageError, match=r"cannot read .*checkpoints/6"):
                runs.check_step(run / "checkpoints/6")
    assert restored(run)[1] == 6 and runs.kept_steps(run) == [2, 4, 6]


def test_hidden_files_of_a_system_are_no_damage(run):
    (run / "checkpoints/6/default/.DS_Store").write_text("")
    assert restored(run)[1] == 6


def forget_checksums(folder):
    """Makes of a step what older versions wrote."""
    path = folder / runs.METADATA_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "custom_metadata": {}}))
    (folder / checksums.FILE).unlink()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax abandons its other reads
def test_steps_of_older_versions_are_used_as_they_are(run, capsys):
    forget_checksums(run / "checkpoints/6")
    assert restored(run)[1] == 6
    assert "checkpoint 6 has no checksums, being of an older version: used as it is" in capsys.readouterr().out
    cut(run / "checkpoints/6")  # which Orbax itself notices
    assert_from_the_one_before(run, capsys)


def test_a_step_that_holds_what_is_not_finite_is_not_gone_on_from(tmp_path, capsys):
    """Older versions saved such states."""
    checkpoints = Checkpoints(tmp_path, keep=9)
    for number in (4, 6):
        state = jax.tree.map(lambda leaf, number=number: leaf + number, fresh())
        state["optimizer"]["m"] = state["optimizer"]["m"].at[7].set(jnp.nan if number == 6 else 1)
        checkpoints.save(number, state)
    checkpoints.close()
    assert "optimizer/m of it are not finite" in assert_from_the_one_before(tmp_path, capsys)


def test_a_step_is_checked_wherever_it_is_loaded(run):
    folder = run / "checkpoints/6"
    np.testing.assert_array_equal(runs.read(folder)["params/w"], np.full(300, 6))
    flip(next((folder / "default/d").iterdir()), -1)
    with pytest.raises(CheckpointError, match=r"checkpoints/6 is damaged: the content of default/d/\w+ has changed"):
        runs.read(folder)


def test_a_step_with_weights_that_are_not_finite_is_not_loaded(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, {"params": {"params/w": jnp.asarray([1, jnp.inf])}, "optimizer": {"m": jnp.ones(1)}})
    checkpoints.close()
    with pytest.raises(CheckpointError, match=r"checkpoints/2: weights are not finite .*: params/w; "):
        runs.read(tmp_path / "checkpoints/2")


def test_a_damaged_step_in_a_bucket(tmp_path, monkeypatch, capsys):
    stand_in(tmp_path / "store", monkeypatch)
    train(fresh(), step, "gs://bucket/run", Schedule(4, 1, 2))
    newest = tmp_path / "store/bucket/run/checkpoints/4"
    said = json.loads((newest / checksums.FILE).read_text())["files"]
    assert said.keys() == {path.relative_to(newest).as_posix() for path in files_of(newest)} - {
        *(checksums.FILE, runs.COMMITTED),
    }
    flip(next((newest / "default/d").iterdir()))
    assert_from_the_one_before("gs://bucket/run", capsys, damaged=4)
    state = train(fresh(), step, "gs://bucket/run", Schedule(4, 1, 2))
    np.testing.assert_array_equal(state["params"]["params/w"], np.full(300, 4))


def test_what_is_not_finite_is_named():
    tree = {"a": jnp.asarray([1.0, jnp.nan]), "b": [jnp.ones(2), jnp.asarray(-jnp.inf)], "c": jnp.ones(2, int)}
    assert not_finite(tree) == ["a", "b/1"]
    assert not_finite({"a": np.ones(2), "key": jax.random.key(0), "c": np.int32(1)}) == []


def test_training_in_memory_gives_no_model_that_is_not_finite():
    def update(state, constants, batch, step):
        return {"params": {"w": state["params"]["w"] * jnp.where(step == 2, jnp.inf, 1)}}, {}

    task = types.SimpleNamespace(update=update)
    assert run_in_memory(task, {"params": {"w": jnp.ones(2)}}, None, 2)["params"]["w"].shape == (2,)
    with pytest.raises(NonFiniteLossError, match=r"the state after 3 steps is not finite \(params/w\)"):
        run_in_memory(task, {"params": {"w": jnp.ones(2)}}, None, 3)


def test_the_best_of_the_whole_steps_becomes_the_model(tmp_path, capsys):
    from vlseg.commands.train import _best_whole

    scores = {2: 0.9, 4: 0.8, 6: 0.1}
    validation = Validation(2, "mIoU", lambda state, number: {"mIoU": scores[number]})
    train(fresh(), step, tmp_path, Schedule(6, 1, 2, keep=9), validation=validation)
    history = History(tmp_path, validation)
    assert _best_whole(history, Path(tmp_path), 6) == 2
    flip(tmp_path / "checkpoints/2/default/_METADATA")
    assert _best_whole(history, Path(tmp_path), 6) == 4
    assert "checkpoint 2 is damaged (" in capsys.readouterr().out
    flip(tmp_path / "checkpoints/4/default/_METADATA")
    assert _best_whole(history, Path(tmp_path), 6) == 6


def test_what_training_does_not_change_is_checked(tmp_path):
    frozen = tmp_path / runs.FROZEN
    frozen.mkdir()
    (frozen / runs.CONFIG_FILE).write_text("{}")
    (frozen / runs.WEIGHTS).write_bytes(bytes(100))
    assert runs.has_frozen(tmp_path)  # of an older version, without checksums
    checksums.write(frozen)
    assert runs.has_frozen(tmp_path)
    flip(frozen / runs.WEIGHTS)
    with pytest.raises(CheckpointError, match=r"frozen is damaged: the content of model.safetensors has changed"):
        runs.check_frozen(tmp_path)
    assert not runs.has_frozen(tmp_path)
