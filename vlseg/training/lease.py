"""One working directory, one run: a lease that names the process that writes there.

WORKDIR/.lease/N.json   who it is; N is one more than that of the run it was taken over from

The holder renews it every half minute. One that was not renewed for two minutes is taken over, and at once one whose
process is known to be dead, because it ran on this machine, or whose job is ours. Ages are differences of times that
the place itself gives to files, so that clocks of hosts need not agree. A holder that was suspended meanwhile finds its
file gone and stops before it writes again.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import jax

from vlseg import distributed, files, json_files, storage
from vlseg.errors import ConfigError, StorageError, VlsegError

FOLDER = ".lease"
RENEWED = 30.0
"""Seconds between renewals."""

STALE = 120.0
"""Seconds without a renewal after which a lease is taken over."""

TRIES = 8
"""How often to begin anew when others take or give up a lease at the same time."""

JOBS = (
    ("VLSEG_JOB",),
    ("SLURM_JOB_ID", "SLURM_CLUSTER_NAME"),
    ("JOBSET_NAME", "JOBSET_NAMESPACE"),
    ("SKYPILOT_TASK_ID",),
)
"""Variables of the environment by which a job keeps its identity when it is started again; the first one is ours."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that holds a lease.

    Attributes:
        host, pid: of the process. since: when it took the lease, as a person reads it.
        machine: what tells its processes from those of other machines and containers. started: when the process was, in
            the machine's own unit. job: of the cluster. token: of this lease alone.
        replaced: tokens of the leases that it took over.
    """

    host: str
    pid: int
    since: str
    machine: str
    started: str
    job: str
    token: str
    replaced: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> "Holder":
        """This process."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid = os.getpid()
        return cls(socket.gethostname(), pid, now, _machine(), _started(pid) or "", _job(), uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host}, since {self.since}"

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started

    @property
    def is_alive(self) -> bool:
        """Whether the process is known to run."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) == self.started


class _Found(NamedTuple):
    """A lease that was found: its number, its holder if that can be read, and seconds since it was renewed."""

    number: int
    holder: Holder | None
    age: float

    @property
    def why_free(self) -> str | None:
        """Why it may be taken over; None if it may not."""
        if self.holder and self.holder.is_dead:
            return "which has ended"
        if self.age > STALE:
            return f"which gave no sign of life for {self.age:.0f} s"
        if self.holder and self.holder.job and self.holder.job == _job() and not self.holder.is_alive:
            return "an earlier attempt of this job"
        return None


class Lease:
    """A held working directory; see `held`. All processes of a run have one, of which process 0's is in the folder."""

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        """Holds nothing yet."""
        self._workdir = os.fspath(workdir).rstrip("/") or "/"
        self._folder = f"{self._workdir}/{FOLDER}"
        self._is_remote = files.is_remote(workdir)
        self._holder = Holder.here()
        self._number = 0
        self._made: list[Path] = []
        self._renewed = time.monotonic()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def check(self) -> None:
        """To be called before something is written, by all processes together.

        Raises:
            ConfigError: another run has taken the working directory over. StorageError: that cannot be told for long.
        """
        distributed.by_main(self._check)

    def acquire(self) -> None:
        """Takes the lease for this process.

        Raises:
            ConfigError: another run has it. StorageError: the working directory cannot be used.
        """
        for attempt in range(TRIES):
            try:
                replaced = self._try()
            except StorageError as error:
                # Another run that ends or begins removes the folder, or what is written there.
                if attempt >= 2:
                    hidden = rf"{re.escape(self._folder)}(/[\w.-]+)?"  # which says nothing to a person
                    raise StorageError(re.sub(hidden, lambda _: self._workdir, str(error))) from error
                replaced = None
            if replaced is not None:
                break
            time.sleep(random.uniform(0.02, 0.2))
        else:
            raise ConfigError(f"{self._workdir}: other runs begin in this working directory at the same time")
        for one in replaced:
            self._remove(one.number)
            whose = str(one.holder) if one.holder else "an unknown process"
            print(f"{self._workdir}: taken over from {whose}, {one.why_free}", file=sys.stderr, flush=True)
        self._clear()
        self._renewed = time.monotonic()
        self._thread.start()

    def release(self) -> None:
        """Gives it back, and removes folders that were made for it and are empty; a lost one stays with its holder."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(RENEWED)
        if self._number:
            with contextlib.suppress(VlsegError):
                self._remove(self._number)
            self._number = 0
        if not self._is_remote:
            with contextlib.suppress(OSError):
                for place in dict.fromkeys([Path(self._folder).absolute(), *self._made]):
                    place.rmdir()  # fails if there is something in it

    def _try(self) -> list[_Found] | None:
        """The leases that this process has taken over, now that it holds one; None if another run was quicker."""
        found = self._found()
        for one in found:
            if one.why_free is None:
                raise ConfigError(self._refusal(one))
        self._holder = dataclasses.replace(
            self._holder, replaced=tuple(one.holder.token for one in found if one.holder)
        )
        number = 1 + max((one.number for one in found), default=0)
        if not self._is_remote:
            self._make_folder()
        if not storage.create(self._path(number), _text(self._holder)):
            return None
        self._number = number
        if set(self._numbers()) - {number, *(one.number for one in found)}:
            # Between looking and writing another one came, which may not have seen this one.
            self._remove(number)
            self._number = 0
            return None
        return found

    def _check(self) -> None:
        try:
            lost = self._lost()
        except StorageError:
            # A place that does not answer for a moment is no loss: nobody takes over before the lease is stale.
            if time.monotonic() - self._renewed < STALE - RENEWED:
                return
            raise
        if lost:
            raise ConfigError(f"{self._workdir}: {lost}; this run has stopped and has written nothing since")

    def _lost(self) -> str | None:
        """Why this process does not hold the lease any more; None if it does."""
        numbers = self._numbers()
        others = [holder for number in numbers if number != self._number and (holder := self._read(number))]
        for holder in others:
            if self._holder.token in holder.replaced or self._number not in numbers:
                return f"this working directory was taken over by {holder}"
        return None if self._number in numbers else f"the lease of this run, {self._path(self._number)}, was removed"

    def _keep(self) -> None:
        while not self._ending.wait(RENEWED):
            # What fails here shows again, and is said, where the run itself looks.
            with contextlib.suppress(OSError, VlsegError):
                if self._lost():
                    return
                if self._is_remote:
                    storage.write_bytes(self._path(self._number), _text(self._holder))
                else:
                    os.utime(self._path(self._number))  # which never brings back a file that another run has removed
                self._renewed = time.monotonic()

    def _make_folder(self) -> None:
        folder = Path(self._folder).absolute()
        try:
            self._made += [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "a file of that name exists" if Path(self._workdir).is_file() else error.strerror
            if Path(self._workdir).is_dir() and (folder.exists() or folder.is_symlink()):
                reason = f"{FOLDER} in it is no folder; remove that"
            raise StorageError(f"cannot make the working directory {self._workdir}: {reason}") from error

    def _refusal(self, one: _Found) -> str:
        whose = str(one.holder) if one.holder else "a process that is just beginning"
        return (
            f"{self._workdir} is in use by {whose}, last seen {max(one.age, 0):.0f} s ago: wait until that run ends or "
            f"choose another --workdir; if it is dead, this command works {STALE:.0f} s after it was last seen"
        )

    def _found(self) -> list[_Found]:
        numbers = self._numbers()
        if not numbers:
            return []
        now = self._now()
        found = []
        for number in numbers:
            written = storage.modified(self._path(number))
            if written is not None:  # else it was given back meanwhile
                if written > now + STALE and not self._is_remote:
                    # The clock was set back since. A holder that lives renews it; nobody else's would ever grow old.
                    with contextlib.suppress(OSError):
                        os.utime(self._path(number))
                found.append(_Found(number, self._read(number), now - written))
        return found

    def _now(self) -> float:
        """The time by the clock of the place."""
        path = f"{self._folder}/.clock-{uuid.uuid4().hex}"
        storage.create(path, b"")
        try:
            now = storage.modified(path)
            return time.time() if now is None else now
        finally:
            with contextlib.suppress(StorageError):
                storage.remove(path)

    def _numbers(self) -> list[int]:
        stems = [name.removesuffix(".json") for name in storage.names(self._folder) if name.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def _read(self, number: int) -> Holder | None:
        try:
            content = json_files.parse(storage.read_bytes(self._path(number)), FOLDER, StorageError)
            holder = Holder(**{**content, "replaced": tuple(content["replaced"])})
        except (VlsegError, TypeError, KeyError):
            return None
        wanted = {"pid": int, "replaced": tuple}
        values = dataclasses.asdict(holder)
        return holder if all(isinstance(values[name], wanted.get(name, str)) for name in values) else None

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number}.json"

    def _remove(self, number: int) -> None:
        with contextlib.suppress(StorageError):
            storage.remove(self._path(number))

    def _clear(self) -> None:
        """Removes what processes that were killed while they took a lease have left."""
        for name in storage.names(self._folder):
            if name.startswith("."):
                with contextlib.suppress(StorageError):
                    storage.remove(f"{self._folder}/{name}")


@contextlib.contextmanager
def held(workdir: str | os.PathLike[str]) -> Iterator[Lease]:
    """Holds a working directory while the block runs; all processes of a run call it together.

    SIGTERM ends the block too, unless it already means something else. A process that is killed leaves a lease that is
    taken over as the module says.

    Raises:
        ConfigError: another run works there; process 0 finds it, and all say the same. StorageError: it cannot be made.
    """
    lease = Lease(workdir)
    with _ended_by_sigterm():
        try:
            distributed.by_main(lease.acquire)
            yield lease
        finally:
            lease.release()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    is_main_thread = threading.current_thread() is threading.main_thread()
    # JAX's own handler, which Python does not see, tells the other processes.
    if not is_main_thread or jax.distributed.is_initialized() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _text(holder: Holder) -> bytes:
    return json.dumps(dataclasses.asdict(holder), indent=2).encode()


def _job() -> str:
    for names in JOBS:
        if os.environ.get(names[0]):
            return " ".join(f"{name}={os.environ.get(name, '')}" for name in names)
    return ""


def _machine() -> str:
    """What processes with one numbering share: the start of the machine and the container; empty if it is not known."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine was started, in ticks of its machine; None if it has ended."""
    try:
        # The name of the program, in brackets, may hold anything.
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else rest[18]
