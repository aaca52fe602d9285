"""Running the commands of a package as a user does, in processes of their own or, which is faster, in this one."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import grain  # noqa: F401  defines flags, which `call` must not take for the command's own
import pytest
from absl import app, flags

ROOT = Path(__file__).parent.parent
SPAWNED = {
    # Halves the time to compile, which is most of the time.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    # The cache of compiled programs is the tests' own, and what becomes of it not the command's affair.
    "PYTHONWARNINGS": ",".join(
        f"ignore:Error {doing} persistent compilation cache entry:UserWarning" for doing in ("reading", "writing")
    ),
}


class Commands:
    """The commands of a package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def spawn(self, module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """A command in a process of its own."""
        line = [sys.executable, "-m", f"{self.package}.{module}", *map(str, arguments)]
        everything = os.environ | SPAWNED | environment
        pipe = subprocess.PIPE
        return subprocess.Popen(line, cwd=ROOT, env=everything, stdout=pipe, stderr=pipe, text=True)

    def call(self, module: str, *arguments: object) -> object:
        """A command in this process, from its flags to its exit code."""
        app.define_help_flags()
        known, argv = set(flags.FLAGS), sys.argv
        sys.argv = [module, *map(str, arguments)]
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_module(f"{self.package}.{module}", run_name="__main__", alter_sys=True)
        finally:
            sys.argv = argv
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
        return ended.value.code or 0

    def refusal(self, capsys: pytest.CaptureFixture[str], module: str, *arguments: object) -> str:
        """The one line with which a command refuses its arguments."""
        capsys.readouterr()
        assert self.call(module, *arguments) == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("error: ") and errors.count("\n") == 1 and errors.endswith("\n"), errors
        return errors


def ending(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process, which does not outlive this call."""
    try:
        output, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    return process.returncode, output, errors


def finish(process: subprocess.Popen[str]) -> str:
    """Its standard output, after it ended as it should and without a word on standard error."""
    code, output, errors = ending(process)
    assert (code, errors) == (0, "")
    return output


def files_in(directory: Path) -> set[str]:
    """Every file below, leftovers of unfinished writes too."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
