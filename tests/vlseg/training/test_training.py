"""The training loop, its checkpoints and what it writes; with a step that a person could do."""

import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.commands import ROOT
from vlseg import distributed, settings
from vlseg.data.sources import without_folders
from vlseg.errors import CheckpointError, ConfigError, StorageError
from vlseg.training import checkpoints, optimizers
from vlseg.training.checkpoints import Checkpoints
from vlseg.training.loop import NonFiniteLossError, Schedule, train
from vlseg.training.telemetry import MetricWriter, Work
from vlseg.training.workdir import open_workdir

OPTIMIZER = optimizers.adamw(optimizers.learning_rate_schedule(0.1, 20, 3))
SIZE = 4096


@functools.partial(jax.jit, donate_argnums=0)
def step(state, number):
    """A noisy quadratic. Its buffers are given away, as in every real step."""
    key = jax.random.fold_in(jax.random.key(0), number)
    target = jax.random.normal(key, (SIZE,))
    loss, gradient = jax.value_and_grad(lambda params: jnp.mean((params["weight"] - target) ** 2))(state["params"])
    updates, optimizer = OPTIMIZER.update(gradient, state["optimizer"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "optimizer": optimizer}, {"loss": loss}


def fresh():
    params = {"weight": jnp.ones(SIZE)}
    return {"params": params, "optimizer": OPTIMIZER.init(params)}


def after(steps):
    """The state after so many steps without any loop."""
    state = fresh()
    for number in range(steps):
        state, _ = step(state, number)
    return state


def assert_identical(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)


def lines(workdir):
    return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def stopped_at(number):
    """A step that fails when it is asked for step `number`."""

    def run(state, asked):
        if asked == number:
            raise InterruptedError
        return step(state, asked)

    return run


def test_a_run_is_its_steps(tmp_path):
    logged = []
    state = train(fresh(), step, tmp_path, Schedule(10, 4, 5), on_log=lambda *line: logged.append(line))
    assert_identical(state, after(10))
    written = lines(tmp_path)
    assert [line["step"] for line in written] == [4, 8, 10] == [number for number, _ in logged]
    losses = []
    state = fresh()
    for number in range(10):
        state, metrics = step(state, number)
        losses.append(float(metrics["loss"]))
    expected = [np.mean(losses[:4]), np.mean(losses[4:8]), np.mean(losses[8:])]
    np.testing.assert_allclose([line["loss"] for line in written], expected, rtol=1e-6)
    assert all(line["steps_per_second"] > 0 for line in written)
    assert list(tmp_path.glob("events.out.tfevents*"))


@pytest.mark.parametrize("failing", [3, 5, 7, 9])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, failing):
    schedule = Schedule(10, 1, 5)
    with pytest.raises(InterruptedError):
        train(fresh(), stopped_at(failing), tmp_path, schedule)
    first_steps = []

    def recording(state, number):
        first_steps.append(number)
        return step(state, number)

    assert_identical(train(fresh(), recording, tmp_path, schedule), after(10))
    assert first_steps[0] == failing // 5 * 5  # from the checkpoint, not from the start
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 11))


def test_a_finished_run_stays_as_it_is(tmp_path):
    train(fresh(), step, tmp_path, Schedule(4, 1, 2))
    before = lines(tmp_path)
    again = train(fresh(), stopped_at(0), tmp_path, Schedule(4, 1, 2))
    assert_identical(again, after(4))
    assert lines(tmp_path) == before


def test_every_checkpoint_holds_the_state_of_its_step(tmp_path):
    """Saving returns before the file is written, and the next step reuses the state's memory."""
    train(fresh(), step, tmp_path, Schedule(6, 2, 1, keep=6))
    for number in range(1, 7):
        shutil.copytree(
            tmp_path / "checkpoints" / str(number), tmp_path / f"only{number}" / "checkpoints" / str(number)
        )
        checkpoints = Checkpoints(tmp_path / f"only{number}")
        state, restored = checkpoints.restore(fresh())
        checkpoints.close()
        assert restored == number
        assert_identical(state, after(number))


