"""Labels by a model: what it may label, and what becomes of labels that are there."""

import types

import numpy as np
import pytest
from PIL import Image

from ifseg_jax.pseudo_label import IGNORED, PseudoLabelled, Unlabelled
from tests.commands import Commands
from vlseg.data.folder import Example
from vlseg.data.sources import open_dataset
from vlseg.errors import ConfigError

commands = Commands("ifseg_jax")
NAMES = ("cat", "grass", "dog", "sky")
SIZE = (6, 8)

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")


class Model:
    """Stands for IFSeg: the probabilities are drawn from the first value of the image."""

    def probabilities(self, image):
        drawn = np.random.default_rng(int(image[0, 0, 0])).random((*image.shape[:2], len(NAMES)), np.float32) ** 4
        return drawn / drawn.sum(axis=-1, keepdims=True)

    def segment(self, image, names):
        assert tuple(names) == NAMES
        return types.SimpleNamespace(probabilities=self.probabilities(image))


class Seen:
    """Two examples with labels of two of the categories, in another order."""

    names = ("sky", "grass")
    ignore_label = 255

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = rng.choice(np.array([0, 1, 255], np.int32), SIZE)
        return Example(np.full((*SIZE, 3), 50 + index, np.uint8), label, f"a/{index}")


def test_labels_stay_and_other_pixels_get_other_categories():
    labelled = PseudoLabelled(Model(), Seen(), NAMES)
    assert labelled.names == NAMES and len(labelled) == 2
    for index in range(2):
        example, given = labelled[index], Seen()[index]
        assert example.name == given.name and example.label.dtype == np.int32
        np.testing.assert_array_equal(example.image, given.image)
        probabilities = Model().probabilities(given.image)
        guessed = np.where(probabilities[..., 0] >= probabilities[..., 2], 0, 2)
        expected = np.select([given.label == 0, given.label == 1], [3, 1], guessed)
        np.testing.assert_array_equal(example.label, expected)


def test_pixels_of_which_the_model_is_not_sure(tmp_path):
    Image.new("RGB", SIZE[::-1], (9, 9, 9)).resize((8, 8)).save(tmp_path / "x.png")
    pictures = Unlabelled([tmp_path / "x.png"])
    sure = PseudoLabelled(Model(), pictures, NAMES)[0]
    careful = PseudoLabelled(Model(), pictures, NAMES, min_probability=0.7)[0]
    probabilities = Model().probabilities(sure.image)
    np.testing.assert_array_equal(sure.label, probabilities.argmax(axis=-1))
    kept = probabilities.max(axis=-1) >= 0.7
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(careful.label, np.where(kept, sure.label, IGNORED))


def test_classes_that_do_not_fit():
    with pytest.raises(ConfigError, match="1 of 2 classes of the data set are none of the categories: sky; name all"):
        PseudoLabelled(Model(), Seen(), NAMES[:3])
    with pytest.raises(ConfigError, match="nothing to label"):
        PseudoLabelled(Model(), Seen(), Seen.names)


def test_command(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/{number}.jpg")
    words, out = "grass,house,tree", tmp_path / "pseudo"
    given = [f"--images={tmp_path / 'photos'}", f"--labels={words}", f"--out={out}"]
    assert commands.call("pseudo_label", *given) == 0
    assert f"wrote 2 labelled images to {out}" in capsys.readouterr().out
    dataset = open_dataset(str(out))
    assert dataset.names == ("grass", "house", "tree") and len(dataset) == 2
    for number, example in enumerate(dataset):
        assert example.name == str(number) and example.label.shape == (40, 60)
        assert set(np.unique(example.label)) <= {0, 1, 2}
    assert (tmp_path / "photos/1.jpg").read_bytes() in dataset.records[1]
    assert "one of the two" in commands.refusal(capsys, "pseudo_label", f"--out={tmp_path / 'other'}")
    assert "one of the two" in commands.refusal(
        capsys, "pseudo_label", *given[:2], "--data=tiny_world", f"--out={tmp_path / 'other'}"
    )
    assert "exists" in commands.refusal(capsys, "pseudo_label", *given)
