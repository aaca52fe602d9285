"""The devices that JAX computes on, looked for before anything is computed, so that their absence has one message."""

import functools
import os

from vlseg.errors import ConfigError, one_line


@functools.cache
def check() -> None:
    """Finds JAX's devices.

    Raises:
        ConfigError: there are none of the platform that is asked for.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # CUDA's plugin asserts
        raise ConfigError(absent(error)) from error


def absent(error: Exception) -> str:
    """The message for an error of JAX that has found no device."""
    asked = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
    which = f"no device for JAX_PLATFORMS={asked}" if asked else "no device"
    return (
        f"JAX finds {which} ({one_line(error) or type(error).__name__}); unset JAX_PLATFORMS to take what there is, "
        "JAX_PLATFORMS=cpu computes without an accelerator, and jax[cuda12] or jax[tpu] are JAX's packages for one"
    )


def is_absent(error: BaseException) -> bool:
    """Whether an error says that JAX has found no device."""
    return isinstance(error, RuntimeError) and "initialize backend" in str(error)
