"""One working directory, one run: who gets it, who does not, and what a run does that has lost it."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.buckets import stand_in
from tests.commands import ROOT
from vlseg.errors import ConfigError, StorageError
from vlseg.training import lease
from vlseg.training.lease import Holder, held
from vlseg.training.loop import Schedule, train

ELSEWHERE = {"host": "gpu-7", "pid": 4711, "machine": "another machine", "started": "1", "token": "theirs"}


@pytest.fixture(params=["local", "bucket"])
def place(request, tmp_path, monkeypatch):
    """A working directory, and where its files lie."""
    if request.param == "local":
        return tmp_path / "run", tmp_path / "run"
    stand_in(tmp_path / "store", monkeypatch)
    return "gs://bucket/run", tmp_path / "store/bucket/run"


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in (name for names in lease.JOBS for name in names):
        monkeypatch.delenv(name, raising=False)


def leave(folder, age=0.0, number=1, **changes):
    """A lease as another process has left it, renewed so many seconds ago."""
    path = folder / f".lease/{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lease._text(dataclasses.replace(Holder.here(), **{**ELSEWHERE, **changes})))
    os.utime(path, (time.time() - age,) * 2)
    return path


def leases(folder):
    return sorted(path.name for path in folder.glob(".lease/*"))


def ended_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_directory_that_is_in_use_is_refused_and_free_again_afterwards(place):
    workdir, folder = place
    with held(workdir) as ours:
        ours.check()
        with pytest.raises(ConfigError) as caught, held(workdir):
            pytest.fail("two at once")
        said = str(caught.value)
        assert said.startswith(f"{workdir} is in use by process {os.getpid()} on host {Holder.here().host}, since 2")
        ours.check()
    assert leases(folder) == []
    with held(workdir):
        assert leases(folder) == ["1.json"]


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with held(tmp_path), pytest.raises(ConfigError, match="in use"), held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folders_made_for_a_lease_go_with_it(tmp_path):
    with pytest.raises(InterruptedError), held(tmp_path / "a/b"):
        raise InterruptedError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the working directory"), held(tmp_path / "file"):
        pass


@pytest.mark.parametrize(
    ("age", "job", "changes", "reason"),
    [
        (119, "", {}, None),
        (121, "", {}, "gave no sign of life for 12"),
        (-3600, "", {}, None),
        (0, "7", {"job": "SLURM_JOB_ID=7 SLURM_CLUSTER_NAME="}, "an earlier attempt of this job"),
        (0, "8", {"job": "SLURM_JOB_ID=7 SLURM_CLUSTER_NAME="}, None),
        (0, "", {"job": ""}, None),
        (0, "", {"machine": ""}, None),
        (0, "", {"machine": lease._machine(), "pid": ended_process()}, "has ended"),
        # A number that another process has now.
        (0, "", {"machine": lease._machine(), "pid": os.getpid()}, "has ended"),
        (0, "7", {"machine": lease._machine(), "pid": 1, "started": lease._started(1)}, None),
    ],
    ids=["fresh", "stale", "ahead", "job", "other job", "no job", "unknown", "dead", "recycled", "alive"],
)
def test_whose_lease_is_taken_over(place, monkeypatch, capsys, age, job, changes, reason):
    workdir, folder = place
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    left = leave(folder, age, **changes)
    monkeypatch.setattr(time, "time", lambda: 1e9)  # clocks of hosts differ
    if reason is None:
        with pytest.raises(ConfigError, match=r"in use by process \d+ on host gpu-7"), held(workdir):
            pass
        assert left.exists()
        return
    with held(workdir):
        assert leases(folder) == ["2.json"]
    (said,) = capsys.readouterr().err.splitlines()
    assert "taken over from process" in said and reason in said


def test_a_lease_of_this_job_whose_process_runs_here_is_kept(tmp_path, monkeypatch):
    """Two runs of one job in one directory are a mistake as any others."""
    monkeypatch.setenv("JOBSET_NAME", "a")
    with held(tmp_path), pytest.raises(ConfigError, match="in use"), held(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "1"}', b"\xff", b"[" * 5000])
def test_a_lease_that_cannot_be_read_is_respected_until_it_is_stale(tmp_path, content):
    leave(tmp_path).write_bytes(content)
    with pytest.raises(ConfigError, match="in use by a process that is just beginning"), held(tmp_path):
        pass
    os.utime(tmp_path / ".lease/1.json", (1, 1))
    with held(tmp_path):
        assert leases(tmp_path) == ["2.json"]


def test_a_run_that_was_taken_over_notices_and_leaves_the_other_alone(place):
    workdir, folder = place
    with held(workdir) as ours:
        other = leave(folder, number=2, replaced=(ours._holder.token,))
        with pytest.raises(ConfigError, match=f"{workdir}: this working directory was taken over by process 4711 on"):
            ours.check()
        (folder / ".lease/1.json").unlink()
        with pytest.raises(ConfigError, match="taken over by process 4711 on host gpu-7, since"):
            ours.check()
    assert other.exists()
    other.unlink()
    with held(workdir) as ours:
        (folder / ".lease/1.json").unlink()
        with pytest.raises(ConfigError, match="was removed; this run has stopped"):
            ours.check()


def test_a_lease_is_renewed_and_never_brought_back(place, monkeypatch):
    workdir, folder = place
    monkeypatch.setattr(lease, "RENEWED", 0.02)
    with held(workdir):
        path = folder / ".lease/1.json"
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1
        path.unlink()
        time.sleep(0.1)
        assert not path.exists()


def step(state, number):
    return {"params": {"w": state["params"]["w"] + 1}}, {"loss": np.float32(1)}


def test_a_run_that_was_taken_over_stops_before_it_writes_again(place):
    """As one that was suspended for minutes: the other has gone on meanwhile."""
    workdir, folder = place

    def taken_over(state, number):
        if number == 3:
            (folder / ".lease/1.json").unlink()
            leave(folder, number=2)
            (folder / "metrics.jsonl").write_text("theirs\n")
        return step(state, number)

    with pytest.raises(ConfigError, match="was taken over by process 4711 on host gpu-7"):
        train({"params": {"w": np.zeros(2)}}, taken_over, workdir, Schedule(9, 1, 2))
    assert (folder / "metrics.jsonl").read_text() == "theirs\n"
    assert sorted(path.name for path in (folder / "checkpoints").glob("[0-9]*")) == ["2"]
    assert leases(folder) == ["2.json"]


@pytest.mark.parametrize("place", ["local", pytest.param("bucket", marks=pytest.mark.slow)], indirect=True)
def test_of_runs_that_start_together_one_wins(place):
    workdir, folder = place
    for number in range(10):
        if number % 2:
            leave(folder, 200)  # from which all would take over
        start, done, won = threading.Barrier(3), threading.Barrier(3), []

        def run(start=start, done=done, won=won):
            start.wait()
            try:
                with held(workdir):
                    won.append(1)
                    done.wait(20)
            except ConfigError:
                done.wait(20)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [1] and leases(folder) == []


PROCESS = """
    import sys
    from vlseg import cli
    from vlseg.training.lease import held

    def main(arguments):
        print("ready", flush=True)
        for line in sys.stdin:
            try:
                with held(line.strip()):
                    print("held", flush=True)
                    sys.stdin.readline()
            except Exception as error:
                print(type(error).__name__, error, flush=True)
                sys.stdin.readline()
            print("free", flush=True)

    cli.run(main)
