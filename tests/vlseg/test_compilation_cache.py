"""Programs that are kept between commands."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlseg import compilation_cache

COMPILE = """
import jax
from vlseg import compilation_cache
compilation_cache.keep()
print(jax.jit(lambda x: 2 * x)(21))
"""


def run(command, cache, **environment):
    """Runs Python with nothing of the tests' own cache."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMP", "JAX_PERS"))}
    done = subprocess.run(
        [sys.executable, *command],
        env={**inherited, "VLSEG_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def programs(cache):
    """When each of the programs that are kept was written."""
    return {path.name: path.stat().st_mtime_ns for path in cache.rglob("*-cache")}


def test_a_program_is_compiled_once(tmp_path):
    assert run(["-c", COMPILE], tmp_path).stdout == "42\n"
    kept = programs(tmp_path / "programs" / compilation_cache.machine())
    assert kept
    again = run(["-c", COMPILE], tmp_path)
    assert programs(tmp_path) == kept and (again.stdout, again.stderr) == ("42\n", "")


@pytest.mark.parametrize(
    "environment", [{"JAX_ENABLE_COMPILATION_CACHE": "false"}, {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}]
)
def test_settings_of_jax_come_first(tmp_path, environment):
    environment = {name: value.replace("elsewhere", str(tmp_path / "elsewhere")) for name, value in environment.items()}
    run(["-c", COMPILE], tmp_path / "cache", **environment)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = run(["-c", COMPILE], tmp_path / "file")
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_other_processors_have_other_programs(monkeypatch):
    own = compilation_cache.machine()
    assert own == compilation_cache.machine()
    monkeypatch.setattr(Path, "read_text", lambda path: "flags : sse avx")
    one = compilation_cache.machine()
    monkeypatch.setattr(Path, "read_text", lambda path: "flags : sse avx avx512f")
    assert len({own, one, compilation_cache.machine()}) == 3


@pytest.mark.slow
def test_a_second_start_of_predict_compiles_nothing(tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(image)
    for package in ("lseg_jax", "ifseg_jax"):
        command = ["-m", f"{package}.predict", "--checkpoint=tiny", f"--images={image}", "--labels=grass,house"]
        run([*command, f"--out={tmp_path / package / 'first'}"], tmp_path / "cache")
        kept = programs(tmp_path / "cache")
        assert kept
        run([*command, f"--out={tmp_path / package / 'second'}"], tmp_path / "cache")
        assert programs(tmp_path / "cache") == kept
