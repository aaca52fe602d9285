"""The public model: what users call, from loading to overlays."""

import dataclasses
import json
import shutil
import uuid

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import ifseg_jax
from ifseg_jax import checkpoint
from ifseg_jax.checkpoint import resolve
from ifseg_jax.model import with_category_table
from ifseg_jax.prompt import rows_of
from ifseg_jax.vocabulary import UNK
from tests.commands import picture
from vlseg import torch_files
from vlseg.checkpoints.directory import CONFIG_FILE, WEIGHTS_FILE
from vlseg.checkpoints.download import WeightFile
from vlseg.checkpoints.rules import flatten
from vlseg.errors import CheckpointError, ConfigError, DownloadError, StorageError, VocabularyError

CATEGORIES = ("grass", "house", "tree", "car")


def flat(model: ifseg_jax.IFSeg) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in flatten(model.variables).items()}


@pytest.fixture
def directory(micro_directory, tmp_path):
    """A copy of the micro model's directory, to be damaged."""
    return shutil.copytree(micro_directory, tmp_path / "model")


# Saving and loading


def test_round_trip_keeps_everything(micro_model, tmp_path):
    settings = ifseg_jax.Inference(short_side=48, long_side=96, knn_k=2, knn_iterations=7)
    model = dataclasses.replace(micro_model, categories=CATEGORIES, inference=settings)
    model.save(tmp_path / "model")
    again = ifseg_jax.load(tmp_path / "model")
    assert again.config == model.config
    assert again.inference == settings
    assert again.categories == CATEGORIES
    assert again.words() == model.words()
    assert flat(again).keys() == flat(model).keys()
    for name, value in flat(model).items():
        np.testing.assert_array_equal(flat(again)[name], value, err_msg=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_saving_replaces_only_when_asked(micro_model, tmp_path):
    micro_model.save(tmp_path / "model")
    adapted = dataclasses.replace(micro_model, categories=("grass",))
    with pytest.raises(StorageError, match="exists already"):
        adapted.save(tmp_path / "model")
    assert ifseg_jax.load(tmp_path / "model").categories == ()
    adapted.save(tmp_path / "model", overwrite=True)
    # Onto the very directory that it was read from.
    again = ifseg_jax.load(tmp_path / "model")
    again.save(tmp_path / "model", overwrite=True)
    assert ifseg_jax.load(tmp_path / "model").categories == ("grass",)


def test_models_in_buckets(micro_directory, tmp_path, monkeypatch):
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path))
    url = f"memory://{uuid.uuid4().hex}/model"
    ifseg_jax.load(micro_directory).save(url)
    again = ifseg_jax.load(url)
    again.save(tmp_path / "again")
    for path in sorted(micro_directory.iterdir()):
        if path.name != CONFIG_FILE:
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert again.words(["grass"]) == ifseg_jax.load(micro_directory).words(["grass"])
    with pytest.raises(CheckpointError, match=f"^{url}x: there is no such bucket or object"):
        ifseg_jax.load(f"{url}x")


def test_load_options(micro_directory, micro_model):
    model = ifseg_jax.load(micro_directory, dtype="bfloat16", remat="layer")
    assert (model.config.dtype, model.config.remat) == ("bfloat16", "layer")
    assert {value.dtype for value in flat(model).values()} == {np.dtype(np.float32)}
    images = picture(40, 40)[None]
    logits, exact = model.logits(images, CATEGORIES), micro_model.logits(images, CATEGORIES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exact, atol=0.1 * float(np.abs(exact).max()))
    assert not np.array_equal(logits, exact)


@pytest.mark.parametrize("options", [{"width": 64}, {"dtipe": "bfloat16"}, {"dtype": "int8"}, {"remat": "all"}])
def test_load_refuses_options(micro_directory, options):
    with pytest.raises(ConfigError, match="|".join(options)):
        ifseg_jax.load(micro_directory, **options)


