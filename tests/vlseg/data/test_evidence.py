"""What label maps say against the way they are read: in the whole set, not in one picture."""

import logging

import numpy as np
import pytest
from PIL import Image

from tests.commands import Commands
from vlseg.data.decoding import counted
from vlseg.data.evidence import ENOUGH, MANY
from vlseg.errors import DatasetError

commands = Commands("vlseg.data")
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
NAMES = ("wall", "sky", "tree", "car")


def doubts(maps, names=NAMES, ignore_label=255, label_offset=0, ignore_zero=False):
    convert = counted("set", names, ignore_label, label_offset, ignore_zero)
    for stored in maps:
        convert(np.asarray(stored, np.int32)[None], "a.png")
    return " ".join(convert.evidence.doubts())


def test_black_and_white_get_a_hint():
    assert "if it is 'thing', store it as 1" in doubts([[0, 255], [0, 0]], ("rest", "thing"))
    assert "if it is 'thing', store it as 1" in doubts([[0, 255]], ("thing",), ignore_zero=True)
    # One picture shows that they are ids.
    assert not doubts([[0, 255], [0, 1]], ("rest", "thing"))
    assert not doubts([[0, 0]], ("rest", "thing"))
    with pytest.raises(DatasetError, match="store two classes as 0 and 1, not as 0 and 255"):
        doubts([[0, 255]], ("rest", "thing"), ignore_label=-1)


def test_a_wrong_ignore_zero():
    assert "leave out ignore_zero" in doubts([[0, 1], [2, 3]], ignore_zero=True)
    assert "leave out ignore_zero" in doubts([[0, 1, 255]], ignore_zero=True)
    assert not doubts([[0, 1], [2, 4]], ignore_zero=True)
    assert not doubts([[0, 1]], ignore_zero=True)  # too few classes seen to tell


def test_a_forgotten_ignore_zero():
    with pytest.raises(DatasetError, match=r"has label id 4, but the 4 names have ids 0 to 3.*set ignore_zero"):
        doubts([[0, 4]])
    with pytest.raises(DatasetError, match="if 0 does not count, set ignore_zero"):
        doubts([[0, 4]], label_offset=1)
    assert "set ignore_zero" in doubts([[0, 1 + number % 3] for number in range(MANY)])
    assert not doubts([[0, 1 + number % 3] for number in range(MANY - 1)])
    assert not doubts([[0, 1 + number % 3, 255] for number in range(MANY)])
    assert not doubts([[number % 2, 2, 3] for number in range(MANY)])
    assert not doubts([[0, 1] for number in range(MANY)], ("background", *NAMES[1:]))


def test_what_never_ends_is_told_once(caplog):
    convert = counted("set", ("rest", "thing"), 255, 0, False)
    with caplog.at_level(logging.WARNING):
        for _ in range(ENOUGH + 5):
            convert(np.array([[0, 255]], np.int32), "a.png")
    assert [record.message for record in caplog.records] == [
        "set: labels hold 0 and 255 alone, and 255 is ignored: if it is 'thing', store it as 1"
    ]
    assert not convert.evidence.doubts()


def test_check_reports_them(tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(2):
        pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.jpg")
        Image.fromarray(np.full((120, 160), 255 * number, np.uint8)).save(tmp_path / f"labels/{number}.png")
    (tmp_path / "names.txt").write_text("rest\nthing\n")
    assert commands.call("check", "--dataset=folder", f"--root={tmp_path}") == 0
    output = capsys.readouterr().out
    assert "note: 1 of 2 classes have no pixel in the whole data set: thing\n" in output
    assert "note: labels hold 0 and 255 alone" in output
    # Of pictures only the headers may be read, which costs the knowledge of damaged pixels.
    data = (tmp_path / "images/0.jpg").read_bytes()
    (tmp_path / "images/0.jpg").write_bytes(data[: len(data) * 3 // 4])
    assert commands.call("check", "--dataset=folder", f"--root={tmp_path}", "--headers_only") == 0
    assert commands.call("check", "--dataset=folder", f"--root={tmp_path}") == 2
    assert "0.jpg: is truncated or damaged" in capsys.readouterr().out
