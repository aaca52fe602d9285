"""Progress without a terminal: lines at intervals, also while nothing moves, and none after the end or a failure."""

import threading
import time

import pytest

from vlseg import progress
from vlseg.progress import BYTES, Progress


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_short_work_prints_nothing(capsys):
    assert list(progress.over("abc", 3, "read", "letter")) == ["a", "b", "c"]
    assert lines_of(capsys) == []


def test_lines_come_at_intervals_and_end_with_the_work(capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.01)

    def work() -> None:
        for item in progress.over(range(4), 4, "train", "step"):
            time.sleep(0.05)
            if item == 2:
                raise KeyError

    with pytest.raises(KeyError):
        work()
    time.sleep(0.05)
    lines = lines_of(capsys)
    assert len(lines) >= 4
    assert lines[0] == "train: 0 of 4 steps"
    assert lines[-1].startswith("train: 2 of 4 steps, ") and lines[-1].endswith(" s left")
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_a_process_that_shows_nothing_prints_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    for _ in progress.over(range(2), 2, "train", "step", shown=False):
        time.sleep(0.03)
    assert lines_of(capsys) == []


def test_bytes_are_shown_in_megabytes():
    with Progress(20_000_000, "download", BYTES, shown=False) as shown:
        shown.update(5_000_000)
        assert shown.line().startswith("download: 5 of 20 MB, ")
