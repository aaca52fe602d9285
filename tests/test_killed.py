"""Commands killed with SIGKILL at random moments: what they leave, and what the same command makes of it afterwards.

Every file that is there is whole. The same command then gives what an unbroken run gives, and nothing has to be removed
by hand. Commands run in children of one process that has imported everything, which saves their start.
"""

import contextlib
import json
import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.commands import ROOT, labelled_folder

pytestmark = pytest.mark.slow

TELEMETRY = ("events.out.tfevents", "metrics.jsonl", "config.json", "summary.json")
"""Files of a run with times in them, or made before it; the lines of the second are compared apart."""


class Command(NamedTuple):
    """A command that is killed.

    module: that is run. arguments: with {data}, {models} and {out}. kills: how many. refuses: whether it refuses a
    target that is there, because a run that was killed at its very end is finished.
    """

    module: str
    arguments: tuple[str, ...]
    kills: int
    refuses: bool = False


COMMANDS = {
    "train": Command(
        "vlseg.commands.train",
        (
            *("--config=tests/toy/config.py", "--workdir={out}", "--config.data.source={data}"),
            *("--config.training.steps=40", "--config.checkpoint_every=5", "--config.log_every=5"),
        ),
        14,
    ),
    "convert": Command("ifseg_jax.convert", ("--checkpoint={root}/ifseg_jax/tiny", "--out={out}/model.pt"), 6, True),
    "predict": Command("lseg_jax.predict", ("--images={data}/images", "--labels=grass,house,sky", "--out={out}"), 9),
    "prepare": Command(
        "vlseg.data.prepare", ("--data={data}", "--out={out}/prepared", "--examples_per_file=5"), 7, True
    ),
    "embed": Command("lseg_jax.embed", ("--images={data}/images", "--out={out}"), 7),
    "export": Command("lseg_jax.export", ("--labels=grass,house", "--format=directory", "--out={out}/model"), 7, True),
}


def run(line: Sequence[str]) -> None:
    """Runs a command in this process, which it ends."""
    os.chdir(ROOT)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.argv = list(line)
    code: object = 1
    try:
        runpy.run_module(line[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    finally:
        os._exit(code if isinstance(code, int) else 0)


@pytest.fixture(scope="module")
def start() -> Callable[[Sequence[str]], multiprocessing.process.BaseProcess]:
    """Starts a command in a child of a process that has imported the packages, and has started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.test_killed", "ifseg_jax.package", "lseg_jax.package", "vlseg.commands.train"]
    )

    def started(line: Sequence[str]) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=run, args=(line,))
        process.start()
        return process

    return started


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return labelled_folder(tmp_path_factory.mktemp("killed") / "data", 12)


def content(out: Path) -> dict[str, bytes]:
    """The files below, hidden ones too."""
    found = {}
    for path in sorted(out.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found[path.relative_to(out).as_posix()] = path.read_bytes()
    return found


def compared(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Files as they are to be compared: without times."""
    found: dict[str, Any] = {}
    for name, data in files.items():
        if name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            found[name] = [{key: line[key] for key in ("step", "loss")} for line in lines]
        elif not any(part in name for part in TELEMETRY) and not name.startswith("checkpoints/"):
            found[name] = data
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_whole_files_and_ends_well_the_next_time(name, start, data, tmp_path):
    command = COMMANDS[name]

    def line(out: Path) -> list[str]:
        out.mkdir(exist_ok=True)
        places = {"data": data, "out": out, "root": ROOT}
        return [command.module, *(argument.format(**places) for argument in command.arguments)]

    def ended(process: multiprocessing.process.BaseProcess) -> int | None:
        process.join(300)
        return process.exitcode

    assert ended(start(line(tmp_path / "first"))) == 0  # and compiles
    began = time.monotonic()
    assert ended(start(line(tmp_path / "whole"))) == 0
    duration = time.monotonic() - began
    whole = compared(content(tmp_path / "whole"))
    assert whole and compared(content(tmp_path / "first")) == whole
    chance, killed = random.Random(f"kill {name}"), 0
    for number in range(command.kills):
        out = tmp_path / str(number)
        process = start(line(out))
        process.join(chance.uniform(0, duration))
        if process.exitcode is None:
            assert process.pid
            os.kill(process.pid, signal.SIGKILL)
            killed += ended(process) == -signal.SIGKILL
        shown = {
            key: value for key, value in content(out).items() if not any(p.startswith(".") for p in Path(key).parts)
        }
        for key, value in compared(shown).items():
            assert value == (whole[key] if key != "metrics.jsonl" else whole[key][: len(value)]), key
        finished = command.refuses and compared(content(out)) == whole
        assert ended(start(line(out))) == (2 if finished else 0)
        assert compared(content(out)) == whole
    assert killed >= command.kills // 2, "most were finished before they could be killed"
