"""Commands that go through pictures: going on after a stop, passing over what is damaged, names of every sort."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import files_in, picture
from vlseg import files
from vlseg.commands import journal
from vlseg.commands.pictures import Pictures
from vlseg.errors import ImageError

REPORT = "report.json"


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    found = [folder / f"{number}.png" for number in range(4)]
    for number, path in enumerate(found):
        Image.fromarray(picture(20, 24, number)).save(path)
    return found


def work(paths, out, settings=None, stop_after=None, skip=False) -> tuple[int | None, list[str]]:
    """A run that notes the mean of each picture; its exit code, None if it was stopped, and what it has looked at."""
    pictures, seen = Pictures(paths, skip), []
    with files.output_directory(out) as folder, pictures.start(folder, REPORT, settings or {"labels": ["a"]}):
        for pixels in pictures.pixels():
            if len(seen) == stop_after:
                return None, seen
            taken = pictures.take()
            seen.append(taken.name)
            files.atomic_write_text(folder / f"{taken.name}.txt", str(pixels.mean()))
            pictures.add(taken, {"mean": float(pixels.mean())})
        return pictures.finish({"images": pictures.entries()}), seen


def content(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in files_in(out)}


def test_a_stopped_run_goes_on_and_ends_like_an_unbroken_one(paths, tmp_path, capsys):
    assert work(paths, tmp_path / "whole") == (0, ["0", "1", "2", "3"])
    out = tmp_path / "out"
    assert work(paths, out, stop_after=2) == (None, ["0", "1"])
    with open(out / journal.FILE, "ab") as file:
        file.write(b'["half a li')
    assert work(paths, out, stop_after=1) == (None, ["2"])
    assert "going on: 2 of 4 were done" in capsys.readouterr().err
    assert work(paths, out) == (0, ["3"])
    assert content(out) == content(tmp_path / "whole")


def test_a_run_of_other_settings_or_pictures_does_not_go_on(paths, tmp_path, capsys):
    out = tmp_path / "out"
    work(paths, out, stop_after=2)
    assert work(paths, out, {"labels": ["b"]}, stop_after=3) == (None, ["0", "1", "2"])
    assert "had other settings (labels); this one starts anew" in capsys.readouterr().err
    Image.fromarray(picture(20, 28)).save(paths[1])
    assert work(paths, out, {"labels": ["b"]}) == (0, ["1", "3"])
    assert json.loads((out / REPORT).read_text())["images"][1]["mean"] == picture(20, 28).mean()


@pytest.mark.parametrize("damage", [b"no picture at all", None])
def test_a_damaged_picture_is_refused_or_passed_over(paths, tmp_path, capsys, damage):
    """Its header, or the pixels after that."""
    paths[1].write_bytes(damage or paths[1].read_bytes()[:200])
    with pytest.raises(ImageError, match=r"1\.png"):
        work(paths, tmp_path / "out")
    assert work(paths, tmp_path / "out", skip=True)[0] == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    assert len(errors) == 1 and "1.png" in errors[0]
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert [entry["name"] for entry in report["images"]] == ["0", "2", "3"]
    assert [entry["image"] for entry in report["damaged"]] == [str(paths[1])]


def test_names_of_every_sort_are_results_and_in_the_report(paths, tmp_path):
    names = [b"a\xff\xe9.png", b"-x.png", b"two\nlines.png", b"comma, and blank.png"]
    moved = [
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/" + name))
        for path, name in zip(paths, names, strict=True)
    ]
    assert work(moved, tmp_path / "out")[0] == 0
    written = set(os.listdir(os.fsencode(tmp_path / "out")))
    assert written == {name.replace(b".png", b".txt") for name in names} | {REPORT.encode()}
    entries = json.loads((tmp_path / "out" / REPORT).read_bytes().decode("utf-8"))["images"]
    assert [entry["name"] for entry in entries] == ["a\\xff\\xe9", "-x", "two\nlines", "comma, and blank"]


def test_evaluate_passes_over_what_is_damaged(commands, model, folder, tmp_path, capsys):
    copy = tmp_path / "data"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(folder)).write_bytes(path.read_bytes())
    (copy / "images/1.jpg").write_bytes((folder / "images/1.jpg").read_bytes()[:1500])
    arguments = (f"--checkpoint={model}", f"--data={copy}", f"--out={tmp_path / 'out'}")
    assert "1.jpg" in commands.refusal(capsys, "evaluate", *arguments)
    assert commands.call("evaluate", *arguments, "--skip_damaged") == 3
    assert "skipped: " in capsys.readouterr().err
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["images"] == len(list(copy.glob("images/*"))) - 1 and len(report["damaged"]) == 1
    for name in ("images/1.jpg", "labels/1.png"):
        (copy / name).unlink()
    assert commands.call("evaluate", f"--checkpoint={model}", f"--data={copy}", f"--out={tmp_path / 'b'}") == 0
    without = json.loads((tmp_path / "b/metrics.json").read_text())
    assert {**report, "damaged": None} == {**without, "damaged": None}
    np.testing.assert_equal(report["mIoU"], without["mIoU"])
