"""The few-shot benchmarks on small samples in HSNet's layout."""

import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from tests import samples
from tests.samples import SIZE
from tests.vlseg import torch_files_cases as cases
from vlseg.data.episodes import TEST_EPISODES, open_benchmark
from vlseg.errors import ConfigError, DatasetError


@pytest.fixture
def pascal(tmp_path):
    return tmp_path, samples.pascal5i(tmp_path)


def test_pascal(pascal):
    root, stored = pascal
    dataset = open_benchmark("pascal5i", root, 1)
    assert dataset.class_ids == (5, 6, 7, 8, 9) and len(dataset.names) == 20
    assert [dataset.names[c] for c in (5, 9)] == ["bus", "cow"]
    assert len(dataset) == TEST_EPISODES
    for index in (0, 1, 2, 999):
        stem, class_id = (("2007_001000", 6), ("2007_001001", 10))[index % 2]
        image, mask, asked = dataset[index]
        label = stored[stem]
        assert asked == class_id - 1 and image.shape == (*SIZE, 3)
        np.testing.assert_array_equal(mask, np.where(label == 255, 255, label == class_id))
    train = open_benchmark("pascal5i", root, 1, "train")
    assert train.class_ids == (*range(5), *range(10, 20))
    assert [query.class_id for query in train.queries] == [0, 4, 10, 14, 15, 19]


@pytest.fixture
def coco(tmp_path):
    return tmp_path, samples.coco20i(tmp_path, fold=2)


def test_coco(coco):
    root, lists = coco
    dataset = open_benchmark("coco20i", root, 2)
    asked = list(range(2, 80, 4))
    assert dataset.class_ids == tuple(asked) and dataset.names[2] == "car" and len(dataset) == TEST_EPISODES
    # What the authors' code draws after np.random.seed(0).
    np.random.seed(0)  # noqa: NPY002
    for query in dataset.queries[:50]:
        class_id = np.random.choice(asked, 1, replace=False)[0]  # noqa: NPY002
        picture = np.random.choice(lists[class_id], 1, replace=False)[0]  # noqa: NPY002
        assert (query.class_id, query.image) == (class_id, root / "COCO2014" / picture)
        assert query.label == root / "COCO2014/annotations" / picture.replace(".jpg", ".png")
    _, mask, class_id = dataset[0]
    stored = np.asarray(Image.open(dataset.queries[0].label))
    np.testing.assert_array_equal(mask, stored == class_id + 1)
    train = open_benchmark("coco20i", root, 2, "train")
    assert len(train) == 120 and set(train.class_ids).isdisjoint(asked)
    # A class is drawn first, and every picture counts once for the length of an epoch.
    assert train.balanced and train.epoch == 120
    parts = train.by_class()
    assert [part.queries[0].class_id for part in parts] == list(train.class_ids)
    assert all(len(part) == 2 and part[0].class_id == part.queries[1].class_id for part in parts)


def test_fss(tmp_path, caplog):
    names = ("bus", "abacus")
    for name in names:
        for number in (1, 2):
            samples.labelled(
                tmp_path, f"FSS-1000/{name}/{number}.jpg", f"FSS-1000/{name}/{number}.png", [3, 127, 128, 250], number
            )
    with caplog.at_level(logging.WARNING):
        dataset = open_benchmark("fss1000", tmp_path, 0)
    found = {dataset.names[query.class_id] for query in dataset.queries}
    assert "bus" in found and len(dataset) == 2 * len(found)
    assert {dataset.names[class_id] for class_id in dataset.class_ids} == found
    assert f"only {len(found)} of the 240 classes of the test split are there" in caplog.text
    stored = np.asarray(Image.open(dataset.queries[0].label))
    np.testing.assert_array_equal(dataset[0].mask, stored >= 128)


class Harmful:
    def __reduce__(self):
        return print, ("code that a split file brought along",)


def test_split_files_that_cannot_be_used(coco, pascal, capsys):
    root, lists = coco
    path = root / "splits/coco/val/fold2.pkl"

    def refused(match):
        with pytest.raises(DatasetError, match=match) as caught:
            open_benchmark("coco20i", root, 2)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    path.write_bytes(pickle.dumps(Harmful()))
    refused("it asks for builtins.print")
    assert "brought along" not in capsys.readouterr().out
    path.write_bytes(b"nothing")
    refused("is not a list of pictures by class")
    path.write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")  # a memo number that would take gigabytes
    refused("for each of the 20 classes")
    path.write_bytes(b"\x80\x02}" + cases.SHARED + b"Ns.")
    refused("it is damaged or no pickle: it holds a dictionary key that is nested")
    path.write_bytes(b"\x80\x02" + cases.tensor() + b".")
    refused(r"it asks for torch\._utils\._rebuild_tensor_v2")
    path.write_bytes(pickle.dumps({**lists, 6: []}))
    refused("for each of the 20 classes")
    path.write_bytes(pickle.dumps([1]))
    refused("for each of the 20 classes")
    path.unlink()
    refused(r"copy the folder data/splits of https://github\.com/juhongm999/hsnet")
    root, _ = pascal
    path = root / "splits/pascal/val/fold0.txt"
    path.write_text("2007_000000\n")
    with pytest.raises(DatasetError, match="the line '2007_000000' is not like"):
        open_benchmark("pascal5i", root, 0)
    path.write_text("")
    with pytest.raises(DatasetError, match="lists nothing"):
        open_benchmark("pascal5i", root, 0)


def test_files_that_are_missing(pascal):
    root, _ = pascal
    (root / "VOC2012/JPEGImages/2007_000000.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 4 files are missing: VOC2012/JPEGImages/2007_000000\.jpg"):
        open_benchmark("pascal5i", root, 0)


@pytest.mark.parametrize(
    ("name", "fold", "split", "match"),
    [
        ("pascal", 0, "test", "there are pascal5i, coco20i, fss1000"),
        ("pascal5i", 4, "test", "fold 4 is none of 0 to 3"),
        ("pascal5i", 0, "val", "'val' is neither train nor test"),
    ],
)
def test_words_that_are_wrong(name, fold, split, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        open_benchmark(name, tmp_path, fold, split)
