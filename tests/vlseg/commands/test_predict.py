"""Predictions: what is written for pictures of every sort, and what cannot be segmented."""

import dataclasses
import json
import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.commands import NAMES, SIZE, files_in, picture, room_for
from tests.toy.model import Seen
from vlseg import visualize
from vlseg.commands.journal import FILE as JOURNAL
from vlseg.commands.pictures import output_names
from vlseg.commands.predict import write
from vlseg.data.images import read_label
from vlseg.evaluation.crf import CRF, refine
from vlseg.labels import NONE
from vlseg.segmentation import Rejection

PATHS = st.builds(
    lambda folder, stem, suffix: Path(folder, f"{stem}{suffix}"),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["x", "x_png", "x_png_1", "x_png_2", "x_1", "x_jpg", "x.y", "y"]),
    st.sampled_from([".png", ".jpg"]),
)


@given(st.lists(PATHS, max_size=12))
def test_no_two_images_share_a_name(paths):
    names = output_names(paths)
    assert len(names) == len(paths) == len(set(names))
    assert not any("." in name for path, name in zip(paths, names, strict=True) if "." not in path.stem)


def test_names():
    assert output_names([Path("a/x.png"), Path("b/y.jpg")]) == ["x", "y"]
    assert output_names([Path("x.png"), Path("x.jpg"), Path("y.z.png")]) == ["x_png", "x_jpg", "y.z"]
    assert output_names([Path("a/x.png"), Path("b/x.png"), Path("c/x.png")]) == ["x_png", "x_png_1", "x_png_2"]
    assert output_names([Path("a/x.png"), Path("X.png")]) == ["x_png", "X_png_1"]
    assert output_names([Path("e\u0301.png"), Path("\u00e9.png")])[1] == "\u00e9_png_1"
    long = output_names([Path("x" * 251 + ".bmp"), Path("x" * 250 + "y.bmp")])
    assert len(set(long)) == 2 and max(map(len, long)) < 210
    assert output_names([]) == []