def test_official_checkpoints_need_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("VLSEG_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    # Nothing listens on the port of "discard".
    monkeypatch.setitem(checkpoint.WEIGHTS, "ofa_base", WeightFile("http://127.0.0.1:9/ofa_base.pt"))
    with pytest.raises(DownloadError, match=rf"127\.0\.0\.1:9.*put it at {tmp_path}/ofa_base\.pt"):
        ifseg_jax.load("ofa_base")


def test_no_such_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither a file, a directory nor one of tiny, clothing, ofa_tiny"):
        ifseg_jax.load(tmp_path / "absent.pt")


# Damaged directories


def edit_config(directory, **changes) -> None:
    path = directory / CONFIG_FILE
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"model": settings["model"] | changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64}, r"word_embedding/table is \[67, 32\] instead of \[67, 64\], .*, and \d+ more"),
        ({"max_positions": 63}, r"word_positions is \[66, 32\] instead of \[65, 32\]"),
        ({"resnet_width": 16}, r"resnet/conv1/kernel is \[7, 7, 3, 8\] instead of \[7, 7, 3, 16\]"),
        ({"encoder_layers": 3}, r"encoder/layers/\S+ is \[2, \d+.*\] instead of \[3, \d+"),
        ({"resnet_stages": [1, 2]}, r"missing: .*encoder/resnet/layer2_1/"),
        ({"resnet_stages": [1]}, r"not known: .*encoder/resnet/layer2_0/"),
        ({"width": 33}, r"config\.json cannot be used: .*width 33"),
        ({"heads": 0}, r"config\.json cannot be used"),
        ({"encoder_layers": "2"}, r"config\.json cannot be used"),
        ({"colour": 1}, r"model has no setting colour"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights(directory, changes, message):
    edit_config(directory, **changes)
    with pytest.raises(CheckpointError, match=message):
        ifseg_jax.load(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is an empty file"),
        ("[]", "cannot be used"),
        ('{"model": {}}', "lacks 'format'"),
        ('{"format": "other", "model": {}}', "format 'other'"),
        ('{"format": "ifseg_jax"}', "lacks model"),
        ('{"format": "ifseg_jax", "model": []}', "cannot be used"),
    ],
)
def test_a_configuration_that_is_none(directory, text, message):
    (directory / CONFIG_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        ifseg_jax.load(directory)


@pytest.mark.parametrize("inference", [{"short_side": "64"}, {"knn_k": 0}, {"sides": 2}, []])
def test_inference_settings_that_are_none(directory, inference):
    path = directory / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"inference": inference}))
    with pytest.raises(CheckpointError, match=r"config\.json cannot be used"):
        ifseg_jax.load(directory)


def test_weights_of_another_shape(directory):
    arrays = load_file(directory / WEIGHTS_FILE)
    name = "params/encoder/layers/ffn/fc1/kernel"
    turned = np.ascontiguousarray(arrays[name].swapaxes(1, 2))
    save_file(arrays | {name: turned}, directory / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=rf"{name} is \[2, 64, 32\] instead of \[2, 32, 64\]$"):
        ifseg_jax.load(directory)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("encoder.layers.1.fc1.weight", (64, 128), r"fc1\.weight is \[64, 128\] instead of \[128, 64\]"),
        ("encoder.embed_images.layer2.0.conv2.weight", (128, 128), r"conv2\.weight is \[128, 128\] instead of"),
        ("encoder.layers.0.self_attn.c_attn", (3,), r"width 64 is not a multiple of heads 3"),
        ("decoder.pos_ln.weight", (), r"decoder\.pos_ln\.weight is \[\] instead of \[64\]"),
    ],
)
def test_official_weights_of_another_shape(golden_square, tmp_path, name, shape, message):
    assert golden_square.state[name].shape != shape
    state = dict(golden_square.state) | {name: np.zeros(shape, np.float32)}
    torch_files.save(tmp_path / "model.pt", {"model": state})
    with pytest.raises(CheckpointError, match=rf"model\.pt: .*{message}"):
        ifseg_jax.load(tmp_path / "model.pt")


# Segmentation


