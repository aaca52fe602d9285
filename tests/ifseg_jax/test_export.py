"""Exported models compute what the model computes, wherever they are read."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

import ifseg_jax
from ifseg_jax import PACKAGE, checkpoint
from ifseg_jax.postprocess import GridScores, ImageScores
from vlseg import torch_files
from vlseg.checkpoints.rules import flatten
from vlseg.commands import export

CATEGORIES = ("grass", "house", "tree", "car")
HEIGHT, WIDTH = 40, 56

READER = """
import sys

import jax.export
import numpy as np

path, images, result = sys.argv[1:]
outputs = jax.export.deserialize(bytearray(open(path, "rb").read())).call(np.load(images))
np.savez(result, **outputs)
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("ifseg_jax", "vlseg", "flax"))
assert not ours, ours
"""


@pytest.fixture(scope="module")
def model(micro_model) -> ifseg_jax.IFSeg:
    return dataclasses.replace(micro_model, categories=CATEGORIES)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("stablehlo") / "model.jax"
    platforms = ("cpu", "cuda", "tpu")
    export.write_stablehlo(path, model.image_function(model.inference), HEIGHT, WIDTH, platforms)
    return path


def write_official(path, model):
    PACKAGE.official.write(path, PACKAGE.official.of_model(model))


def expected(model: ifseg_jax.IFSeg, images: np.ndarray, knn: bool = True) -> np.ndarray:
    """Probabilities from the public functions, float32 [B, h, w, M]."""
    probabilities = jax.nn.softmax(model.logits(images), axis=-1)
    if not knn:
        return np.asarray(probabilities)
    batch, rows, columns, categories = probabilities.shape
    features = model.image_features(images.astype(np.float32) / 127.5 - 1).reshape(batch, rows * columns, -1)
    flat = probabilities.reshape(batch, rows * columns, categories)
    averaged = ifseg_jax.knn_average(flat, features, model.inference.knn_k, model.inference.knn_iterations)
    return np.asarray(averaged).reshape(probabilities.shape)


def test_a_process_with_jax_alone_runs_the_file(model, images, exported_file, tmp_path):
    np.save(tmp_path / "images.npy", images)
    arguments = [exported_file, tmp_path / "images.npy", tmp_path / "result.npz"]
    # Started elsewhere, so that our packages are not even in reach of its imports by way of the working directory.
    subprocess.run([sys.executable, "-c", READER, *map(str, arguments)], check=True, cwd=tmp_path, env=os.environ)
    with np.load(tmp_path / "result.npz") as result:
        probabilities, label_map = result["probabilities"], result["label_map"]
    np.testing.assert_allclose(probabilities, expected(model, images), atol=1e-5)
    assert probabilities.dtype == np.float32
    assert label_map.shape == (3, HEIGHT, WIDTH) and label_map.dtype == np.int32
    scores = GridScores(probabilities, [probabilities.shape[1:3]] * 3, [(HEIGHT, WIDTH)] * 3)
    maps = [ImageScores(scores, row).label_map() for row in range(3)]
    assert np.mean(label_map == np.stack(maps)) > 0.999


def test_the_word_table_is_not_in_the_file(model, exported_file):
    parameters = sum(value.nbytes for value in jax.tree.leaves(model.variables))
    table = model.variables["params"]["word_embedding"]["table"].nbytes
    needed = parameters - table
    assert needed < exported_file.stat().st_size < needed + 700_000
    assert table > 5_000


def test_without_averaging(model, images):
    segment = model.image_function(dataclasses.replace(model.inference, knn_iterations=0))
    probabilities = segment(images)["probabilities"]
    np.testing.assert_allclose(probabilities, expected(model, images, knn=False), atol=1e-6)
    assert np.abs(probabilities - expected(model, images)).max() > 1e-3


def test_official_file_holds_the_category_embeddings(model, tmp_path):
    write_official(tmp_path / "model.pt", model)
    state = {name: tensor.read() for name, tensor in torch_files.load_state_dict(tmp_path / "model.pt").items()}
    table = state["encoder.embed_tokens.weight"]
    means = np.stack([table[list(ids)].mean(axis=0) for ids in model.words().category_ids])
    for name in ("encoder.seg_embed_tokens", "decoder.seg_embed_tokens", "decoder.seg_projection"):
        np.testing.assert_allclose(state[f"{name}.weight"], means, atol=1e-6)
    np.testing.assert_array_equal(state["decoder.embed_tokens.weight"], table)
    # The official code ties it itself, and would not lengthen it together with the others.
    assert "encoder.embed_tokens_bag.weight" not in state
    again = checkpoint.read(tmp_path / "model.pt")
    ours, theirs = (flatten(variables) for variables in (model.variables, again.weights.variables))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)


def test_official_file_of_new_categories_replaces_the_old(golden_square, tmp_path):
    """A checkpoint of IFSeg's own: everything that it held comes back, but the embeddings are of the new categories."""
    torch_files.save(tmp_path / "first.pt", {"model": dict(golden_square.state)})
    first = ifseg_jax.load(tmp_path / "first.pt", tokenizer=golden_square.tokenizer)
    write_official(tmp_path / "same.pt", first)
    chosen = dataclasses.replace(first, categories=golden_square.categories[:2])
    write_official(tmp_path / "second.pt", chosen)
    same, second = (
        {name: tensor.read() for name, tensor in torch_files.load_state_dict(tmp_path / f"{stem}.pt").items()}
        for stem in ("same", "second")
    )
    assert same.keys() == second.keys() == golden_square.state.keys()
    for name, value in golden_square.state.items():
        np.testing.assert_array_equal(same[name], value, err_msg=name)
        new = value[:2] if name in checkpoint.CATEGORY_TABLES else value
        np.testing.assert_allclose(second[name], new, atol=1e-6, err_msg=name)
