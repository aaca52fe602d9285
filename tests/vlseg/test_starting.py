"""What goes wrong while Python imports a command, and in its worker processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKERS = """
import multiprocessing, time
from vlseg import cli

def work():
    print("working", flush=True)
    time.sleep(60)

def main(_):
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()

if __name__ == "__main__":
    cli.run(main, "x")
"""


def command(folder: Path, body: str, package: str = "import vlseg\n") -> Path:
    """A package with one command, beside a copy of the shared modules that it needs."""
    (folder / "package").mkdir()
    (folder / "package/__init__.py").write_text(package)
    (folder / "package/run.py").write_text(body)
    (folder / "vlseg").mkdir()
    for name in ("__init__", "starting", "errors", "cli", "devices", "files"):
        shutil.copy(ROOT / f"vlseg/{name}.py", folder / "vlseg")
    return folder


def test_workers_leave_ctrl_c_to_their_command(tmp_path: Path) -> None:
    folder = command(tmp_path, WORKERS)
    with subprocess.Popen(
        [sys.executable, "-m", "package.run"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "working\n"
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert (process.wait(20), process.stderr.read()) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("import vlseg\nfrom vlseg.errors import ConfigError\nraise ConfigError('no')\n", "error: no\n"),
        ("import vlseg\nimport jax\n", 'error: Invalid value "loud" for JAX flag jax_numpy_dtype_promotion\n'),
    ],
)
def test_an_environment_that_libraries_refuse_is_one_line(tmp_path: Path, package: str, said: str) -> None:
    folder = command(tmp_path, "", package)
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_NUMPY_DTYPE_PROMOTION": "loud"}
    result = subprocess.run(
        [sys.executable, "-m", "package.run"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (2, said)
