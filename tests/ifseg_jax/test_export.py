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
from ifseg_jax import export, storage
from vlseg import state_dicts, torch_files
from vlseg.errors import ConfigError, StorageError, VocabularyError

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
def stablehlo(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("stablehlo") / "model.jax"
    export.write_stablehlo(path, model, HEIGHT, WIDTH, ("cpu", "cuda", "tpu"))
    return path


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


def test_a_process_with_jax_alone_runs_the_file(model, images, stablehlo, tmp_path):
    np.save(tmp_path / "images.npy", images)
    arguments = [stablehlo, tmp_path / "images.npy", tmp_path / "result.npz"]
    # Started elsewhere, so that our packages are not even in reach of its imports by way of the working directory.
    subprocess.run([sys.executable, "-c", READER, *map(str, arguments)], check=True, cwd=tmp_path, env=os.environ)
    with np.load(tmp_path / "result.npz") as result:
        probabilities, label_map = result["probabilities"], result["label_map"]
    np.testing.assert_allclose(probabilities, expected(model, images), atol=1e-5)
    assert probabilities.dtype == np.float32
    assert label_map.shape == (3, HEIGHT, WIDTH) and label_map.dtype == np.int32
    sizes = [(HEIGHT, WIDTH)] * 3
    maps = model.label_maps(probabilities, [probabilities.shape[1:3]] * 3, sizes)
    assert np.mean(label_map == np.stack(maps)) > 0.999


def test_one_file_is_for_all_platforms_and_batch_sizes(stablehlo):
    exported = jax.export.deserialize(bytearray(stablehlo.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    (given,) = exported.in_avals
    assert given.dtype == np.uint8 and given.shape[1:] == (HEIGHT, WIDTH, 3)
    assert jax.export.is_symbolic_dim(given.shape[0])


def test_the_word_table_is_not_in_the_file(model, stablehlo):
    parameters = sum(value.nbytes for value in jax.tree.leaves(model.variables))
    table = model.variables["params"]["word_embedding"]["table"].nbytes
    needed = parameters - table
    assert needed < stablehlo.stat().st_size < needed + 700_000
    assert table > 5_000


def test_without_averaging(model, images):
    probabilities = export.segmenter(model, knn=False)(images)["probabilities"]
    np.testing.assert_allclose(probabilities, expected(model, images, knn=False), atol=1e-6)
    assert np.abs(probabilities - expected(model, images)).max() > 1e-3


def test_what_cannot_be_exported(model, micro_model, tmp_path):
    path = tmp_path / "model.jax"
    with pytest.raises(ConfigError, match=r"abacus.*cpu, cuda"):
        export.write_stablehlo(path, model, HEIGHT, WIDTH, ("cpu", "abacus"))
    with pytest.raises(ConfigError, match="missing"):
        export.write_stablehlo(path, model, HEIGHT, WIDTH, ())
    with pytest.raises(VocabularyError, match="no categories"):
        export.write_stablehlo(path, micro_model, HEIGHT, WIDTH, ("cpu",))
    with pytest.raises(StorageError, match="create that first"):
        export.write_official(tmp_path / "absent" / "model.pt", model)
    assert list(tmp_path.iterdir()) == []


def test_too_large_a_model_is_refused_before_work(model, tmp_path, monkeypatch):
    monkeypatch.setattr("vlseg.stablehlo._MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="GB of weights"):
        export.write_stablehlo(tmp_path / "model.jax", model, HEIGHT, WIDTH, ("cpu",))


def test_official_file_holds_the_category_embeddings(model, tmp_path):
    export.write_official(tmp_path / "model.pt", model)
    state = {name: tensor.read() for name, tensor in torch_files.load_state_dict(tmp_path / "model.pt").items()}
    table = state["encoder.embed_tokens.weight"]
    means = np.stack([table[list(ids)].mean(axis=0) for ids in model.words().category_ids])
    for name in ("encoder.seg_embed_tokens", "decoder.seg_embed_tokens", "decoder.seg_projection"):
        np.testing.assert_allclose(state[f"{name}.weight"], means, atol=1e-6)
    np.testing.assert_array_equal(state["decoder.embed_tokens.weight"], table)
    # The official code ties it itself, and would not lengthen it together with the others.
    assert "encoder.embed_tokens_bag.weight" not in state
    again = storage.read(tmp_path / "model.pt")
    ours, theirs = (state_dicts.flatten(variables) for variables in (model.variables, again.converted.variables))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)


def test_official_file_of_new_categories_replaces_the_old(golden_square, tmp_path):
    """A checkpoint of IFSeg's own: everything that it held comes back, but the embeddings are of the new categories."""
    torch_files.save(tmp_path / "first.pt", {"model": dict(golden_square.state)})
    first = ifseg_jax.load(tmp_path / "first.pt", tokenizer=golden_square.tokenizer)
    export.write_official(tmp_path / "same.pt", first)
    chosen = dataclasses.replace(first, categories=golden_square.categories[:2])
    export.write_official(tmp_path / "second.pt", chosen)
    same, second = (
        {name: tensor.read() for name, tensor in torch_files.load_state_dict(tmp_path / f"{stem}.pt").items()}
        for stem in ("same", "second")
    )
    assert same.keys() == second.keys() == golden_square.state.keys()
    for name, value in golden_square.state.items():
        np.testing.assert_array_equal(same[name], value, err_msg=name)
        new = value[:2] if name in export.CATEGORY_TABLES else value
        np.testing.assert_allclose(second[name], new, atol=1e-6, err_msg=name)
