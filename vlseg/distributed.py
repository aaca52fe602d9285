"""Several processes that work as one: how they find each other, and what only one of them does."""

import contextlib
import fcntl
import functools
import json
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from vlseg import errors
from vlseg.errors import ConfigError, VlsegError

# They belong to the command that calls `define_flags`, so its --help shows them.
flags.disclaim_key_flags()

T = TypeVar("T")

TIMEOUT = 300
"""Seconds until processes that wait for each other give up."""


def define_flags() -> None:
    """Defines the flags that `initialize` reads."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "Work together with the other processes of this job: of all hosts of a TPU slice or of a Slurm job, which are "
        "found by themselves, or of --coordinator.",
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster tells it.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are, with --coordinator.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", lower_bound=0)
    flags.DEFINE_integer("coordinator_timeout", TIMEOUT, "Seconds to wait for the other processes.", lower_bound=1)


def is_asked_for() -> bool:
    """Whether the command line asks for several processes that work together."""
    options = flags.FLAGS
    return bool(options.distributed or options.coordinator or options.num_processes or options.process_id is not None)


def initialize(*, saves: bool = False) -> None:
    """Joins the other processes if the command line says so; must come before anything asks for a device.

    Ends the process with one line and exit code 2 if they do not come in time.

    Args:
        saves: the command asks for SIGTERM (`vlseg.training.loop`); otherwise that ends it, as it ends others.

    Raises:
        ConfigError: flags that do not go together, or no cluster that tells what they do not.
    """
    options = flags.FLAGS
    given = {"coordinator": options.coordinator, "num_processes": options.num_processes}
    given["process_id"] = options.process_id
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if not options.distributed:
            if options.coordinator_timeout != TIMEOUT:
                raise ConfigError("--coordinator_timeout has no effect on one process: leave it out")
            return
    elif missing:
        raise ConfigError(f"--coordinator, --num_processes and --process_id go together: {', '.join(missing)} missing")
    elif not re.fullmatch(r"\S+:\d{1,5}", options.coordinator) or int(options.coordinator.rpartition(":")[2]) > 65535:
        raise ConfigError(f"--coordinator {options.coordinator} is not like 10.0.0.1:8476")
    elif options.process_id >= options.num_processes:
        raise ConfigError(f"--process_id {options.process_id} is not below --num_processes {options.num_processes}")
    if options.coordinator is not None:
        _claim(options.coordinator, options.process_id)
    _join(options.coordinator, options.num_processes, options.process_id, options.coordinator_timeout)
    if not saves:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_main() -> bool:
    """Whether this is the process that prints and writes files."""
    return jax.process_index() == 0


def own_share(items: Any) -> Iterator[Any]:
    """Every n-th of some items, for n processes: this process's; `items` has a length and is indexed."""
    return (items[index] for index in range(jax.process_index(), len(items), jax.process_count()))


def merged(state: T, merge: Callable[[T, T], T]) -> T:
    """What the states of all processes, pytrees of arrays, make together; all processes call this and get the same."""
    if jax.process_count() == 1:
        return state
    everyones = multihost_utils.process_allgather(state)

    def of(process: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[process], everyones)

    return functools.reduce(merge, map(of, range(jax.process_count())))


def of_all(texts: Sequence[str]) -> list[str]:
    """The texts of all processes, in their order; all processes call this together and get the same."""
    if jax.process_count() == 1:
        return list(texts)
    content = np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(content)], np.int32)).ravel()
    filled = np.pad(content, (0, int(sizes.max()) - len(content)))
    rows = multihost_utils.process_allgather(filled).reshape(len(sizes), -1)
    return [text for row, size in zip(rows, sizes, strict=True) for text in json.loads(bytes(row[:size]))]


def from_main(value: Any) -> np.ndarray:
    """Process 0's value of an array or number of at most 32 bits; all processes call this together."""
    host = np.asarray(value)
    return host if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(host))


def text_from_main(text: str) -> str:
    """Process 0's text, whatever its length; all processes call this together."""
    if jax.process_count() == 1:
        return text
    content = np.frombuffer(text.encode(), np.uint8)
    buffer = np.zeros(int(from_main(np.int32(len(content)))), np.uint8)
    if is_main():
        buffer[:] = content
    return from_main(buffer).tobytes().decode() if buffer.size else ""


def by_main(action: Callable[[], Any]) -> None:
    """Lets process 0 do something that may be refused; all processes call this together.

    Raises:
        VlsegError: what it raises there, in all processes, of the same type and with the same message.
    """
    refusal: VlsegError | None = None
    if is_main():
        try:
            action()
        except VlsegError as error:
            refusal = error
    said = text_from_main(f"{type(refusal).__name__}\n{refusal}" if refusal else "")
    if refusal:
        raise refusal
    if said:
        name, _, message = said.partition("\n")
        raise getattr(errors, name, VlsegError)(message)


def all_agree(here: bool) -> bool:
    """Whether something holds in all processes; all call this together."""
    if jax.process_count() == 1:
        return here
    return bool(np.all(multihost_utils.process_allgather(np.asarray(here))))


def wait_for_all(what: str) -> None:
    """Goes on when all processes are here: one that ends takes the others with it after some minutes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


_claims: list[Any] = []
"""Open files, whose locks end with this process."""


def _claim(coordinator: str, process: int) -> None:
    """Refuses a --process_id that another process of this host has: JAX ends one of the two with a stack trace.

    Raises:
        ConfigError: there is such a process.
    """
    name = f"vlseg-{os.getuid()}-{re.sub(r'[^a-zA-Z0-9.]', '-', coordinator)}-{process}.lock"
    with contextlib.suppress(OSError):
        lock = open(os.path.join(tempfile.gettempdir(), name), "ab")  # noqa: SIM115 - held until this process ends
        _claims.append(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process on this host has --process_id {process} at {coordinator} already: give each its own"
            ) from None


def _join(coordinator: str | None, processes: int | None, process: int | None, timeout: int) -> None:
    def give_up() -> None:
        where = coordinator or "the cluster's coordinator"
        whom = f"not all of the {processes or 'other'} processes came to" if process == 0 else "no process answers at"
        print(
            f"error: {whom} {where} within {timeout} s; check that all are started, each "
            "with a --process_id of its own, the address, and the firewall",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    # JAX itself ends the process with a stack trace of its C++ parts, which nothing can catch.
    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=timeout + 60)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"this process cannot join others: {reason}; give --coordinator=HOST:PORT") from error
    finally:
        timer.cancel()
