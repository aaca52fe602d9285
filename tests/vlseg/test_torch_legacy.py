"""PyTorch's format of before 1.6, whole modules and settings; fixtures are written by torch 1.9 and omegaconf 2.0."""

import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.vlseg.torch_files_cases import (
    call,
    legacy_storage,
    mutate,
    named,
    push,
    tensor,
    write_legacy,
)
from vlseg import torch_files
from vlseg.errors import CheckpointError
from vlseg.torch_files import Record, Reference

FIXTURES = Path(__file__).parent.parent / "fixtures" / "torch"
LEGACY = FIXTURES / "torch_1_9_legacy.pt"
VALUES = {"0": np.arange(6, dtype="<f4"), "1": np.array([7, -1], "<i8")}


def entries(**tensors: bytes) -> bytes:
    return b"}" + b"".join(push(name) + value + b"s" for name, value in tensors.items())


def test_tensors_have_the_values_pytorch_saved() -> None:
    table = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = {
        "table": table,
        "tied": table,
        "permuted": table.transpose(2, 0, 1),
        "column": table[:, 1:, ::2],
        "expanded": np.array([[1, 2, 3], [1, 2, 3]], np.float32),
        "parameter": np.array([1.5, -2], np.float32),
        "bfloat16": np.array([1, -0.5, 3.140625], ml_dtypes.bfloat16),
        "int64": np.array([[-1, 2**40]]),
        "bool": np.array([True, False]),
        "scalar": np.array(3.25, np.float32),
        "half": np.array([0.5, -2], np.float16),
        "empty": np.zeros((0, 3), np.float32),
        "double": np.array([1e-300]),
        "complex": np.array([1 + 2j], np.complex64),
    }
    found = torch_files.load_state_dict(LEGACY)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        read = found[name].read()
        assert (read.dtype, read.shape) == (value.dtype, value.shape), name
        assert read.tobytes() == np.ascontiguousarray(value).tobytes(), name
    assert found["table"] == found["tied"] and found["table"].storage == found["column"].storage
    content = torch_files.load(LEGACY)
    assert content["epoch"] == 3 and content["args"].state == {"arch": "a", "lr": 1e-4}


def test_the_format_by_a_newer_version() -> None:
    found = torch_files.load_state_dict(FIXTURES / "torch_legacy.pt")
    assert {name: value.read().tolist() for name, value in found.items()} == {"weight": [1, 1]}


def test_parts_of_storages_and_modules_of_the_first_versions(tmp_path: Path) -> None:
    part = legacy_storage("0", 6, view=("9", 2, 3))
    module = pickle.MARK + push("module") + named("torch.nn", "Linear") + push("a.py") + push("class ...") + b"t"
    body = entries(
        part=tensor(shape=(3,), stride=(1,), data=part),
        count=tensor(shape=(2,), stride=(1,), data=legacy_storage("1", 2, named("torch", "LongStorage"))),
        kind=module + pickle.BINPERSID,
    )
    content = torch_files.load(write_legacy(tmp_path / "a.pt", body, VALUES))
    assert content["part"].read().tolist() == [2, 3, 4]
    assert content["count"].read().tolist() == [7, -1]
    assert content["kind"] == Reference("torch.nn.Linear")


ONE = tensor(data=legacy_storage("0", 6))


@pytest.mark.parametrize(
    ("body", "storages", "keys", "message"),
    [
        (entries(a=ONE), VALUES, None, "storages that nothing names"),
        (entries(a=ONE), {"0": VALUES["0"]}, ["0", "0"], "storages that nothing names"),
        (entries(a=ONE), {"0": VALUES["0"]}, [0], "keys of storages that are no texts"),
        (entries(a=ONE), {}, None, "storages that nothing names"),
        (entries(a=ONE), {"0": VALUES["0"][:5]}, None, "of another size than the object says"),
        (entries(a=tensor(data=legacy_storage("0", 5))), {"0": VALUES["0"]}, None, "does not fit its storage"),
        (entries(a=tensor(data=legacy_storage("0", 1 << 70))), {"0": VALUES["0"]}, None, "not described as PyTorch"),
        (
            entries(a=tensor(data=legacy_storage("0", 6, view=("9", 1, 6)))),
            {"0": VALUES["0"]},
            None,
            "a part of a storage that reaches beyond",
        ),
        (
            entries(a=ONE, b=tensor(data=legacy_storage("0", 6, named("torch", "LongStorage")))),
            {"0": VALUES["0"]},
            None,
            "described in two ways",
        ),
        (call(named("os", "system"), push("touch x")), {}, None, r"refuses to load: its pickle calls os\.system"),
        (push(1), {}, None, "holds a int, not a dictionary"),
    ],
)
def test_legacy_files_that_are_refused(tmp_path: Path, body, storages, keys, message) -> None:
    path = write_legacy(tmp_path / "a.pt", body, storages, keys)
    with pytest.raises(CheckpointError, match=message) as caught:
        torch_files.load_state_dict(path)
    assert str(caught.value).startswith(str(path))


