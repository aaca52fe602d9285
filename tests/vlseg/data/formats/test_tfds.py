"""Data sets of TensorFlow Datasets: those that TFDS prepared, and those that are written for it."""

import io
import subprocess
import sys
import types

import cloudpickle
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.commands import ROOT, Commands, files_in
from tests.samples import CITYSCAPES_IDS, ade20k, camvid_original, cityscapes, fss
from tests.vlseg.data.formats.test_prepared import assert_same
from vlseg import labels, settings
from vlseg.data.formats import tfds as formats_tfds
from vlseg.data.formats import tfds_builder
from vlseg.data.sources import open_dataset, open_section
from vlseg.errors import ConfigError, DatasetError, ImageError, StorageError

commands = Commands("vlseg.data")

# A command that another one imports is run once more, as the program.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
SIZE = (12, 16)


@pytest.fixture(autouse=True)
def _without_tensorflow():
    """Nothing imports TensorFlow: without it that fails, and with it this does."""
    yield
    assert "tensorflow" not in sys.modules


def encoded(pixels, form="PNG", **options):
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, form, **options)
    return stream.getvalue()


def noise(seed, *shape, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def prepare(data_dir, name, features, splits, config=None, version="1.0.0", file_format="array_record"):
    """What TFDS prepares with a builder of these features: `splits` are lists of examples."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        code_path = None
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=version)] if config else []

        def _info(self):
            described = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, description="a test", features=described, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Builder.name = name
    tfds.disable_progress_bar()
    Builder(data_dir=data_dir, file_format=file_format).download_and_prepare()


def grey(**options):
    return tfds.features.Image(shape=(None, None, 1), **options)


# Written for TFDS


def test_from_the_catalog_to_tfds_and_back(tmp_path, capsys):
    for split in ("train", "val"):
        ade20k(tmp_path / "ade", split)
    out = tmp_path / "tfds"
    arguments = (f"--data=ade20k:{tmp_path / 'ade'}", "--format=tfds", f"--out={out}")
    assert commands.call("prepare", *arguments, "--split=train,val") == 0
    assert capsys.readouterr() == (f"wrote 4 examples to {out}\n", "")
    assert {name.rpartition("/")[0] for name in files_in(out)} == {"ade20k/1.0.0"}
    assert "exists already" in commands.refusal(capsys, "prepare", *arguments)

    # As anybody reads it.
    found = tfds.data_source("ade20k", data_dir=out, download=False)
    assert {split: len(source) for split, source in found.items()} == {"train": 2, "val": 2}
    info = found["val"].dataset_info
    assert tuple(info.features["segmentation_label"].names) == labels.load("ade20k_150")
    assert info.metadata == {"ignore_label": 255}
    originals = open_dataset(f"ade20k:{tmp_path / 'ade'}:train")
    for original, example in zip(originals, found["train"], strict=True):
        assert example["file_name"].decode() == original.name
        np.testing.assert_array_equal(example["image"], original.image)
        np.testing.assert_array_equal(example["segmentation_label"][..., 0], original.label)

    # As we read it; scores are published of "val".
    assert_same(originals, open_dataset(f"tfds:ade20k:{out}:train"))
    assert_same(open_dataset(f"ade20k:{tmp_path / 'ade'}"), open_dataset(f"tfds:ade20k:{out}"))
    assert_same(originals, open_dataset(f"tfds:ade20k/1.0.0:{out}", split="train"))
    (second,) = open_dataset(f"tfds:ade20k:{out}:train[1:]")
    assert second.name == "ADE_train_00000001"
    assert len(open_dataset(f"tfds:ade20k:{out}:train[:50%]+val")) == 3
    dataset = open_dataset(f"tfds:ade20k:{out}:train")
    assert originals.pairs[1].image.read_bytes() in dataset.records[1]
    with pytest.raises(IndexError):
        dataset[2]
    assert_same(originals, open_section(f"tfds:ade20k:{out}", settings.as_config(settings.Data())))
    # Worker processes get it so.
    assert_same(dataset, cloudpickle.loads(cloudpickle.dumps(dataset)))


def test_more_classes_than_a_byte_holds_and_a_split_called_all(tmp_path, capsys):
    fss(tmp_path / "fss")
    assert commands.call("prepare", f"--data=fss1000:{tmp_path / 'fss'}", "--format=tfds", f"--out={tmp_path}") == 0
    original, found = open_dataset(f"fss1000:{tmp_path / 'fss'}"), open_dataset(f"tfds:fss1000:{tmp_path}")
    assert found.ignore_label == 65535 and len(found.names) == 1000
    assert_same(original, found)
    camvid_original(tmp_path / "camvid")
    data = f"--data=camvid:{tmp_path / 'camvid'}:all"
    assert commands.call("prepare", data, "--format=tfds", f"--out={tmp_path}", "--tfds_name=roads") == 0
    assert_same(open_dataset(f"camvid:{tmp_path / 'camvid'}:all"), open_dataset(f"tfds:roads:{tmp_path}:examples"))
    for arguments, problem in [
        (["--split=val"], "names the split all, and --split=val another"),
        (["--examples_per_file=3"], "TFDS chooses"),
        (["--tfds_name=Roads"], "use small letters"),
        (["--tfds_name=cityscapes"], "a data set of its own that is called cityscapes"),
        (["--out=gs://bucket/tfds"], "is no local folder"),
    ]:
        line = commands.refusal(capsys, "prepare", data, "--format=tfds", f"--out={tmp_path / 'no'}", *arguments)
        assert problem in line
    assert not (tmp_path / "no").exists()
    with pytest.raises(ConfigError, match="all splits together"):
        tfds_builder.write({"all": original}, tmp_path, "other")
    with pytest.raises(StorageError, match="exists already"):
        tfds_builder.write({"test": original}, tmp_path, "fss1000")


def test_pictures_that_readers_show_in_different_ways(tmp_path):
    root, size = tmp_path / "my set", (9, 15)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    colours = Image.fromarray(noise(0, *size, 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise(1, 15, 9, 3)).save(root / "images/exif.jpg", exif=turned)
    colours.quantize(9).save(root / "images/palette.png")
    colours.convert("CMYK").save(root / "images/print.jpg")
    colours.convert("L").save(root / "images/grey.jpg")
    colours.save(root / "images/web.webp", lossless=True)
    Image.fromarray(noise(2, *size).astype(np.uint16) * 257).save(root / "images/deep.png")
    for path in (root / "images").iterdir():
        Image.fromarray(noise(3, *size, high=2)).save(root / f"labels/{path.stem}.png")
    (root / "names.txt").write_text("a cat\ngrass\n")
    assert commands.call("prepare", f"--data={root}", "--format=tfds", f"--out={tmp_path / 'tfds'}") == 0
    original = open_dataset(str(root))
    assert_same(original, open_dataset(f"tfds:my_set:{tmp_path / 'tfds'}"))
    found = tfds.data_source("my_set", data_dir=tmp_path / "tfds", split="examples", download=False)
    for mine, theirs in zip(original, found, strict=True):
        np.testing.assert_array_equal(mine.image, theirs["image"])


def test_nothing_is_left_of_a_data_set_that_cannot_be_read(tmp_path, capsys):
    cityscapes(tmp_path / "city")
    (tmp_path / "city/leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png").write_bytes(b"nothing")
    arguments = (f"--data=cityscapes:{tmp_path / 'city'}", "--format=tfds", f"--out={tmp_path / 'tfds'}")
    line = commands.refusal(capsys, "prepare", *arguments, "--tfds_name=streets")
    assert "frankfurt_000000_000294_leftImg8bit.png: is not an image" in line
    assert [path.name for path in tmp_path.iterdir()] == ["city"]


# Prepared by TFDS


def test_what_is_imported_when():
    line = (
        "import sys, vlseg.data.prepare, vlseg.data.check; print({'tensorflow_datasets', 'fsspec'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", line], cwd=ROOT, check=True, capture_output=True).stdout == b"set()\n"


def test_ade20k_as_tfds_has_it(tmp_path):
    """Its labels are of instances: red counts 100 of the classes, the most frequent things first."""
    red = noise(0, *SIZE, high=101)
    red.reshape(-1)[:101] = range(101)
    pixels = np.stack([red, noise(1, *SIZE), noise(2, *SIZE)], axis=-1)
    features = {"image": tfds.features.Image(encoding_format="jpeg"),
                "annotation": tfds.features.Image(encoding_format="png")}  # fmt: skip
    picture = encoded(noise(3, *SIZE, 3), "JPEG")
    prepare(tmp_path, "scene_parse150", features, {"test": [{"image": picture, "annotation": encoded(pixels)}]})
    dataset = open_dataset(f"tfds:scene_parse150:{tmp_path}")
    assert dataset.names == labels.load("ade20k_150") and dataset.ignore_label == 255
    (example,) = dataset
    known = {0: None, 1: "bed", 2: "windowpane", 4: "person", 31: "stairs", 59: "airplane", 99: "clock", 100: "flag"}
    for number, name in known.items():
        (found,) = np.unique(example.label[red == number]).tolist()
        assert (name is None and found == 255) or dataset.names[found] == name
    assert len(np.unique(example.label)) == 101
    np.testing.assert_array_equal(example.image, np.asarray(Image.open(io.BytesIO(picture))))
    hundred = ",".join(f"class {number}" for number in range(100))
    (found,) = open_dataset(f"tfds:scene_parse150:{tmp_path}", names=hundred, ignore_zero=True)
    np.testing.assert_array_equal(found.label, np.where(red == 0, 255, red.astype(int) - 1))
    with pytest.raises(ConfigError, match="has no feature middle"):
        open_dataset(f"tfds:scene_parse150:{tmp_path}", image_feature="middle")
    with pytest.raises(ConfigError, match="also give their names"):
        open_dataset(f"tfds:scene_parse150:{tmp_path}", ignore_zero=True)


def test_cityscapes_as_tfds_has_it(tmp_path):
    stored = noise(0, *SIZE, high=34)
    stored.reshape(-1)[:35] = (*range(34), 255)  # a licence plate, -1, is 255
    features = {"image_id": tfds.features.Text(), "image_left": tfds.features.Image(encoding_format="png"),
                "segmentation_label": grey(encoding_format="png")}  # fmt: skip
    example = {"image_id": "bonn_1", "image_left": encoded(noise(1, *SIZE, 3)), "segmentation_label": encoded(stored)}
    splits = {"train": [], "validation": [example]}
    for config in ("semantic_segmentation", "stereo_disparity"):
        prepare(tmp_path, "cityscapes", features, {"train": [example] * 2, **splits} | {"train": [example]}, config)
    with pytest.raises(DatasetError, match="several configurations; name one: cityscapes/semantic_segmentation, "):
        open_dataset(f"tfds:cityscapes:{tmp_path}")
    dataset = open_dataset(f"tfds:cityscapes/semantic_segmentation:{tmp_path}")
    assert dataset.names == labels.load("cityscapes_19")
    (found,) = dataset
    assert found.name == "bonn_1"
    truth = np.full(SIZE, 255)
    for index, number in enumerate(CITYSCAPES_IDS):
        truth[stored == number] = index
    np.testing.assert_array_equal(found.label, truth)
    # Its own names for the numbers as they are stored.
    every = ",".join(f"class {number}" for number in range(34))
    (found,) = open_dataset(f"tfds:cityscapes/semantic_segmentation:{tmp_path}", names=every)
    np.testing.assert_array_equal(found.label, stored)


def test_features_of_other_data_sets(tmp_path):
    picture, stored = noise(0, *SIZE, 3), noise(1, *SIZE, high=3)
    features = {"image": tfds.features.Image(), "trimap": grey(use_colormap=True)}
    splits = {split: [{"image": encoded(picture), "trimap": encoded(stored + first)}] * 2
              for split, first in (("train", 1), ("zero", 0))}  # fmt: skip
    prepare(tmp_path, "pets", features, splits)
    (first, _) = dataset = open_dataset(f"tfds:pets:{tmp_path}:train", names="pet,grass,border", label_offset=1)
    assert dataset.names == ("pet", "grass", "border") and first.name == "000000"
    np.testing.assert_array_equal(first.image, picture)
    np.testing.assert_array_equal(first.label, stored)
    with pytest.raises(DatasetError, match="000000: has label id 3, but the 3 names have ids 0 to 2"):
        open_dataset(f"tfds:pets:{tmp_path}:train", names="pet,grass,border")[0]
    for ignore_label in (255, -1):
        options = {"names": "grass,border", "ignore_zero": True, "ignore_label": ignore_label}
        (second, _) = open_dataset(f"tfds:pets:{tmp_path}:zero", **options)
        np.testing.assert_array_equal(second.label, np.where(stored == 0, ignore_label, stored.astype(int) - 1))


def test_pixels_that_are_no_pictures(tmp_path):
    fixed = {"pixels": tfds.features.Tensor(shape=(*SIZE, 3), dtype=np.uint8),
             "classes": tfds.features.Tensor(shape=SIZE, dtype=np.int32),
             "weights": tfds.features.Tensor(shape=SIZE, dtype=np.float32),
             "count": tfds.features.Scalar(dtype=np.int64)}  # fmt: skip
    picture, stored = noise(0, *SIZE, 3), noise(1, *SIZE, high=2).astype(np.int32)
    example = {"pixels": picture, "classes": stored, "weights": np.ones(SIZE, np.float32), "count": 3}
    wrong = {**example, "classes": stored - 1}
    prepare(tmp_path, "fixed", fixed, {"everything": [example], "wrong": [wrong]})
    with pytest.raises(DatasetError, match="000000: has labels -1 to 0"):
        open_dataset(f"tfds:fixed:{tmp_path}:wrong", names="cat,dog")[0]
    (found,) = open_dataset(f"tfds:fixed:{tmp_path}:everything", names="cat,dog")
    np.testing.assert_array_equal(found.image, picture)
    np.testing.assert_array_equal(found.label, stored)


def test_what_cannot_be_told_from_the_features(tmp_path, capsys):
    picture, stored = encoded(noise(0, *SIZE, 3)), encoded(noise(1, *SIZE, high=3))
    left_and_right = {"left": tfds.features.Image(), "right": tfds.features.Image(), "depth": grey(), "mask": grey()}
    example = {"left": picture, "right": picture, "depth": stored, "mask": stored}
    prepare(tmp_path, "stereo", left_and_right, {"a": [example], "b": [example]})

    def refused(match, source=f"tfds:stereo:{tmp_path}:a", kind=ConfigError, **options):
        with pytest.raises(kind, match=match) as caught:
            open_dataset(source, **options)
        assert "\n" not in str(caught.value)

    refused("any of left, right may be its picture; name it with image_feature, among depth, left, mask, right")
    refused("any of depth, mask may be its label map; name it with label_feature", image_feature="left")
    refused("has no feature middle; it has depth, left, mask, right", image_feature="middle")
    both = {"image_feature": "right", "label_feature": "mask"}
    refused("does not say what its classes are called; give their names", **both)
    assert len(open_dataset(f"tfds:stereo:{tmp_path}:a", names="x,y,z", **both)) == 1
    refused("name a split: a, b", f"tfds:stereo:{tmp_path}", names="x,y,z", **both)
    clash = {"names": "x,y,z", "ignore_label": 2, **both}
    refused("stereo: ignore_label 2 is also the id of one of the 3 categories", kind=DatasetError, **clash)
    refused("cannot read split 'c' .it has a, b.", f"tfds:stereo:{tmp_path}:c", DatasetError, names="x,y,z", **both)
    refused("cannot read split 'a.9:.'", f"tfds:stereo:{tmp_path}:a[9:]", DatasetError, names="x,y,z", **both)
    counted = {"image": tfds.features.Image(), "label": tfds.features.LabeledImage(labels=3)}
    prepare(tmp_path, "counted", counted, {"a": [{"image": picture, "label": stored}]})
    refused("does not say what its classes are called", f"tfds:counted:{tmp_path}")
    prepare(tmp_path, "plain", {"image": tfds.features.Image()}, {"a": [{"image": picture}]})
    refused("no feature is plainly a label map; name it with label_feature, among image", f"tfds:plain:{tmp_path}")
    # The same by flags.
    flags = ("--dataset=tfds", f"--root=stereo:{tmp_path}:b")
    assert "--" not in commands.refusal(capsys, "check", *flags)
    named = ("--image_feature=left", "--label_feature=mask", "--names=x,y,z")
    assert commands.call("check", *flags, *named) == 0
    assert "1 of 1 pairs can be used" in capsys.readouterr().out


def test_what_is_missing_or_damaged(tmp_path, monkeypatch, capsys):
    def refused(match, source, kind=DatasetError):
        with pytest.raises(kind, match=match) as caught:
            open_dataset(source)
        assert "\n" not in str(caught.value)

    refused(r"holds no data set mnist; prepare it with TFDS .*builder\('mnist', data_dir=", f"tfds:mnist:{tmp_path}")
    refused("holds no data set mnist", f"tfds:mnist:{tmp_path / 'absent'}")
    refused("write tfds:NAME:DATA_DIR", "tfds:mnist", ConfigError)
    refused("is no local folder", "tfds:mnist:gs://bucket/tfds:train", ConfigError)
    label = tfds.features.LabeledImage(labels=["cat", "dog"])
    good = {"image": encoded(noise(0, *SIZE, 3)), "label": encoded(noise(1, *SIZE, high=2))}
    bad = [{**good, "image": b"nothing"}, {**good, "label": encoded(noise(1, *SIZE), "JPEG")},
           {**good, "label": encoded(noise(1, 9, 9, high=2))}, {**good, "label": encoded(noise(1, *SIZE))}]  # fmt: skip
    prepare(tmp_path, "bad", {"image": tfds.features.Image(), "label": label}, {"train": [good, *bad]})
    dataset = open_dataset(f"tfds:bad:{tmp_path}")
    assert dataset[0].name == "000000"
    for index, kind, match in [
        (1, ImageError, "000001: is not an image"),
        (2, ImageError, "000002: a JPEG does not keep label ids"),
        (3, DatasetError, "000003: is 9 x 9 pixels, but its picture 16 x 12"),
        (4, DatasetError, "000004: has label"),
    ]:
        with pytest.raises(kind, match=match):
            dataset[index]
    folder = tmp_path / "bad/1.0.0"
    (shard,) = folder.glob("*array_record*")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DatasetError):
        open_dataset(f"tfds:bad:{tmp_path}")[0]
    (folder / "features.json").write_text("{")
    refused("cannot be read by TFDS", f"tfds:bad:{tmp_path}")
    described = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(described.replace("array_record", "tfrecord"))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    line = commands.refusal(capsys, "check", "--dataset=tfds", f"--root=bad:{tmp_path}")
    assert 'pip install "vlseg-jax[tfds]"' in line
    line = commands.refusal(capsys, "prepare", "--data=tiny_world", "--format=tfds", f"--out={tmp_path / 'out'}")
    assert 'pip install "vlseg-jax[tfds]"' in line


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("", ("sky", "wet grass", "road")),
        ("road,sky,wet grass", ("sky", "wet grass", "road")),
        ("road=way", ("sky", "wet grass", "way")),
        ("heaven,lawn,way", ("heaven", "lawn", "way")),
    ],
)
def test_names_that_are_given_bind_to_those_of_the_data_set(given, names):
    feature = types.SimpleNamespace(num_classes=3, names=["sky", "wet  grass", "road"])
    assert formats_tfds._names("set", feature, given) == names


@pytest.mark.parametrize("given", ["road,lawn,way", "sky,wet grass,road,moon", "sky,road", "way=road"])
def test_names_that_do_not_bind(given):
    feature = types.SimpleNamespace(num_classes=3, names=["sky", "wet  grass", "road"])
    with pytest.raises(ConfigError, match=r"^set: "):
        formats_tfds._names("set", feature, given)