def saved(workdir):
    """The steps of the checkpoints."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name != "metadata")


def test_the_last_checkpoints_stay(tmp_path):
    train(fresh(), step, tmp_path, Schedule(7, 7, 2, keep=2))
    assert saved(tmp_path) == [6, 7]


def test_checkpoints_by_period_and_by_time(tmp_path):
    train(fresh(), step, tmp_path / "period", Schedule(7, 7, 1, keep=1, keep_period=3))
    assert saved(tmp_path / "period") == [3, 6, 7]
    train(fresh(), step, tmp_path / "time", Schedule(7, 2, 100, keep=9, checkpoint_minutes=1e-9))
    assert saved(tmp_path / "time") == [2, 4, 6, 7]


def test_what_a_checkpoint_says_of_itself(tmp_path):
    train(fresh(), step, tmp_path, Schedule(1, 1, 1), config={"learning_rate": 0.1})
    recorded = "".join(path.read_text() for path in (tmp_path / "checkpoints" / "metadata").rglob("*"))
    assert '"learning_rate": 0.1' in recorded and f'"jax": "{jax.__version__}"' in recorded


def test_rates_and_profile(tmp_path):
    train(fresh(), step, tmp_path, Schedule(6, 3, 6, profile=(2, 4)), work=Work(8, 1e9))
    for line in lines(tmp_path):
        assert line["images_per_second"] == pytest.approx(8 * line["steps_per_second"])
        assert line["teraflops_per_second"] == pytest.approx(1e-3 * line["steps_per_second"])
    assert any(path.suffix == ".pb" for path in (tmp_path / "profile").rglob("*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_every": 0}, "config.log_every is 0"),
        ({"keep_period": -1}, "config.keep_period is -1"),
        ({"profile": "12"}, "config.profile '12' is not like 10:12"),
        ({"profile": "12:10"}, "config.profile '12:10' is not"),
    ],
)
def test_schedules_that_cannot_be(change, message):
    config = settings.as_config(settings.Run(package="any"))
    assert Schedule.of(config, 5) == Schedule(5)
    config.update(change)
    with pytest.raises(ConfigError, match=message):
        Schedule.of(config, 5)


def signalled(number, code):
    """A step that sends this process a signal when it is asked for step `number`."""

    def run(state, asked):
        if asked == number:
            os.kill(os.getpid(), code)
        return step(state, asked)

    return run


def assert_resumes(workdir):
    """The same call finishes what was stopped, as if it had never been."""
    assert_identical(train(fresh(), step, workdir, Schedule(12, 3, 4)), after(12))
    numbers = [line["step"] for line in lines(workdir)]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 12


def test_a_terminated_run_saves_and_resumes(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train(fresh(), signalled(6, signal.SIGTERM), tmp_path, Schedule(12, 3, 4))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert saved(tmp_path) == [4, 7]
    assert [line["step"] for line in lines(tmp_path)] == [3, 6, 7]
    assert_resumes(tmp_path)


def test_a_process_killed_while_it_saves_resumes(tmp_path):
    # Right after the second checkpoint was begun.
    program = """
        import signal, sys
        from tests.vlseg.training.test_training import Schedule, fresh, signalled, train

        train(fresh(), signalled(8, signal.SIGKILL), sys.argv[1], Schedule(12, 3, 4))
    """
    line = [sys.executable, "-c", textwrap.dedent(program), tmp_path]
    killed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert_resumes(tmp_path)


def test_the_signal_handler_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(fresh(), step, tmp_path / "done", Schedule(1, 1, 1))
    with pytest.raises(InterruptedError):
        train(fresh(), stopped_at(0), tmp_path / "failed", Schedule(1, 1, 1))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(tmp_path, bad):
    def diverging(state, number):
        state, metrics = step(state, number)
        return state, {"loss": jnp.where(number >= 5, bad, metrics["loss"])}

    with pytest.raises(NonFiniteLossError, match=r"the loss of step 6 is not finite.* checkpoint of step 4 "):
        train(fresh(), diverging, tmp_path, Schedule(20, 4, 4))
    record = json.loads((tmp_path / "non_finite_loss.json").read_text())
    assert (record["step"], record["resumes_from"], len(record["loss_before"])) == (6, 4, 1)
    assert saved(tmp_path) == [4]
    assert [line["step"] for line in lines(tmp_path)] == [4]


def test_a_bad_state_is_never_saved(tmp_path):
    """Checkpoints may be due more often than log lines."""

    def diverging(state, number):
        return state, {"loss": jnp.where(number >= 3, jnp.nan, 1.0)}

    with pytest.raises(NonFiniteLossError):
        train(fresh(), diverging, tmp_path, Schedule(20, 10, 2))
    assert saved(tmp_path) == [2]


@pytest.mark.parametrize(
    ("part", "bad"), [("params", float("nan")), ("optimizer", float("inf")), ("batch_stats", float("nan"))]
)
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, capsys, part, bad):
    """Its loss and gradient may be finite: what an update makes of them, or statistics that no loss has seen yet."""

    def spoiling(state, number):
        state = {**state, part: {"a": state[part]["a"].at[1].set(bad if number >= 4 else 1.0)}}
        return state, {"loss": jnp.ones(()), "gradient_norm": jnp.ones(())}

    state = {name: {"a": jnp.ones(3)} for name in ("params", "optimizer", "batch_stats")}
    with pytest.raises(NonFiniteLossError, match=rf"the state \({part}/a\) after step 6 is not finite; .* of step 4 "):
        train(state, spoiling, tmp_path, Schedule(20, 5, 2, keep=1))
    assert saved(tmp_path) == [4]
    assert json.loads((tmp_path / "non_finite_loss.json").read_text())["not_finite"] == "state"
    with pytest.raises(NonFiniteLossError):
        train(state, spoiling, tmp_path, Schedule(20, 5, 2, keep=1))
    assert "step 6 was not finite (non_finite_loss.json): it is repeated from step 4" in capsys.readouterr().out
    # Another machine, say, gets past it.
    train(state, lambda state, number: spoiling(state, 0), tmp_path, Schedule(8, 5, 2))
    train(state, lambda state, number: spoiling(state, 0), tmp_path, Schedule(8, 5, 2))
    assert not (tmp_path / "non_finite_loss.json").exists()


@pytest.mark.parametrize("steps", [3, 10])
def test_a_gradient_that_is_not_finite(tmp_path, steps):
    """The loss of a step is from before it: it tells nothing of the state that the step leaves, also the last one."""

    def exploding(state, number):
        return state, {"loss": jnp.ones(()), "gradient_norm": jnp.where(number >= 2, jnp.inf, 1.0)}

    with pytest.raises(NonFiniteLossError, match=r"the gradient of step 3 is not finite.* checkpoint of step 2 "):
        train(fresh(), exploding, tmp_path, Schedule(steps, 5, 1))
    assert saved(tmp_path)[-1] == 2
    assert json.loads((tmp_path / "non_finite_loss.json").read_text())["not_finite"] == "gradient_norm"


def test_a_signal_while_the_last_checkpoint_is_written_does_not_cut_it_short(tmp_path, monkeypatch):
    close, unnoticed = Checkpoints.close, []

    def signalled(checkpoints):
        os.kill(os.getpid(), signal.SIGTERM)
        close(checkpoints)

    monkeypatch.setattr(Checkpoints, "close", signalled)
    before = signal.signal(signal.SIGTERM, lambda *_: unnoticed.append(1))
    try:
        with pytest.raises(SystemExit) as stopped:
            train(fresh(), step, tmp_path, Schedule(2, 1, 2))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert (saved(tmp_path), unnoticed) == ([2], [])


def test_half_written_checkpoints_are_ignored_and_removed(tmp_path):
    train(fresh(), step, tmp_path, Schedule(4, 1, 2))
    checkpoints = tmp_path / "checkpoints"
    # A run that dies while it saves leaves such directories.
    for name in ("6.orbax-checkpoint-tmp-1700000000", "8.orbax-checkpoint-tmp-3"):
        shutil.copytree(checkpoints / "4", checkpoints / name)
        for file in list((checkpoints / name).rglob("*")):
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    asked = []
    train(fresh(), lambda state, number: (asked.append(number), step(state, number))[1], tmp_path, Schedule(6, 1, 2))
    assert asked == [4, 5]
    assert {path.name for path in checkpoints.iterdir()} == {"4", "6", "metadata"}


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "denied"), OSError(116, "Stale file handle"), MemoryError(), ValueError("UNAVAILABLE")],
)
def test_what_keeps_a_checkpoint_from_being_read_does_not_damage_it(tmp_path, monkeypatch, error):
    train(fresh(), step, tmp_path, Schedule(2, 1, 2))
    opened = Checkpoints(tmp_path)

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(opened._manager, "restore", failing)
    with pytest.raises((type(error), StorageError)) as caught:
        opened.restore(fresh())
    assert "damaged" not in str(caught.value) and not isinstance(caught.value, CheckpointError)
    opened.close()


def test_processes_that_do_not_see_the_same_folder_are_refused(tmp_path, monkeypatch):
    train(fresh(), step, tmp_path, Schedule(2, 1, 2))
    monkeypatch.setattr(distributed, "from_main", lambda value: value + 2)  # as if process 0 saw another step
    monkeypatch.setattr(checkpoints, "PATIENCE", 1)
    opened = Checkpoints(tmp_path)
    with pytest.raises(StorageError, match=r"do not find the same checkpoints .* need the same folder"):
        opened.restore(fresh())
    opened.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax abandons its other reads
@pytest.mark.parametrize(
    "like",
    [
        {"params": {"weight": jnp.ones(SIZE)}},
        {
            "params": {"weight": jnp.ones(SIZE)},
            "optimizer": OPTIMIZER.init({"weight": jnp.ones(SIZE), "b": jnp.ones(1)}),
        },
        {"params": {"weight": jnp.ones(SIZE + 1)}, "optimizer": OPTIMIZER.init({"weight": jnp.ones(SIZE + 1)})},
    ],
    ids=["less", "more", "other shapes"],
)
def test_checkpoints_of_another_model(tmp_path, like):
    train(fresh(), step, tmp_path, Schedule(2, 1, 2))
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(
        CheckpointError, match="checkpoint 2 of this working directory does not fit the model"
    ) as caught:
        checkpoints.restore(like)
    checkpoints.close()
    message = str(caught.value)
    del caught
    gc.collect()
    assert "\n" not in message


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    train(fresh(), step, tmp_path, Schedule(2, 1, 2))
    before = sorted((tmp_path / "checkpoints").iterdir())
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(fresh()))
    with monkeypatch.context() as patched:
        usage = shutil.disk_usage(tmp_path)
        patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
        with pytest.raises(StorageError, match="make room") as caught:
            train(fresh(), step, tmp_path, Schedule(4, 1, 2))
    assert str(tmp_path / "checkpoints") in str(caught.value)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before
    assert_identical(train(fresh(), step, tmp_path, Schedule(4, 1, 2)), after(4))


CONFIG = {"model": {"width": 8, "stages": (1, 2)}, "steps": 10, "name": "a"}


def test_working_directories(tmp_path):
    path = open_workdir(tmp_path / "deep" / "run", CONFIG)
    assert json.loads((path / "config.json").read_text()) == {**CONFIG, "model": {"width": 8, "stages": [1, 2]}}
    assert open_workdir(path, dict(CONFIG)) == path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 11}, "steps"),
        ({"model": {"width": 9, "stages": (1, 2)}}, "model.width"),
        ({"model": {"width": 8, "stages": (1, 3)}}, "model.stages"),
        ({"extra": 1}, "extra"),
        ({"name": "b", "steps": 11}, "name, steps"),
    ],
)
def test_the_setting_that_differs_is_named(tmp_path, change, named):
    open_workdir(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=rf"other settings \({named}\)"):
        open_workdir(tmp_path, {**CONFIG, **change})
    assert (tmp_path / "config.json").read_bytes() == before


PATHS = {
    "data": {"source": "ade20k:/data/ade20k:train,photos/mine"},
    "files": {"text": "/data/clip.pt"},
    "root": "/data",
    "start": "runs/a/model",
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": {"source": "ade20k:/other:train,/elsewhere/mine/"}}, None),
        ({"files": {"text": "weights/clip.pt"}, "root": "elsewhere"}, None),
        ({"data": {"source": "ade20k:/data/ade20k:val,photos/mine"}}, "data.source"),
        ({"data": {"source": "ade20k:/data/ade20k,photos/mine"}}, "data.source"),
        ({"data": {"source": "voc21:/data/ade20k:train,photos/mine"}}, "data.source"),
        ({"data": {"source": "ade20k:/data/ade20k:train,photos/yours"}}, "data.source"),
        ({"data": {"source": "ade20k:/data/ade20k:train"}}, "data.source"),
        ({"files": {"text": "/data/other.pt"}}, "files.text"),
        ({"files": {"text": None}}, "files.text"),
        ({"start": "elsewhere/a/model"}, None),
        ({"start": "runs/b/model"}, "start"),
        ({"rooted": 1}, "rooted"),
    ],
)
def test_a_run_goes_on_when_its_files_were_moved_but_not_when_they_are_others(tmp_path, change, named):
    rules = {"free": ("root",), "movable": ("data.source", "files.text", "start"), "kept": without_folders}
    open_workdir(tmp_path, PATHS, **rules)
    if named is None:
        open_workdir(tmp_path, {**PATHS, **change}, **rules)
        return
    with pytest.raises(ConfigError, match=rf"other settings \({named}\)"):
        open_workdir(tmp_path, {**PATHS, **change}, **rules)


def test_settings_that_may_differ_by_name_or_by_section(tmp_path):
    open_workdir(tmp_path, {"a": {"b": 1, "bc": 1}, "ab": 1})
    with pytest.raises(ConfigError, match=r"other settings \(a\.bc, ab\)"):
        open_workdir(tmp_path, {"a": {"b": 2, "bc": 2}, "ab": 2}, free=("a.b",))
    with pytest.raises(ConfigError, match=r"other settings \(ab\)"):
        open_workdir(tmp_path, {"a": {"b": 2, "bc": 2}, "ab": 2}, free=("a",))


def test_working_directories_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the working directory"):
        open_workdir(tmp_path / "file" / "run", CONFIG)
    open_workdir(tmp_path / "run", CONFIG)
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable"):
        open_workdir(tmp_path / "run", CONFIG)


def test_metrics_lose_what_is_repeated_and_what_is_broken(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n{"step": 6, "lo')
    writer = MetricWriter(tmp_path, 4)
    writer.write(4, {"loss": 3.0})
    writer.close()
    assert lines(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 3.0}]


@pytest.mark.parametrize(
    ("content", "kept", "said"),
    [
        # A line of a run that had the directory at the same time, and an older one of a step.
        (b'{"step": 2, "a": 1}\n{"step": 3, "a": 1}\n{"step": 2, "a": 2}\n', ['{"step": 2, "a": 2}'], ""),
        (b'{"step": 1, "a": NaN}\n{"step": 2, "a": 1}\n', ['{"step": 1, "a": NaN}', '{"step": 2, "a": 1}'], ""),
        (b'{"step": 1}\n\xff\xfe\n{"step": "2"}\n[]\n{"step": 2}\n{"st', ['{"step": 1}', '{"step": 2}'], "3 damaged"),
        (b'{"step": 1}\n' + b"[" * 9000 + b'\n{"step": 2.5}\n{"step": 2}', ['{"step": 1}', '{"step": 2}'], "2 damaged"),
        (b"", [], ""),
    ],
    ids=["twice", "nan", "bytes", "nested", "empty"],
)
def test_metrics_hold_each_step_once_and_damage_is_said(tmp_path, capsys, content, kept, said):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(content)
    MetricWriter(tmp_path, 3).close()
    assert file.read_text().splitlines() == kept
    assert said in capsys.readouterr().out


def test_metrics_are_json_whatever_they_are(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, {"loss": 1.0, "accuracy": float("nan"), "norm": float("inf")})
    writer.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "loss": 1.0, "accuracy": None, "norm": None}


def test_learning_rates():
    schedule = optimizers.learning_rate_schedule(0.2, 10)
    expected = [0.1 * (1 + np.cos(np.pi * number / 10)) for number in range(11)]
    np.testing.assert_allclose([schedule(number) for number in range(11)], expected, rtol=1e-5, atol=1e-8)
    warm = optimizers.learning_rate_schedule(0.2, 10, warmup_steps=4)
    np.testing.assert_allclose([warm(number) for number in (0, 2, 4, 7, 10)], [0, 0.1, 0.2, 0.1, 0], rtol=0, atol=1e-7)
    constant = optimizers.learning_rate_schedule(0.2, 10, kind="constant")
    np.testing.assert_allclose([constant(number) for number in (0, 9, 100)], 0.2, rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_adamw(clip_norm):
    """Adam with a clip of the whole gradient and decay of the weights themselves, step by step in NumPy.

    Epsilon is large enough to tell where it is added: to the root of the moment whose bias is not yet corrected.
    """
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal(3), "b": rng.standard_normal((2, 2))}
    rate, b1, b2, epsilon, decay = 0.01, 0.8, 0.95, 0.05, 0.3
    settings = {"b1": b1, "b2": b2, "epsilon": epsilon, "weight_decay": decay, "clip_norm": clip_norm}
    optimizer = optimizers.adamw(optax.constant_schedule(rate), **settings)
    ours = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(ours)
    first = jax.tree.map(np.zeros_like, params)
    second = jax.tree.map(np.zeros_like, params)
    for number in range(1, 5):
        gradient = {name: rng.normal(0, 0.2 * number, value.shape) for name, value in params.items()}
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        norm = np.sqrt(sum((value**2).sum() for value in gradient.values()))
        for name, value in gradient.items():
            value = value * min(1, (clip_norm or np.inf) / norm)
            first[name] = b1 * first[name] + (1 - b1) * value
            second[name] = b2 * second[name] + (1 - b2) * value**2
            scale = np.sqrt(1 - b2**number) / (1 - b1**number)
            step = scale * first[name] / (np.sqrt(second[name]) + epsilon)
            params[name] -= rate * (step + decay * params[name])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, params)
