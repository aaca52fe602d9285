"""Labels by a model: what it may label, and what becomes of labels that are there."""

import shutil

import numpy as np
import pytest

from tests.commands import NAMES
from tests.toy.model import Seen
from vlseg.data.sources import open_dataset
from vlseg.errors import StorageError
from vlseg.evaluation.crf import CRF, refine


def test_pictures(commands, model, loaded, folder, tmp_path):
    """Pixels of which the model is not sure get no label."""
    names, out = NAMES[:3], tmp_path / "pseudo"
    given = (f"--checkpoint={model}", f"--images={folder / 'images'}", f"--labels={','.join(names)}", f"--out={out}")
    seen = ("--crf_iterations=2", "--brightness=0.9")
    assert (
        commands.output("pseudo_label", *given, *seen, "--min_probability=0.9") == f"wrote 4 labelled images to {out}\n"
    )
    dataset = open_dataset(str(out))
    assert dataset.names == names and len(dataset) == 4
    for number, example in enumerate(dataset):
        assert example.name == str(number)
        dimmed = loaded.segment(example.image, names, settings=Seen(brightness=0.9)).probabilities
        probabilities = refine(dimmed, example.image, CRF(iterations=2))
        expected = np.where(probabilities.max(axis=-1) >= 0.9, probabilities.argmax(axis=-1), dataset.ignore_label)
        assert {0, 1, 2, dataset.ignore_label} == set(np.unique(expected))
        np.testing.assert_array_equal(example.label, expected)
    assert (folder / "images/1.jpg").read_bytes() in dataset.records[1]


def test_labels_stay_and_other_pixels_get_other_labels(commands, model, loaded, folder, tmp_path):
    data, out, names = shutil.copytree(folder, tmp_path / "data"), tmp_path / "pseudo", ("fish", *NAMES, "sky")
    (data / "names.txt").write_text("\n".join(NAMES[::-1]))
    given = (f"--checkpoint={model}", f"--data={data}", f"--labels={','.join(names)}", f"--out={out}")
    commands.output("pseudo_label", *given)
    for example, before in zip(open_dataset(str(out)), open_dataset(str(data)), strict=True):
        guessed = loaded.segment(before.image, names).probabilities[..., [0, 5]].argmax(axis=-1) * 5
        expected = np.where(before.label == 255, guessed, 4 - before.label)
        np.testing.assert_array_equal(example.label, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "one of the two"),
        (("--images={}/images", "--data=tiny_world"), "one of the two"),
        (("--images={}/images", "--out={}"), "exists"),
        (("--data={}", "--labels=grass,house,car"), "1 of 4 classes of the data set are none of the labels: tree"),
        (("--data={}",), "nothing to label"),
    ],
)
def test_what_cannot_be_labelled(commands, model, folder, tmp_path, capsys, given, message):
    flags = (f"--checkpoint={model}", f"--out={tmp_path / 'out'}", *(flag.format(folder) for flag in given))
    assert message in commands.refusal(capsys, "pseudo_label", *flags)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_goes_on_and_ends_like_an_unbroken_one(commands, model, folder, tmp_path, capsys, monkeypatch):
    given = (f"--checkpoint={model}", f"--data={folder}", f"--labels={','.join(NAMES)},sky")
    commands.output("pseudo_label", *given, f"--out={tmp_path / 'whole'}")
    save, saved = np.savez_compressed, []

    def save_one(*arguments, **arrays):
        if saved:
            raise StorageError("stopped")
        saved.append(save(*arguments, **arrays))

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez_compressed", save_one)
        assert commands.call("pseudo_label", *given, f"--out={tmp_path / 'out'}") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"whole", ".out.unfinished"}
    capsys.readouterr()
    commands.output("pseudo_label", *given, f"--out={tmp_path / 'out'}")
    assert "going on: 1 of 4 were labelled" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}
    for one, other in zip(open_dataset(str(tmp_path / "out")), open_dataset(str(tmp_path / "whole")), strict=True):
        np.testing.assert_array_equal(one.label, other.label)
        np.testing.assert_array_equal(one.image, other.image)