"""


def processes(count):
    line = [sys.executable, "-c", textwrap.dedent(PROCESS)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(line, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1) for _ in range(count)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    return started


def say(process, text):
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


@pytest.mark.slow
def test_of_processes_that_start_together_one_wins(tmp_path):
    both = processes(2)
    for number in range(10):
        for process in both:
            say(process, tmp_path / str(number))
        found = [process.stdout.readline() for process in both]
        assert sorted(line.split()[0] for line in found) == ["ConfigError", "held"], found
        for process in both:
            say(process, "")
            assert process.stdout.readline() == "free\n"
        assert leases(tmp_path / str(number)) == []
    for process in both:
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "ended", "left"),
    [(signal.SIGTERM, 143, []), (signal.SIGINT, 130, []), (signal.SIGKILL, -9, [Path("run")])],
)
def test_a_run_that_is_ended_leaves_nothing_in_the_way(tmp_path, code, ended, left):
    (process,) = processes(1)
    say(process, tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    process.send_signal(code)
    if code == signal.SIGKILL:
        time.sleep(0.2)  # a zombie until someone asks for it
        with held(tmp_path / "run"):
            pass
    assert process.wait(20) == ended
    assert [path.relative_to(tmp_path) for path in tmp_path.iterdir()] == left
    assert leases(tmp_path / "run") == []


def test_what_a_lease_says(tmp_path):
    with held(tmp_path):
        said = json.loads((tmp_path / ".lease/1.json").read_text())
    assert (said["pid"], said["host"]) == (os.getpid(), Holder.here().host)


def test_a_lease_from_the_future_grows_old_from_now_on(tmp_path):
    path = leave(tmp_path, age=-1e6)
    with pytest.raises(ConfigError, match="is in use by process 4711 on host gpu-7"), held(tmp_path):
        pass
    assert abs(path.stat().st_mtime - time.time()) < 60


def test_a_file_in_the_place_of_the_lease_is_named(tmp_path):
    (tmp_path / ".lease").write_text("")
    with pytest.raises(StorageError, match=r"\.lease in it is no folder; remove that"), held(tmp_path):
        pass