def test_segmentation_of_one_image(micro_model, tmp_path):
    image = picture(45, 60)
    result = micro_model.segment(image, CATEGORIES)
    assert result.label_map.shape == (45, 60) and result.label_map.dtype == np.int32
    assert result.labels == CATEGORIES
    assert result.probabilities.shape == (45, 60, 4) and result.probabilities.dtype == np.float32
    # Short side 40, so 40 x 53 pixels of 8 x 8 per cell.
    assert result.scores.grid_probabilities.shape == (5, 7, 4) and result.scores.grid_probabilities.dtype == np.float32
    np.testing.assert_array_equal(result.image, image)
    np.testing.assert_allclose(result.probabilities.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(result.scores.grid_probabilities.sum(axis=-1), 1, atol=1e-5)
    first, second = np.sort(result.probabilities, axis=-1)[..., :-3:-1].transpose(2, 0, 1)
    clear = first - second > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(result.label_map[clear], result.probabilities.argmax(axis=-1)[clear])


def test_every_kind_of_image_is_segmented_alike(micro_model, tmp_path):
    image, other = picture(45, 60), picture(60, 45, seed=1)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    expected = micro_model.segment(image, CATEGORIES).scores.grid_probabilities
    sources = [path, str(path), Image.fromarray(image), np.dstack([image, image[..., 0]]), jax.numpy.asarray(image)]
    for source in sources:
        np.testing.assert_array_equal(micro_model.segment(source, CATEGORIES).scores.grid_probabilities, expected)
    results = micro_model.segment(iter([path, other, image]), CATEGORIES)
    assert [result.label_map.shape for result in results] == [(45, 60), (60, 45), (45, 60)]
    for result in (results[0], results[2]):
        np.testing.assert_allclose(result.scores.grid_probabilities, expected, atol=1e-5)
    assert micro_model.segment([], CATEGORIES) == []


def test_batches_keep_the_order_and_change_nothing(micro_model):
    images = [picture(40, 40, 0), picture(40, 120, 1), picture(40, 40, 2)]
    alone = micro_model.segment(images, CATEGORIES)
    batched = list(micro_model.segment_each(images, CATEGORIES, batch_size=2))
    for image, one, other in zip(images, batched, alone, strict=True):
        np.testing.assert_allclose(one.scores.grid_probabilities, other.scores.grid_probabilities, atol=1e-5)
        np.testing.assert_array_equal(one.image, image)


def test_the_keyword_categories_means_labels(micro_model):
    image, grids = picture(40, 40), np.zeros((1, 5, 5), int)
    np.testing.assert_array_equal(
        micro_model.segment(image, categories=CATEGORIES).label_map, micro_model.segment(image, CATEGORIES).label_map
    )
    for method, given in ((micro_model.logits, image[None]), (micro_model.artificial_logits, grids)):
        np.testing.assert_array_equal(method(given, categories=CATEGORIES), method(given, labels=CATEGORIES))
    with pytest.raises(VocabularyError, match="give one of them"):
        micro_model.logits(image[None], CATEGORIES, categories=CATEGORIES)


def test_several_labels_a_pixel_and_none_of_them(micro_model):
    image = picture(45, 60)
    result = micro_model.segment(image, CATEGORIES, top_k=3)
    order = np.argsort(-result.probabilities, axis=-1, kind="stable")[..., :3]
    clear = np.diff(np.sort(result.probabilities, axis=-1)).min(axis=-1) > 1e-5
    np.testing.assert_array_equal(result.top_labels[clear], order[clear])
    np.testing.assert_allclose(
        result.top_similarities, np.take_along_axis(result.probabilities, result.top_labels, -1), atol=1e-6
    )
    least = float(np.median(result.top_similarities[..., 0]))
    rejected = micro_model.segment(image, CATEGORIES, rejection=ifseg_jax.Rejection(min_similarity=least))
    assert rejected.labels == (*CATEGORIES, "none of these")
    np.testing.assert_array_equal(rejected.label_map == 4, result.top_similarities[..., 0] < least)


def test_averaging_can_be_switched_off(micro_model):
    image = picture(40, 40)
    plain = micro_model.segment(image, CATEGORIES, knn=False).scores.grid_probabilities
    expected = jax.nn.softmax(micro_model.logits(image[None], CATEGORIES), axis=-1)[0]
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    assert np.abs(plain - micro_model.segment(image, CATEGORIES).scores.grid_probabilities).max() > 1e-3


@pytest.mark.parametrize(
    ("categories", "message"),
    [("grass", "one string"), (["grass", "xylophone"], "xylophone"), (["tree " * 60], "reads at most 64")],
)
def test_categories_that_cannot_be_used(micro_model, categories, message):
    with pytest.raises(VocabularyError, match=message):
        micro_model.segment(picture(40, 40), categories)


def test_categories_are_needed(micro_model):
    with pytest.raises(VocabularyError, match="not adapted to categories"):
        micro_model.segment(picture(40, 40))


def test_case_follows_the_tokenizer(micro_model):
    """A casing tokenizer has two words where a lower-casing one, as of the bundled vocabulary, has one."""
    ids = {"turkey": [5], "Turkey": [6]}
    casing = dataclasses.replace(micro_model, tokenizer=lambda text: ids.get(text, [7, 8]))
    assert casing.embed(["Turkey", "turkey"]).categories.shape[0] == 2
    for function in (micro_model.names, micro_model.embed):
        with pytest.raises(VocabularyError, match="apart: 'tree' = 'Tree'; "):
            function(["tree", "car", "Tree"])
    table = with_category_table(dataclasses.replace(casing, categories=()), ("turkey", "cat"))
    assert table.embed(["Turkey", "turkey", "cat"]).projection.shape[0] == 3
    assert rows_of(["Turkey", "turkey", "cafe\u0301"], ["café", "turkey"], casing.tokenizer) == [-1, 1, 0]
    assert rows_of(["Tree", "car"], ["tree"], micro_model.tokenizer) == [0, -1]


def test_words_that_cannot_be_told_apart_or_read(micro_model):
    """A category is the mean of its words, whatever their order."""
    for labels in (["tree house", "car", "house tree"], ["car", "car car"]):
        with pytest.raises(VocabularyError, match="cannot tell these labels apart"):
            micro_model.embed(labels)
        with pytest.raises(VocabularyError, match="cannot tell these labels apart"):
            micro_model.segment(picture(16, 16), labels)
        with pytest.raises(VocabularyError, match="cannot tell these labels apart"):
            micro_model.adapt(labels, steps=1)
    unknown = dataclasses.replace(micro_model, tokenizer=lambda text: [UNK, UNK] if text == "猫" else [5, 6])
    with pytest.raises(VocabularyError, match="vocabulary has nothing of '猫'"):
        unknown.names(["猫"])


def test_a_tokenizer_of_a_larger_model(micro_model):
    foreign = dataclasses.replace(micro_model, tokenizer=lambda text: [50_000])
    with pytest.raises(VocabularyError, match="id 50000, the model knows 67 words"):
        foreign.words(CATEGORIES)


def test_no_tokenizer(micro_model):
    with pytest.raises(VocabularyError, match="--tokenizer=DIRECTORY"):
        dataclasses.replace(micro_model, tokenizer=None).words(CATEGORIES)


# Adaptation


def test_adaptation_refuses(micro_model):
    with pytest.raises(VocabularyError, match="one string"):
        micro_model.adapt("grass", steps=1)
    with pytest.raises(VocabularyError, match="xylophone"):
        micro_model.adapt(["grass", "xylophone"], steps=1)
    with pytest.raises(ConfigError, match=r"adaptation\.steps is 0"):
        micro_model.adapt(["grass"], steps=0)
    with pytest.raises(ConfigError, match="speed"):
        micro_model.adapt(["grass"], speed=3)


@pytest.mark.parametrize("grids", [[[[0, 4]]], [[[-1, 0]]], [[0, 1]], [[[]]]])
def test_artificial_images_of_other_ids_are_refused(micro_model, grids):
    with pytest.raises(ConfigError, match="ids from 0 to 3"):
        micro_model.artificial_logits(np.array(grids, int), CATEGORIES)


def test_features_of_bytes_are_those_of_scaled_pixels(micro_model):
    image = picture(40, 40)[None]
    scaled = micro_model.image_features(image / np.float32(127.5) - 1)
    np.testing.assert_allclose(micro_model.image_features(image), scaled, rtol=1e-4, atol=1e-4)


def test_the_bundled_name_is_no_folder(micro_directory, tmp_path, monkeypatch):
    shutil.copytree(micro_directory, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve("tiny") != resolve("./tiny")