def report(out):
    return json.loads((out / "predictions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (4, 4)])
def test_the_smallest_pictures(commands, model, tmp_path, size):
    """Width and height that could be numbers of channels."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    commands.output("predict", f"--checkpoint={model}", f"--images={tmp_path / 'a.png'}", f"--out={tmp_path / 'out'}")
    assert read_label(tmp_path / "out/labels/a.png").shape == size[::-1]


def test_pictures_of_several_sizes(commands, model, loaded, folder, tmp_path):
    """Label maps have the original size. Overlays of pictures as small as these are enlarged."""
    for number, size in enumerate(((60, 40), (120, 40), (96, 80))):
        Image.open(folder / "images/0.jpg").resize(size).save(tmp_path / f"{number}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.open(folder / "images/1.jpg").save(tmp_path / "rotated.jpg", exif=exif)
    sizes = {"0": (40, 60), "1": (40, 120), "2": (80, 96), "rotated": SIZE[::-1]}
    out = tmp_path / "new" / "out"
    flags = (f"--checkpoint={model}", f"--images={tmp_path}", f"--out={out}", "--batch_size=3")
    assert commands.output("predict", *flags) == f"wrote 4 segmentations to {out}\n"
    written = {f"{kind}/{stem}.png" for kind in ("labels", "overlays") for stem in sizes}
    assert files_in(out) == written | {"predictions.json"}
    assert report(out)["labels"] == list(NAMES)
    for entry, (stem, size) in zip(report(out)["images"], sizes.items(), strict=True):
        assert Path(entry["image"]).stem == entry["name"] == stem and (entry["height"], entry["width"]) == size
        labels = read_label(out / f"labels/{stem}.png")
        found = loaded.segment(entry["image"])
        np.testing.assert_array_equal(labels, found.label_map)
        shares = {name: np.mean(labels == index) for index, name in enumerate(NAMES) if (labels == index).any()}
        assert entry["shares"] == pytest.approx(shares, abs=1e-5)
        drawn = np.asarray(Image.open(out / f"overlays/{stem}.png"))
        bare = visualize.overlay(found.image, found.label_map, NAMES, legend=False)
        factor = -(-320 // max(size))
        shown = np.kron(np.asarray(bare), np.ones((factor, factor, 1), np.uint8))
        np.testing.assert_array_equal(drawn[: shown.shape[0], : shown.shape[1]], shown)
        assert drawn.shape != shown.shape  # but for a legend


def test_many_labels_in_any_script(commands, model, loaded, photo, tmp_path):
    """More of them than a byte can hold, given as a file and with commas."""
    names = ["небо", "草", "ziegel \N{BRICK}", "ทราย", *(f"label {number}" for number in range(300))]
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    for run, labels in {"a": tmp_path / "names.txt", "b": ",".join(names)}.items():
        flags = (f"--images={photo}", f"--labels={labels}", f"--out={tmp_path / run}")
        commands.output("predict", f"--checkpoint={model}", *flags)
    assert report(tmp_path / "a") == report(tmp_path / "b") and report(tmp_path / "a")["labels"] == names
    assert "草" in (tmp_path / "a" / "predictions.json").read_text(encoding="utf-8")
    found = read_label(tmp_path / "a/labels/0.png")
    assert found.max() > 255
    np.testing.assert_array_equal(found, loaded.segment(photo, names).label_map)


def test_more_labels_than_a_picture_can_hold(tmp_path):
    for folder in ("overlays", "labels"):
        (tmp_path / folder).mkdir()
    found = types.SimpleNamespace(
        label_map=np.array([[0, 70_000]]), labels=range(70_001), overlay=Image.new("RGB", (2, 1)).copy, shares=dict
    )
    found.top_labels = found.label_map[..., None]
    write(tmp_path, "x.y", found)
    np.testing.assert_array_equal(np.load(tmp_path / "labels" / "x.y.npy"), found.label_map)


def test_several_labels_a_pixel_and_none_of_them(commands, model, loaded, photo, tmp_path):
    common, out = (f"--checkpoint={model}", f"--images={photo}"), tmp_path / "out"
    least = float(np.median(loaded.segment(photo).top_similarities))
    commands.output("predict", *common, f"--out={out}", f"--min_similarity={least}", "--top_k=3")
    assert report(out)["labels"] == [*NAMES, NONE]
    assert report(out)["images"][0]["shares"][NONE] == pytest.approx(0.5, abs=0.02)
    labels = read_label(out / "labels/0.png")
    assert set(np.unique(labels)) <= set(range(5))
    in_colours = np.asarray(Image.open(out / "labels/0.png").convert("RGB"))
    assert (in_colours[labels == 4] == visualize.NONE_COLOUR).all()
    top = np.load(out / "top/0.npz")
    assert top["labels"].shape == (*labels.shape, 3) and top["labels"].dtype == np.int32
    assert top["similarities"].dtype == np.float16 and (np.diff(top["similarities"].astype(float)) <= 0).all()
    kept = labels != len(NAMES)
    np.testing.assert_array_equal(labels[kept], top["labels"][..., 0][kept])
    commands.output("predict", *common, f"--out={tmp_path / 'b'}", "--min_margin=0.9")
    found = loaded.segment(photo, rejection=Rejection(min_margin=0.9)).label_map
    assert (found == len(NAMES)).any()
    np.testing.assert_array_equal(read_label(tmp_path / "b/labels/0.png"), found)
    assert not (tmp_path / "b" / "top").exists()


def test_a_crf(commands, model, loaded, tmp_path):
    """Label maps, rejection and several labels a pixel are of refined probabilities."""
    photo, noise = tmp_path / "0.png", np.random.default_rng(0).normal(0, 40, (*SIZE, 3))
    Image.fromarray(np.clip(picture(*SIZE) + noise, 0, 255).astype(np.uint8)).save(photo)
    common = (f"--checkpoint={model}", f"--images={photo}", f"--out={tmp_path}", "--top_k=2")
    given = ("--brightness=0.4", "--crf", "--crf_gaussian_weight=0.1", "--crf_bilateral_weight=0.2")
    commands.output("predict", *common, *given, "--min_similarity=0.7")
    found = loaded.segment(photo, settings=Seen(brightness=0.4))
    settings = CRF(iterations=10, gaussian_weight=0.1, bilateral_weight=0.2)
    expected = refine(found.probabilities, found.image, settings)
    assert report(tmp_path)["scores"] == "probabilities"
    assert report(tmp_path)["inference"] == {"brightness": 0.4, "crf": dataclasses.asdict(settings)}
    best = np.argsort(-expected, axis=-1, kind="stable")
    top, labels = np.load(tmp_path / "top/0.npz"), read_label(tmp_path / "labels/0.png")
    np.testing.assert_array_equal(top["labels"], best[..., :2])
    np.testing.assert_allclose(top["similarities"], np.take_along_axis(expected, best[..., :2], -1), atol=1e-3)
    np.testing.assert_array_equal(labels, np.where(expected.max(axis=-1) < 0.7, len(NAMES), best[..., 0]))
    assert (labels == len(NAMES)).any() and (best[..., 0] != found.label_map).any()


@pytest.mark.parametrize(
    ("name", "message"),
    [("words", "is not an image"), ("absent", "no such file"), ("cut", "is truncated or damaged")],
)
def test_images_that_cannot_be_segmented(commands, model, photo, tmp_path, capsys, name, message):
    """One that is damaged inside is found out when its turn comes: what was written before is whole."""
    (tmp_path / "words.jpg").write_text("a picture, but in words")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:2000])

    def line(images, out):
        flags = (f"--checkpoint={model}", f"--images={images}", f"--out={tmp_path / out}")
        return commands.refusal(capsys, "predict", *flags)

    assert f"{name}.jpg: {message}" in line(f"{photo},{tmp_path / name}.jpg", "out")
    assert files_in(tmp_path / "out") == ({"labels/0.png", "overlays/0.png", JOURNAL} if name == "cut" else set())
    line(tmp_path / f"{name}.jpg", "new/out")
    assert not (tmp_path / "new").exists()


def test_a_full_disk(commands, model, photo, tmp_path, capsys):
    with room_for(200):
        flags = (f"--checkpoint={model}", f"--images={photo}", f"--out={tmp_path / 'out'}")
        line = commands.refusal(capsys, "predict", *flags)
    assert "cannot write" in line and "0.png" in line
    assert files_in(tmp_path / "out") == set()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--labels=tree,,car", "blank name"),
        ("--labels=tree,tree", "give each name once"),
        ("--labels=tree,Tree", "give each name once"),
        ("--labels=absent.txt", "no such file of category names"),
        ("--colour=3", "Unknown command line flag 'colour'"),
        ("--batch_size=0", "batch_size"),
        ("--top_k=0", "top_k"),
        ("--top_k=5", "from 1 to the number of labels, 4"),
        ("--min_margin=-1", "min_margin"),
        ("--brightness=dark", "flag --brightness=dark"),
        ("--crf_iterations=-1", "--crf_iterations is -1; it must be in [0, 10000], an integer"),
        ("--checkpoint=absent", "no such checkpoint"),
        ("--checkpoint=BARE", "is not a model directory: it has no config.json"),
        ("--checkpoint=FOREIGN", "no package is installed that reads models of format 'absent'"),
    ],
)
def test_flags_that_cannot_be(commands, model, photo, tmp_path, capsys, given, message):
    (tmp_path / "config.json").write_text('{"format": "absent"}')
    common = (f"--checkpoint={model}", f"--images={photo}", f"--out={tmp_path / 'out'}")
    given = given.replace("BARE", str(photo.parent)).replace("FOREIGN", str(tmp_path))
    line = commands.refusal(capsys, "predict", *common, given)
    assert message in line, line
    assert files_in(tmp_path) == {"config.json"} and not (tmp_path / "out").exists()


def test_a_checkpoint_is_needed_to_tell_the_package(commands, photo, tmp_path, capsys):
    line = commands.refusal(capsys, "predict", f"--images={photo}", f"--out={tmp_path / 'out'}")
    assert "--checkpoint=DIR is required" in line


def test_names_of_any_kind_and_what_is_left_out(commands, model, photo, tmp_path, capsys):
    root, out = tmp_path / os.fsdecode(b"pho\xf6s"), tmp_path / "out"
    root.mkdir()
    for name in ("a,b.JPG", "-c.jpg", os.fsdecode(b"\xff.jpg"), "d\ne.jpg"):
        shutil.copy(photo, root / name)
    (root / "link.jpg").symlink_to(photo)
    (root / "x.heif2").write_bytes(b"x")
    common = (f"--checkpoint={model}", "--labels=cat,dog", f"--out={out}")
    printed = commands.output("predict", *common, f"--images={root}")
    assert printed.count("5 of 6 read: 1 of an unknown type: x.heif2") == 1 and r"pho\xf6s" in printed
    report = json.loads((out / "predictions.json").read_bytes().decode("utf-8"))
    assert len(report["images"]) == 5 == len(list((out / "labels").glob("*.png")))
    assert {entry["image"].rpartition("/")[2] for entry in report["images"]} == {
        *("a,b.JPG", "-c.jpg", r"\xff.jpg", "d\ne.jpg", "link.jpg")
    }
    assert "strict" in commands.refusal(capsys, "predict", *common, f"--images={root}", "--strict")
    (root / "link.jpg").unlink()
    (root / "link.jpg").symlink_to("gone")
    line = commands.refusal(capsys, "predict", *common, f"--images={root}/*.jpg")
    assert "link.jpg: is a link to gone, which is not there" in line
    assert "wrote 2 " in commands.output("predict", *common, f"--images={root}/a,b.JPG,{root}/-c.jpg")
