"""The commands that show the catalog and look through a data set."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import Commands
from vlseg.data.catalog import ENTRIES

commands = Commands("vlseg.data")

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
SIZE = (40, 60)


@pytest.fixture
def camvid(tmp_path):
    """Three pictures; on the first, sky over a road, on the others a road and what does not count."""
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        label = np.full(SIZE, 3, np.uint8)
        label[:10] = 0 if number == 0 else 11
        image = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"val/{number}.png")
        Image.fromarray(label).save(tmp_path / f"valannot/{number}.png")
    return tmp_path


def test_list(capsys):
    assert commands.call("list") == 0
    output = capsys.readouterr().out
    for name, entry in ENTRIES.items():
        assert f"{name}: {entry.title}, {len(entry.classes.names)} classes" in output and entry.address in output
    assert "of annotation tools: labelme:FOLDER or labelme:FOLDER:PICTURES" in output


def test_a_sound_data_set(camvid, tmp_path, capsys):
    out = tmp_path / "out"
    assert commands.call("check", "--dataset=camvid", f"--root={camvid}", "--split=val", f"--out={out}") == 0
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    assert ["sky", "600", "1"] in lines and ["road", "5,400", "3"] in lines and ["car", "0", "0"] in lines
    assert "3 of 3 pairs can be used; val has 101 officially" in output
    report = json.loads((out / "check.json").read_text())
    assert report["read"] == 3 and report["problems"] == [] and report["ignored pixels"] == 1200
    assert report["classes"]["road"] == {"pixels": 5400, "pictures": 3}
    sheet = np.asarray(Image.open(out / "contact_sheet.png"))
    # Drawn in the official colours.
    for colour, pixels in (((128, 64, 128), 5400), ((128, 128, 128), 600)):
        assert (sheet == colour).all(axis=-1).sum() >= pixels


def test_what_is_broken_is_named(camvid, capsys):
    (camvid / "val/1.png").write_bytes(b"nothing")
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(camvid / "valannot/2.png")
    assert commands.call("check", "--dataset=camvid", f"--root={camvid}", "--split=val") == 2
    output, errors = capsys.readouterr()
    assert "1.png: is not an image" in output and "is 8 x 8 pixels, but its picture 60 x 40" in output
    assert errors == "error: 2 of 3 pairs cannot be used, see above: mend or remove them\n"


def test_a_folder_of_ones_own(camvid, tmp_path, capsys):
    (camvid / "val").rename(tmp_path / "images")
    (camvid / "valannot").rename(tmp_path / "labels")
    (tmp_path / "names.txt").write_text("\n".join(f"class {number}" for number in range(12)))
    assert commands.call("check", "--dataset=folder", f"--root={tmp_path}") == 0
    output = capsys.readouterr().out
    assert output.endswith("3 of 3 pairs can be used\n") and "class 11" in output
