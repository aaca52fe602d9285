"""The reports that `make pods` asks for, and the document made of them."""

import json
import math
import subprocess
import types
from pathlib import Path

import pytest

from benchmarks import pods
from vlseg.errors import VlsegError

FOLDER = Path(__file__).parent.parent.parent / "docs/pods"
FITS = {
    "images": 16,
    "peak_bytes": 2_840_000_000,
    "memory_bytes": 16_000_000_000,
    "flops": 2.449e12,
    "model_share": 0.734,
    "bytes": 73_400_000_000,
    "exchanges": [{"kind": "all-reduce", "bytes": 200_000_000}, {"kind": "all-gather", "bytes": 25_400_000}],
    "roofline_seconds": 0.0891,
    "images_per_second": 5753.4,
}
ROW = "| IFSeg, OFA-Base, 171 categories | v5e-8 | 16 | 2.8 of 16 | 2.45 | 73% | 73 | 225 | 89 | 5,753 |"
"""`FITS` as a line of a table, with exchanges of all kinds added up."""


def test_the_document_is_made_of_the_reports_that_are_there():
    assert {path.stem for path in FOLDER.glob("*.json")} == {report.name for report in pods.reports()}
    assert (FOLDER / "README.md").read_text() == pods.document(FOLDER)


def test_lines_of_the_tables(tmp_path):
    does_not_fit = {"program": "train", "images": 8, "reason": "20 GB of 16"}
    programs = [FITS | {"program": "train"}, FITS | {"program": "inference", "images": 8}]
    (tmp_path / "coco_v5e-8.json").write_text(json.dumps({"programs": programs}))
    (tmp_path / "lseg_ade20k_v5e-8.json").write_text(json.dumps({"programs": [does_not_fit]}))
    _, training, inference = pods.document(tmp_path).split("\n## ")
    # Two lines of heading; reports that are missing have none.
    assert training.splitlines()[4:] == [
        ROW,
        "| LSeg, ViT-L/16, 150 labels | v5e-8 | 8 | does not fit: 20 GB of 16 |",
    ]
    assert inference.splitlines()[4:] == [ROW.replace("| 16 | 2.8", "| 8 | 2.8")]


def test_every_chip_has_as_many_images():
    for report in pods.reports():
        options = dict(argument.removeprefix("--").split("=", 1) for argument in report.arguments)
        chips = math.prod(map(int, options["topology"].split(":")[1].split("x"))) * int(options.get("slices", 1))
        images = [int(value) for name, value in options.items() if name.endswith(".batch_size")]
        assert images in ([2 * chips], []), report.name
        # The two lines that say so have the official batch.
        assert bool(images) != (report.name in ("ifseg_one_chip", "ifseg_without_remat"))


@pytest.mark.parametrize("code", [0, 1, 2])
def test_reports_that_are_there_are_not_made_anew(tmp_path, monkeypatch, code):
    """0 is a program that fits, 1 one that does not, and anything else ends the command."""
    commands = []

    def run(command, check):
        commands.append(command)
        out = Path(command[-2].removeprefix("--out="))
        out.write_text(json.dumps({"programs": [FITS | {"program": "train"}]}))
        return subprocess.CompletedProcess(command, code)

    (tmp_path / "coco_v5e-16.json").write_text('{"programs": []}')
    options = types.SimpleNamespace(out=str(tmp_path), only=["coco_v5e-8", "coco_v5e-16"], libtpu="there")
    monkeypatch.setattr(pods.flags, "FLAGS", options)
    monkeypatch.setattr(pods.subprocess, "run", run)
    if code == 2:
        with pytest.raises(VlsegError, match="coco_v5e-8 could not be compiled"):
            pods.main([])
    else:
        pods.main([])
        assert ROW in (tmp_path / "README.md").read_text().splitlines()
    (command,) = commands
    assert command[2] == "launch.compile" and "--topology=v5e:2x4" in command and command[-1] == "--libtpu=there"
