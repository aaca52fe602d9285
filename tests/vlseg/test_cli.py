"""Commands end with one line and the right code, whatever goes wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent

COMMAND = '''"""Paints pictures.

Only with care.
"""
import errno
import logging

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from vlseg import cli
from vlseg.errors import CheckpointError

IMAGES = flags.DEFINE_string("images", None, "What to paint.", required=True)
COUNT = flags.DEFINE_integer("count", 3, "How many.")
SHARE = flags.DEFINE_float("share", 0.5, "Of it.")
MODE = flags.DEFINE_string("mode", "done", "How to end.")
CONFIG = config_flags.DEFINE_config_file("config", None, "Settings.")


def main(argv):
    match MODE.value:
        case "done":
            print("painted", IMAGES.value, CONFIG.value and CONFIG.value.to_dict())
        case "code":
            return 3
        case "user":
            raise CheckpointError("a.pt is\\\\nempty")
        case "usage":
            raise app.UsageError("too many arguments")
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device", "/disk/a.pt")
        case "read-only":
            raise OSError(errno.EROFS, "Read-only file system")
        case "files":
            raise OSError(errno.EMFILE, "Too many open files", "/data/a.png")
        case "memory":
            raise MemoryError("Unable to allocate 8 TiB")
        case "threads":
            raise RuntimeError("can't start new thread")
        case "device":
            raise RuntimeError("Unable to initialize backend 'tpu': no libtpu")
        case "denied":
            raise PermissionError(errno.EACCES, "Permission denied", "/root/a")
        case "absent":
            raise FileNotFoundError(errno.ENOENT, "No such file", "/a")
        case "bug":
            raise ZeroDivisionError("bug")
        case "interrupt":
            raise KeyboardInterrupt
        case "logs":
            absl_logging.info("info")
            absl_logging.warning("library warning")
            logging.getLogger("library").warning("library warning")
            logging.getLogger("vlseg.data").warning("own %s", "warning")
        case "names":
            logging.getLogger("vlseg.data").warning("%s is odd", "a\\nb\\x1b[2J" + "c" * 1000)
        case "jax":
            import jax

            print(jax.numpy.ones(2).sum())


if __name__ == "__main__":
    cli.run(main)
'''
CONFIG = """
from ml_collections import ConfigDict


def get_config(argument="usual"):
    config = ConfigDict({"steps": 10, "optimizer": {"rate": 0.5}})
    match argument:
        case "refused":
            from vlseg.errors import ConfigError
            raise ConfigError("no such experiment")
        case "value":
            raise ValueError("steps are odd")
        case "bug":
            config.absent
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "paint.py").write_text(COMMAND.replace("\\\\n", "\\n"))
    (folder / "conf.py").write_text(CONFIG)
    (folder / "none.py").write_text("")
    (folder / "broken.py").write_text("\ndef get_config(:\n")
    return folder


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "paint", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_command_that_is_done(folder: Path) -> None:
    result = run(folder, "--images=a", "--config=conf.py", "--config.steps=7", "--config.optimizer.rate=0.25")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "painted a {'optimizer': {'rate': 0.25}, 'steps': 7}\n"


def test_the_exit_code_is_what_main_returns(folder: Path) -> None:
    assert run(folder, "--images=a", "--mode=code").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--images=a", "--mode=user"], "a.pt is empty"),
        (["--images=a", "--mode=usage"], "too many arguments"),
        (["--images=a", "--mode=full"], "No space left on device: /disk/a.pt"),
        (["--images=a", "--mode=read-only"], "Read-only file system"),
        (["--images=a", "--mode=denied"], "Permission denied: /root/a"),
        (["--images=a", "--mode=files"], "Too many open files: /data/a.png"),
        ([], "--images is required (--help lists the flags)"),
        (["--images"], "Missing value for flag --images (--help lists the flags)"),
        (["--images=a", "--colour=3"], "Unknown command line flag 'colour' (--help lists the flags)"),
        (
            ["--images=a", "--count=x"],
            "flag --count=x: 'x' is no integer (--help lists the flags)",
        ),
        (["--images="], "--images is empty, as a shell variable without a value: give a value, or leave the flag out"),
        (["--images=a", "--count=99999999999"], "--count is 99999999999; it must fit in 32 bits"),
        (["--images=a", "--share=nan"], "--share is nan; it must be a finite number"),
        (["--images=a", "--share=half"], "flag --share=half: 'half' is no number (--help lists the flags)"),
        (
            ["--images=a", "--config=none.py"],
            "the file of --config has no function get_config: give one such as configs/coco.py",
        ),
        (
            ["--images=a", "--config=broken.py"],
            "broken.py, line 2: invalid syntax",
        ),
        (
            ["--images=a", "--config=absent.py"],
            "a file that the flags name cannot be read: [Errno 2] No such file or directory: 'absent.py'",
        ),
        (
            ["--images=a", "--config=absent.py", "--config.steps=3"],
            "a file that the flags name cannot be read: [Errno 2] No such file or directory: 'absent.py'",
        ),
        (
            ["--images=a", "--config=conf.py", "--config.step=3"],
            "no such setting: step; did you mean steps?",
        ),
        (
            ["--images=a", "--config=conf.py", "--config.optimizer.momentum=3"],
            "no such setting: momentum; look into the file of --config",
        ),
        (
            ["--images=a", "--config=conf.py", "--config.steps=many"],
            "flag --config.steps=many: 'many' is no integer (--help lists the flags)",
        ),
        (["--images=a", "--config=conf.py:refused"], "no such experiment"),
        (
            ["--images=a", "--config=conf.py:value"],
            "flag --config=conf.py:value: ValueError: steps are odd (--help lists the flags)",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_of_the_user_are_one_line(folder: Path, arguments: list[str], line: str) -> None:
    result = run(folder, *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"error: {line}\n")


@pytest.mark.parametrize(
    ("mode", "said"),
    [("memory", "out of memory (Unable to allocate 8 TiB)"), ("threads", "threads"), ("device", "JAX finds no device")],
)
def test_what_is_wrong_with_a_machine_is_one_line(folder: Path, mode: str, said: str) -> None:
    result = run(folder, "--images=a", f"--mode={mode}", JAX_PLATFORMS="")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--images=a", "--mode=bug"], "ZeroDivisionError: bug"),
        (["--images=a", "--mode=absent"], "FileNotFoundError"),
        (["--images=a", "--config=conf.py:bug"], "AttributeError"),
    ],
)
def test_errors_of_the_program_keep_their_traceback(folder: Path, arguments: list[str], error: str) -> None:
    result = run(folder, *arguments)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert error in result.stderr.splitlines()[-1]


