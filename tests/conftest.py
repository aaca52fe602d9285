"""What every test runs under: the CPU, no network, compiled programs kept between runs; and the golden weights."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests import golden_weights

# Before any test module imports jax or the hub's client, which read these once.
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
for _name, _value in {
    "JAX_PLATFORMS": "cpu",
    "HF_HUB_OFFLINE": "1",
    # Programs run for milliseconds here and take seconds to compile, a quarter as long with these.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "JAX_COMPILATION_CACHE_DIR": str(_CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    # A limit also makes processes that run side by side take turns at a file.
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
}.items():
    os.environ.setdefault(_name, _value)

# Tracing makes many small objects that live on; looking through them again and again took a twelfth of the time.
gc.set_threshold(20_000, 20, 20)

pytest.register_assert_rewrite("tests.commands")

# The first example of a test may compile, so no example has a deadline. CI draws the same examples every time.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


@pytest.fixture(scope="session")
def golden_tensor():
    """The weights behind the golden outputs: a function of an official parameter's name and shape alone."""
    return golden_weights.tensor


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Labelled pictures, as `--data` takes them."""
    from tests.commands import labelled_folder  # it imports jax

    return labelled_folder(tmp_path_factory.mktemp("data") / "folder", 4)


@pytest.fixture(scope="module")
def micro_efficientnet():
    """A variant of EfficientNet-Lite for a module: every kind of block, once or twice, and a quarter of the channels.

    Half the blocks of the smallest published one compile in half the time.
    """
    from vlseg.nn import efficientnet  # it imports jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(efficientnet.VARIANTS, "micro", efficientnet.Scaling(0.25, 0.3, 32))
        yield "micro"