def test_every_truncation_of_a_legacy_file_is_noticed(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "a.pt", entries(a=ONE), {"0": VALUES["0"]})
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            torch_files.load(path)


def test_damaged_legacy_files_load_or_are_refused(tmp_path: Path) -> None:
    path, outcomes = tmp_path / "a.pt", []
    for seed in range(150):
        path.write_bytes(mutate(LEGACY.read_bytes(), seed))
        try:
            for value in torch_files.load_state_dict(path).values():
                value.read()
            outcomes.append("")
        except CheckpointError as error:
            outcomes.append(str(error))
    assert 2 < outcomes.count("") < 140
    assert all(text.startswith(str(path)) and text.isprintable() for text in outcomes if text)


def test_a_module_that_was_saved_whole_has_the_names_of_its_state_dict() -> None:
    found = torch_files.load_state_dict(FIXTURES / "torch_1_9_module.pt")
    norm = ["1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert sorted(found) == sorted(["0.weight", "0.bias", *norm])
    np.testing.assert_array_equal(found["0.weight"].read(), np.arange(6, dtype=np.float32).reshape(3, 2))


# --- Settings beside weights


def test_settings_of_omegaconf_are_plain_values() -> None:
    content = torch_files.load(FIXTURES / "torch_1_9_omegaconf.ckpt")
    recorded = content["hyper_parameters"]
    assert isinstance(recorded, Record) and recorded.name == "omegaconf.dictconfig.DictConfig"
    settings = torch_files.settings_of(recorded)
    assert (settings["arch_option"], settings["block_depth"], settings["activation"]) == (2, 3, "tanh")
    assert torch_files.settings_of(settings["nested"])["a"].name == "omegaconf.listconfig.ListConfig"
    assert content["act"].args == (Reference("torch.nn.functional.leaky_relu"),)
    assert content["e"].name == "__main__.Act" and content["e"].args == ("relu",)
    assert (content["dev"], content["dt"], content["sz"]) == ("cuda:0", np.float16, (1, 2))


def test_settings_of_other_classes() -> None:
    assert torch_files.settings_of({"a": 1, 2: 3}) == {"a": 1}
    assert torch_files.settings_of(Record("argparse.Namespace", state={"a": 1})) == {"a": 1}
    assert torch_files.settings_of(Record("AttributeDict", items=[("a", 1), "odd", (1, 2)])) == {"a": 1}
    assert torch_files.settings_of(Record("omegaconf.DictConfig", state={"content": {"a": 1}})) == {"a": 1}
    assert torch_files.settings_of(None) == torch_files.settings_of([1]) == {}


# --- Where weights are


@pytest.mark.parametrize("key", ["model_state_dict", "ema", "state_dict_ema", "module"])
def test_state_dicts_by_other_names(tmp_path: Path, key: str) -> None:
    torch_files.save(tmp_path / "a.pt", {"epoch": 1, key: {"a": np.ones(2, np.float32)}})
    assert list(torch_files.load_state_dict(tmp_path / "a.pt")) == ["a"]


def test_what_lies_beside_the_weights_is_listed(tmp_path: Path) -> None:
    one = np.ones(2, np.float32)
    content = {
        "epoch": 1,
        "model": {"config": {}, "state_dict": {"a": one}},
        "ema_state_dict": {"a": one},
        "optimizer": {"state": {0: {"exp_avg": one}}, "param_groups": []},
        "scheduler": {"step": 3},
    }
    torch_files.save(tmp_path / "a.pt", content)
    weights = torch_files.load_weights(tmp_path / "a.pt")
    assert list(weights.tensors) == ["a"] and weights.beside == ("ema_state_dict", "optimizer")