def test_the_traceback_is_there_on_demand(folder: Path) -> None:
    result = run(folder, "--images=a", "--mode=user", VLSEG_TRACEBACK="1")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("\nerror: a.pt is empty\n")
    assert "Traceback" not in run(folder, "--images=a", "--mode=user", VLSEG_TRACEBACK="0").stderr


def test_interruption(folder: Path) -> None:
    result = run(folder, "--images=a", "--mode=interrupt")
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("moment", ["import", "end"])
def test_interruption_at_any_moment(tmp_path: Path, moment: str) -> None:
    # Not one sleep: a signal that comes just before it begins is only seen when it ends.
    waiting = "import time\nprint('here', flush=True)\nfor _ in range(600): time.sleep(0.1)"
    ending = f"import threading; threading.Thread(target=lambda: exec({waiting!r})).start()"
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("import vlseg\n" + (waiting if moment == "import" else ""))
    (tmp_path / "package/paint.py").write_text(f"from vlseg import cli\ncli.run(lambda _: exec({ending!r}), 'x')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "package.paint"], cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "here\n"
        time.sleep(0.3 if moment == "end" else 0)
        process.send_signal(signal.SIGINT)
        assert (process.wait(20), process.stderr.read()) == (130, "interrupted\n")


def test_output_that_nobody_reads_or_that_is_full_is_no_fault_of_the_program(folder: Path) -> None:
    command = [sys.executable, "-m", "paint", "--images=a"]
    options: dict[str, Any] = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "timeout": 60}
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, **options)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, **options)
    assert (result.returncode, result.stderr) == (2, b"error: No space left on device\n")


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort"])
def test_help(folder: Path, flag: str) -> None:
    result = run(folder, flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Paints pictures.\n\nOnly with care.\n")
    assert "--count: How many.\n    (default: '3')" in result.stdout
    assert "--config: Settings." in result.stdout
    assert "--verbosity" not in result.stdout


def test_help_of_everything(folder: Path) -> None:
    result = run(folder, "--helpfull")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--count: How many." in result.stdout
    assert "--verbosity" in result.stdout


def test_help_of_a_command_that_another_module_starts(folder: Path) -> None:
    code = (
        "import sys; from vlseg import cli; import paint; sys.argv = ['paint', '--help']; cli.run(paint.main, 'Usage.')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage.\n")
    assert "--count: How many." in result.stdout


def test_logs_of_libraries_are_quiet_unless_asked_for(folder: Path) -> None:
    quiet = run(folder, "--images=a", "--mode=logs").stderr.splitlines()
    assert len(quiet) == 1
    assert quiet[0].endswith("own warning")
    loud = run(folder, "--images=a", "--mode=logs", "--verbosity=0").stderr.splitlines()
    assert [line.split("] ")[-1] for line in loud] == ["info", "library warning", "library warning", "own warning"]


def test_warnings_are_one_short_line_whatever_they_quote(folder: Path) -> None:
    (line,) = run(folder, "--images=a", "--mode=names").stderr.splitlines()
    assert len(line) < 600 and line.isprintable() and line.endswith("is odd")


def test_jax_starts_without_a_word(folder: Path) -> None:
    result = run(folder, "--images=a", "--mode=jax", JAX_PLATFORMS="cpu")
    assert (result.returncode, result.stdout, result.stderr) == (0, "2.0\n", "")


def test_help_does_not_wait_for_jax() -> None:
    code = "import sys, vlseg.cli; sys.exit(any(name in sys.modules for name in ('jax', 'numpy', 'tensorflow')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
