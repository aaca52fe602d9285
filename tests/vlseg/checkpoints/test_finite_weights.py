"""Weights that are not finite are refused where they are loaded, whatever the file."""

import json
import types

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lseg_jax.checkpoint import LABELS_FILE, known_labels
from tests.toy.model import Config, Toy
from vlseg.checkpoints import foreign, rules
from vlseg.checkpoints.directory import Stored, Weights
from vlseg.checkpoints.rules import SAME, Rule
from vlseg.errors import CheckpointError
from vlseg.safetensors_files import open_safetensors, read_variables, save_safetensors

TABLE = [Rule("net.a", "params/a", SAME), *(Rule(f"net.{n}.b", "params/b", SAME, n) for n in range(5))]


def tensors(dtype, **bad):
    """Official tensors; `bad` by the layer's number."""
    arrays = {rule.official: np.ones((2, 3), dtype) for rule in TABLE}
    for number, value in bad.items():
        arrays[f"net.{number.removeprefix('at')}.b"][1, 2] = value
    return arrays


def assembled(arrays):
    return rules.assemble(TABLE, lambda rule: arrays[rule.official], np.ascontiguousarray)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.complex64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_official_files(dtype, value):
    with pytest.raises(CheckpointError, match=r"^weights are not finite \(NaN or infinity\): net\.2\.b; .* an earlier"):
        assembled(tensors(dtype, at2=value))


def test_the_first_are_named_and_all_are_counted():
    with pytest.raises(CheckpointError, match=r": net\.0\.b, net\.1\.b, net\.2\.b and 1 more; "):
        assembled(tensors(np.float32, at0=np.nan, at1=np.inf, at2=np.nan, at4=np.nan))
    assert assembled(tensors(np.int32))["params"]["b"].shape == (5, 2, 3)
    # Large numbers are finite though their sum is not.
    assert np.isfinite(assembled(tensors(np.float16, at0=65504, at1=65504))["params"]["b"]).all()


def test_encoders_from_elsewhere_whose_numbers_are_too_large_for_our_type(tmp_path):
    """Those of float64 become infinite in float32."""

    def read(rule):
        with np.errstate(over="ignore"):
            return np.asarray(arrays[rule.official], np.float32)

    arrays = tensors(np.float64, at3=1e300)
    with pytest.raises(CheckpointError, match=r"net\.3\.b"):
        rules.assemble(TABLE, read, np.ascontiguousarray)
    np.savez(tmp_path / "a.npz", a=np.float32([1, np.nan]))
    assert np.isnan(foreign.open_tensors(tmp_path / "a.npz")[0]["a"].read()).any()  # nobody has asked for weights yet


def test_directories(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {"params/a": np.float32([1, np.nan]), "params/b": np.float32([1])}
    save_safetensors(arrays, path, path)
    shapes = {name: array.shape for name, array in arrays.items()}
    with pytest.raises(CheckpointError, match=r"model\.safetensors: weights are not finite .*: params/a; "):
        read_variables(path, shapes, "the model", jnp.asarray)
    assert np.isnan(open_safetensors(path)["params/a"].read()[1])
    save_safetensors({**arrays, "params/a": np.float32([1, 2])}, path, path)
    others = {"params/b": rules.ArrayTensor(np.float32([np.inf]))}  # as of a step of a run
    with pytest.raises(CheckpointError, match=r"params/b"):
        read_variables(path, shapes, "the model", jnp.asarray, others)


def test_known_embeddings_of_labels(tmp_path):
    save_safetensors({"cat": np.float32([1, np.nan]), "dog": np.ones(2, np.float32)}, tmp_path / LABELS_FILE, "")
    config = types.SimpleNamespace(text=types.SimpleNamespace(features=2))
    with pytest.raises(CheckpointError, match=r"labels\.safetensors: weights are not finite .*: cat; "):
        known_labels(Stored(config, Weights({}), directory=tmp_path))


def test_a_model_of_any_package_that_is_saved_broken_is_not_loaded(tmp_path):
    """What is written is not looked at, what is read is."""
    kernel = np.ones((27, 16), np.float32)
    kernel[3, 3] = np.inf
    variables = {"params": {"kernel": kernel, "bias": np.ones(16, np.float32)}}
    Toy(Config(), variables, labels=("a", "b")).save(tmp_path / "toy")
    assert json.loads((tmp_path / "toy/config.json").read_text())["format"] == "tests.toy"
    with pytest.raises(CheckpointError, match=r"params/kernel"):
        read_variables(
            tmp_path / "toy/model.safetensors",
            {"params/kernel": (27, 16), "params/bias": (16,)},
            "the model",
            np.asarray,
        )
