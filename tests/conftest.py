"""What every test runs under: the CPU, no network, compiled programs kept between runs; and the golden weights."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Before any test module imports jax or the hub's client, which read these once.
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
for _name, _value in {
    "JAX_PLATFORMS": "cpu",
    "HF_HUB_OFFLINE": "1",
    "JAX_COMPILATION_CACHE_DIR": str(_CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    # A limit also makes processes that run side by side take turns at a file.
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
}.items():
    os.environ.setdefault(_name, _value)

pytest.register_assert_rewrite("tests.commands")

# The first example of a test may compile, so no example has a deadline. CI draws the same examples every time.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


@pytest.fixture(scope="session")
def golden_tensor():
    """The weights behind the golden outputs: a function of an official parameter's name and shape alone."""

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if shape == ():
            return np.asarray(rng.normal() * 0.1, np.float32)
        noise = rng.standard_normal(shape, dtype=np.float32)
        kind = name.rsplit(".", 1)[-1]
        if kind == "running_var":
            return np.float32(0.5) + np.abs(noise) * np.float32(0.5)
        if kind == "running_mean":
            return np.float32(0.1) * noise
        if kind == "c_attn" or (len(shape) == 1 and kind == "weight"):
            return np.float32(1) + np.float32(0.1) * noise
        if len(shape) == 1:
            return np.float32(0.05) * noise
        if "rel_pos_table" in name:
            return np.float32(0.3) * noise
        if len(shape) == 2 and "embed" in name and "proj" not in name:
            return (noise * shape[-1] ** -0.5).astype(np.float32)
        gain = 2.0 if len(shape) == 4 else 1.0
        return (noise * np.sqrt(gain / np.prod(shape[1:]))).astype(np.float32)

    return tensor
