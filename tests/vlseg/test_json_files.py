"""JSON of any content is read or refused in one line, and so is a path that is no file."""

import os
from pathlib import Path

import pytest

from vlseg import files, json_files
from vlseg.errors import LONGEST, ConfigError, VlsegError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b'{"a":' * 100_000, "nested deeper than 64"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "HTML page"),
    ],
)
def test_content_that_is_no_json_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        json_files.parse(content, "x.json", ConfigError)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_depth_counts_brackets_outside_of_strings_only(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    with pytest.raises(ConfigError, match="nested deeper"):
        json_files.parse('["\\\\", "]]' + "]" * 65 + '", ' + "[" * 64 + "]" * 65, "x", ConfigError)
    assert json_files.parse("[" * 64 + '"\\""' + "]" * 64, "x", ConfigError)
    assert json_files.parse('["' + "[" * 1000 + '\\"[", {}]', "x", ConfigError) == ["[" * 1000 + '"[', {}]


def test_a_path_that_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name, message in {"pipe": "pipe", "link": "a link to nowhere", "": "folder", "none": "no such file"}.items():
        with pytest.raises(ConfigError, match=message):
            files.read_regular(tmp_path / name, ConfigError)


def test_a_message_is_one_short_line_whatever_it_quotes() -> None:
    message = str(VlsegError("a\nb\x1b[2J\udcff " + "x" * 5_000_000 + " do this"))
    assert message.startswith("a b\\x1b[2J\\udcff x")
    assert message.endswith("do this")
    assert len(message) <= LONGEST
    assert message.isprintable()
