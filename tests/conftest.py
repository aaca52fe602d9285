"""What every test runs under: the CPU, no network, and compiled programs kept between runs."""

import os
from pathlib import Path

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

# The first example of a test may compile, so no example has a deadline. CI draws the same examples every time.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")
