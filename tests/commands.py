"""Running the commands of a package as a user does, in processes of their own or, which is faster, in this one.

And what several tests of commands need: labelled photographs, flags of a training run, a disk without room.
"""

import contextlib
import io
import json
import os
import resource
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import grain  # noqa: F401  defines flags, which `call` must not take for the command's own
import jax
import numpy as np
import pytest
from absl import app, flags
from PIL import Image

from vlseg.verification import COLUMN, WIDTH

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

    def output(self, module: str, *arguments: object) -> str:
        """What a command prints in this process, which must end well."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert self.call(module, *arguments) == 0
        return printed.getvalue()

    def refusal(self, capsys: pytest.CaptureFixture[str], module: str, *arguments: object) -> str:
        """The one line with which a command refuses its arguments."""
        capsys.readouterr()
        assert self.call(module, *arguments) == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("error: ") and errors.count("\n") == 1 and errors.endswith("\n"), errors
        return errors

    def screen(
        self, capsys: pytest.CaptureFixture[str], *arguments: object
    ) -> tuple[object, dict[str, tuple[str, str]]]:
        """The exit code of `verify`, and what it prints: what was looked at -> (mark, what was found)."""
        capsys.readouterr()
        code = self.call("verify", *arguments)
        output, errors = capsys.readouterr()
        assert errors == ""
        *lines, _ = output.splitlines()
        assert len(lines) < 24 and all(len(line) <= WIDTH or " " not in line[COLUMN:] for line in lines), output
        found: dict[str, tuple[str, str]] = {}
        for line in lines:
            head, words = line[:COLUMN], line[COLUMN:]
            what = head[5:].strip() or list(found)[-1]
            found[what] = (head[:5].strip(), words) if head.strip() else (found[what][0], f"{found[what][1]} {words}")
        return code, found


def ending(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process, which does not outlive this call."""
    try:
        output, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    return process.returncode, output, errors


def files_in(directory: Path) -> set[str]:
    """Every file below, leftovers of unfinished writes too."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


NAMES = ("grass", "house", "tree", "car")
"""Labels that every model reads."""

SIZE = (80, 96)
"""Of pictures: one, so that few programs are compiled."""


def labelled_folder(root: Path, count: int) -> Path:
    """Pictures with labels, as `--data` takes them: each quarter has a label's colour, a strip is not labelled."""
    colours = np.array([[60, 150, 50], [170, 60, 40], [90, 140, 230], [220, 200, 140]])
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        label = rng.permutation(len(NAMES)).astype(np.uint8).reshape(2, 2).repeat(40, 0).repeat(48, 1)
        pixels = colours[label] + rng.normal(0, 12, (*SIZE, 3))
        label[:, :5] = 255
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / f"images/{number}.jpg", quality=95)
        Image.fromarray(label).save(root / f"labels/{number}.png")
    (root / "names.txt").write_text("\n".join(NAMES))
    return root


def train_flags(config: object, workdir: object, settings: Mapping[str, object], **changes: object) -> list[str]:
    """The flags of a training run: a configuration with other settings, in `changes` by names such as a__b for a.b."""
    settings = {**settings, **{name.replace("__", "."): value for name, value in changes.items()}}
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    return [f"--config={config}", f"--workdir={workdir}", *overrides]


def logged(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Like a full disk, which needs rights: no file may grow beyond `size` bytes, here and in started processes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The cache of compiled programs, which other tests share, would keep half an entry for good.
    cached = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", cached)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
