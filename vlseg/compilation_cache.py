"""Compiled programs are kept between commands, so that the second start of one compiles nothing."""

import hashlib
import os
import platform
import sys
from pathlib import Path

from vlseg import files

LIMIT = 2 * 2**30
"""Bytes that are kept; what was not used for longest goes first."""


def keep() -> None:
    """Has JAX keep what it compiles in the user's cache directory, unless its own settings say where or whether.

    Of those, JAX_COMPILATION_CACHE_DIR names another directory and JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
    Does nothing where JAX is not imported, or where nothing can be written.
    """
    jax = sys.modules.get("jax")
    if jax is None or jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    directory = files.cache_directory() / "programs" / machine()
    if not _writable(directory):
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", LIMIT)
    # Small programs are many, and together they take as long as the large ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def machine() -> str:
    """Names the instructions that this machine's processor knows: programs for others must not be run on it.

    Machines of a cluster may share a home directory.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    known = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(f"{platform.machine()} {known}".encode()).hexdigest()[:12]


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)
