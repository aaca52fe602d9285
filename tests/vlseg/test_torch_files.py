"""Archives by PyTorch itself (tests/fixtures/torch, written by torch 2.13), our own, damaged ones and hostile ones."""

import itertools
import os
import pickle
import pickletools
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.commands import room_for
from tests.vlseg.torch_files_cases import (
    call,
    mutate,
    named,
    push,
    stack_named,
    storage,
    tensor,
    write_archive,
)
from vlseg import torch_files
from vlseg.errors import CheckpointError, StorageError
from vlseg.torch_files import LazyTensor, Record, Reference, tensors, writing
from vlseg.torch_files.tensors import open_archive

FIXTURES = Path(__file__).parent.parent / "fixtures" / "torch"
MODEL = FIXTURES / "torch_2_13_model.pt"
TRAINING_STATE = FIXTURES / "torch_2_13_training_state.pt"

# The instructions that torch.load(weights_only=True) accepts, and that `save` may therefore use.
# fmt: off
SAFE_INSTRUCTIONS = frozenset({
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
    "GLOBAL", "REDUCE", "BINPERSID",
})
# fmt: on


def read_all(value: Any) -> None:
    if isinstance(value, LazyTensor):
        value.read()
    elif isinstance(value, dict):
        for item in value.values():
            read_all(item)
    elif isinstance(value, list | tuple):
        for item in value:
            read_all(item)


def assert_same(actual: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert isinstance(actual, LazyTensor)
        values = actual.read()
        assert values.shape == actual.shape == expected.shape
        assert values.dtype == actual.dtype == expected.dtype.newbyteorder("=")
        assert values.flags.c_contiguous and values.flags.writeable
        assert values.tobytes() == expected.astype(values.dtype).tobytes()
    elif isinstance(expected, dict):
        assert type(actual) is type(expected)
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, list | tuple):
        assert type(actual) is type(expected)
        assert len(actual) == len(expected)
        for ours, theirs in zip(actual, expected, strict=True):
            assert_same(ours, theirs)
    else:
        assert type(actual) is type(expected)
        assert repr(actual) == repr(expected)  # NaN and the sign of zero count


# --- Written by PyTorch


def test_tensors_of_a_model_have_the_values_pytorch_saved() -> None:
    table = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = {
        "table": table,
        "tied": table,
        "permuted": np.ascontiguousarray(table.transpose(2, 0, 1)),
        "column": np.ascontiguousarray(table[:, 1:, ::2]),
        "expanded": np.array([[1, 2, 3], [1, 2, 3]], np.float32),
        "parameter": np.array([1.5, -2], np.float32),
        "bfloat16": np.array([1, -0.5, 3.140625], ml_dtypes.bfloat16),
        "int64": np.array([[-1, 2**40]]),
        "bool": np.array([True, False]),
        "scalar": np.array(3.25, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "uint16": np.array([65535], np.uint16),
    }
    assert_same(torch_files.load_state_dict(MODEL), expected)


def test_views_share_their_storage() -> None:
    tensors = torch_files.load_state_dict(MODEL)
    assert tensors["table"] == tensors["tied"]
    assert tensors["table"] != tensors["permuted"]
    assert tensors["table"].storage == tensors["permuted"].storage == tensors["column"].storage
    assert tensors["table"].storage != tensors["expanded"].storage


def test_settings_become_inert_records() -> None:
    arguments = torch_files.load(MODEL)["args"]
    assert isinstance(arguments, Record)
    assert arguments.name == "argparse.Namespace"
    assert arguments.state == {"arch": "ofa_base", "lr": 1e-4}


def test_training_state() -> None:
    state = torch_files.load(TRAINING_STATE)
    weights = OrderedDict(weight=np.array([[0.5, -0.25]], np.float32), bias=np.array([2], np.float32))
    assert_same(state["state_dict"], weights)
    assert state["best"] == 0.25
    assert state["curve"].tolist() == [0, 1, 2]
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert state["size"] == (1, 2)
    assert state["device"] == "cuda:0"
    assert state["dtype"] == np.float16
    assert state["seen"] == {1, 2}
    assert state["counts"].name == "collections.defaultdict"
    assert state["counts"].items == [("a", [1])]
    assert state["activation"] == Reference("torch.nn.modules.activation.ReLU")


# --- State dictionaries


def test_state_dict_is_found_under_the_first_key_or_at_the_top(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    one, two = np.ones(2, np.float32), np.zeros(3, np.float32)
    torch_files.save(path, {"model": {"a": one, "step": 3}, "state_dict": {"b": two}})
    assert_same(torch_files.load_state_dict(path), {"a": one})
    assert_same(torch_files.load_state_dict(path, keys=("absent", "state_dict")), {"b": two})
    torch_files.save(path, {"a": one, "epoch": 3})
    assert_same(torch_files.load_state_dict(path), {"a": one})


def test_a_missing_state_dict_lists_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch_files.save(path, {"epoch": 3, "net": {"a": np.ones(2)}})
    with pytest.raises(CheckpointError, match=r"a\.pt has no state dict .*'epoch', 'net'$"):
        torch_files.load_state_dict(path)
    torch_files.save(path, [1])
    with pytest.raises(CheckpointError, match="holds a list"):
        torch_files.load_state_dict(path)


# --- Round trips

ELEMENT_TYPES = [np.dtype(kind) for kind in tensors.DTYPES.values()]
NUMPY_TYPES = [kind for kind in ELEMENT_TYPES if kind.type.__module__ == "numpy"]
arrays = st.one_of(
    hnp.arrays(st.sampled_from(NUMPY_TYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
    st.tuples(
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_side=4)),
        st.sampled_from([kind for kind in ELEMENT_TYPES if kind not in NUMPY_TYPES]),
    ).map(lambda pair: np.array(np.nan_to_num(pair[0], posinf=0, neginf=0).clip(-100, 100)).astype(pair[1])),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
objects = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=8,
)


@given(objects)
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, obj: Any) -> None:
    path = tmp_path_factory.mktemp("round") / "a.pt"
    torch_files.save(path, obj)
    assert_same(torch_files.load(path), obj)


@given(objects)
def test_pickles_use_only_what_weights_only_loading_accepts(tmp_path_factory: pytest.TempPathFactory, obj: Any) -> None:
    path = tmp_path_factory.mktemp("safe") / "a.pt"
    torch_files.save(path, obj)
    with zipfile.ZipFile(path) as archive:
        used = {(opcode.name, argument) for opcode, argument, _ in pickletools.genops(archive.read("archive/data.pkl"))}
    assert {name for name, _ in used} <= SAFE_INSTRUCTIONS
    assert {argument.split()[0] for name, argument in used if name == "GLOBAL"} <= {
        "collections",
        "torch",
        "torch._utils",
        "torch.storage",
    }


def test_views_and_foreign_byte_orders_are_saved_by_value(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    obj = {"transposed": base.T, "strided": base[1:, ::2], "big": base.astype(">f4"), "reversed": base[::-1]}
    torch_files.save(tmp_path / "a.pt", obj)
    assert_same(torch_files.load(tmp_path / "a.pt"), {name: np.ascontiguousarray(value) for name, value in obj.items()})


def test_numpy_scalars_become_numbers(tmp_path: Path) -> None:
    torch_files.save(tmp_path / "a.pt", [np.float32(0.5), np.int64(3), np.bool_(True), ml_dtypes.bfloat16(2)])
    assert_same(torch_files.load(tmp_path / "a.pt"), [0.5, 3, True, 2.0])


def test_the_same_array_is_stored_once(tmp_path: Path) -> None:
    shared, equal = np.ones(4, np.float32), np.ones(4, np.float32)
    torch_files.save(tmp_path / "a.pt", {"a": shared, "b": shared, "c": equal})
    loaded = torch_files.load(tmp_path / "a.pt")
    assert loaded["a"] == loaded["b"] != loaded["c"]
    torch_files.save(tmp_path / "b.pt", loaded)
    again = torch_files.load(tmp_path / "b.pt")
    assert again["a"] == again["b"] != again["c"]
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        assert sorted(name for name in archive.namelist() if "/data/" in name) == ["archive/data/0", "archive/data/1"]


def test_lazy_tensors_can_be_saved_over_their_own_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch_files.save(path, {"a": np.arange(6.0), "b": np.ones(3)})
    torch_files.save(path, {"b": torch_files.load(path)["a"]})
    assert_same(torch_files.load(path), {"b": np.arange(6.0)})


@pytest.mark.parametrize("zip64_from", [1, 1 << 30])
def test_layout_is_that_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zip64_from: int) -> None:
    monkeypatch.setattr(writing, "_ZIP64_FROM", zip64_from)
    path = tmp_path / "a.pt"
    torch_files.save(path, [np.arange(3, dtype=np.uint8), np.arange(5.0), np.zeros(0)])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            f"archive/{name}" for name in ("data.pkl", "byteorder", "data/0", "data/1", "data/2", "version")
        ]
        assert archive.read("archive/byteorder") == sys.byteorder.encode()
        assert archive.read("archive/version") == b"3\n"
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    assert all(entry.start % 64 == 0 for entry in open_archive(str(path)).values())
    assert_same(torch_files.load(path), [np.arange(3, dtype=np.uint8), np.arange(5.0), np.zeros(0)])


def test_equal_objects_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        torch_files.save(tmp_path / name, {"a": np.arange(4.0)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.mark.parametrize(
    "value", [{"a": object()}, np.array(["text"]), b"bytes", {1, 2}, 1 << 5000, np.zeros(2, "f4,f4")]
)
def test_what_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^cannot save .*a\.pt: "):
        torch_files.save(tmp_path / "a.pt", value)
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_contains_itself_is_refused(tmp_path: Path) -> None:
    obj: list[Any] = []
    obj.append(obj)
    with pytest.raises(CheckpointError, match="contains itself"):
        torch_files.save(tmp_path / "a.pt", obj)


def test_a_failing_read_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    torch_files.save(tmp_path / "a.pt", {"a": np.ones(1000)})
    lazy = torch_files.load(tmp_path / "a.pt")
    torch_files.save(tmp_path / "b.pt", [1])
    os.truncate(tmp_path / "a.pt", 2000)
    with pytest.raises(CheckpointError, match="truncated"):
        torch_files.save(tmp_path / "b.pt", lazy)
    assert torch_files.load(tmp_path / "b.pt") == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch_files.save(path, [1])
    with room_for(100_000), pytest.raises(StorageError, match=r"cannot write .*a\.pt"):
        torch_files.save(path, [np.ones(5000), np.ones(50_000), np.ones(50_000)])
    assert torch_files.load(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


# --- Memory


def test_memory_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    size = 4 << 20
    torch_files.save(tmp_path / "a.pt", {str(index): np.full(size, index, np.uint8) for index in range(8)})
    tracemalloc.start()
    try:
        tensors = torch_files.load_state_dict(tmp_path / "a.pt")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        for index, lazy in enumerate(tensors.values()):
            assert (lazy.read() == index).all()
        torch_files.save(tmp_path / "b.pt", tensors)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * size
    finally:
        tracemalloc.stop()


def test_a_view_reads_only_its_part_of_the_storage(tmp_path: Path) -> None:
    rows = np.arange(4 << 20, dtype=np.float32).reshape(1024, 4096)
    torch_files.save(tmp_path / "a.pt", rows)
    whole = torch_files.load(tmp_path / "a.pt")
    row = tensors.tensor_view(whole.storage, whole.dtype, 3 * 4096, (4096,), (1,))
    tracemalloc.start()
    try:
        assert (row.read() == rows[3]).all()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# --- Variants of the format


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_byte_orders_and_compression(tmp_path: Path, byteorder: str, compression: int) -> None:
    body = push({}) + push("all") + tensor() + pickle.SETITEM
    body += push("corner") + tensor(offset=1, shape=(2, 2), stride=(3, 1)) + pickle.SETITEM
    body += push("transposed") + tensor(shape=(3, 2), stride=(1, 3)) + pickle.SETITEM
    path = write_archive(tmp_path / "a.pt", body, compression, byteorder)
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = {"all": table, "corner": table[:, 1:].copy(), "transposed": table.T.copy()}
    assert_same(torch_files.load(path), expected)


def test_compressed_records_longer_than_a_chunk(tmp_path: Path) -> None:
    torch_files.save(tmp_path / "a.pt", np.random.default_rng(0).integers(0, 4, (3 << 20,), np.uint8))
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as copy,
    ):
        for name in source.namelist():
            copy.writestr(name, source.read(name))
    plain, packed = torch_files.load(tmp_path / "a.pt"), torch_files.load(tmp_path / "b.pt")
    assert (packed.read() == plain.read()).all()
    for start, length in [(0, 1), (1 << 20, 5), ((2 << 20) - 3, 7), ((3 << 20) - 1, 1)]:
        expected = plain.storage.entry.read(start, length)
        assert (packed.storage.entry.read(start, length) == expected).all()


def test_complex_numbers_of_the_other_byte_order(tmp_path: Path) -> None:
    values = np.array([1 + 2j, -3 + 0.5j, 4], np.complex64)
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        body = tensor(shape=(3,), stride=(1,), data=storage(count=3, kind=named("torch", "ComplexFloatStorage")))
        archive.writestr("x/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("x/byteorder", "big")
        archive.writestr("x/data/0", values.astype(">c8").tobytes())
    assert_same(torch_files.load(path), values)


def test_archives_without_a_byte_order_are_little_endian(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + tensor() + b".")
        archive.writestr("x/data/0", np.arange(6, dtype="<f4").tobytes())
    assert_same(torch_files.load(path), np.arange(6, dtype=np.float32).reshape(2, 3))


PLAIN = [
    None,
    True,
    -5,
    10**30,
    1.5,
    "é",
    b"\x00\xff",
    b"",
    bytearray(b"xy"),
    [1, [2]],
    (1,),
    (1, 2, 3, 4),
    {"a": {1: 2}},
]
PLAIN += [{1, 2}, frozenset({3}), range(4), slice(1, 2), 1 + 2j, np.float64(2.5), np.float32(1), np.str_("ab")]
PLAIN += [OrderedDict(a=1), int, dict]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_of_every_protocol(tmp_path: Path, protocol: int, value: Any) -> None:
    data = pickle.dumps(value, protocol)
    loaded = torch_files.load(write_archive(tmp_path / "a.pt", data[:-1] if protocol < 2 else data[2:-1]))
    if isinstance(value, type):
        assert isinstance(loaded, Reference)
        assert loaded.name.endswith(value.__name__) or (value is int and loaded.name == "builtins.int")
    else:
        assert loaded == value
        assert type(loaded) is type(value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["<f4", ">i2", "?", "<c16", "<U3", "S2"])
def test_numpy_arrays_of_every_protocol(tmp_path: Path, protocol: int, kind: str) -> None:
    value = np.asfortranarray(np.arange(6).reshape(2, 3).astype(kind))
    data = pickle.dumps([value, value.dtype, value], protocol)
    loaded, dtype, again = torch_files.load(write_archive(tmp_path / "a.pt", data[:-1] if protocol < 2 else data[2:-1]))
    assert dtype == value.dtype
    assert loaded.dtype == value.dtype
    assert (loaded == value).all() and again is loaded


def test_numpy_arrays_of_objects_are_inert(tmp_path: Path) -> None:
    body = pickle.dumps(np.array(["a", None], object), 2)[2:-1]
    assert torch_files.load(write_archive(tmp_path / "a.pt", body)).name == "numpy.ndarray"


# --- Hostile pickles

DANGEROUS = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("importlib", "import_module"),
    ("operator", "attrgetter"),
    ("sys", "modules"),
    ("pickle", "loads"),
    ("webbrowser", "open"),
    ("collections", "namedtuple"),
    ("collections", "OrderedDict.__init__.__globals__"),
    ("builtins", "dict.__subclasses__"),
    ("_codecs", "decode"),
    ("vlseg.torch_files", "load"),
    ("torchevil", "run"),
]


@pytest.mark.parametrize("reference", [named, stack_named])
@pytest.mark.parametrize(("module", "name"), DANGEROUS)
def test_what_could_run_code_is_refused_by_name(tmp_path: Path, reference: Any, module: str, name: str) -> None:
    path = write_archive(tmp_path / "a.pt", call(reference(module, name), push(f"touch {tmp_path}/pwned")))
    message = f"{path} refuses to load: its pickle calls {module}.{name}, which could run code"
    with pytest.raises(CheckpointError) as caught:
        torch_files.load(path)
    assert str(caught.value) == message
    assert not (tmp_path / "pwned").exists()


def test_python_2_names_are_refused_under_their_current_ones(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", call(named("__builtin__", "eval"), push("1")))
    with pytest.raises(CheckpointError, match=r"calls builtins\.eval, which"):
        torch_files.load(path)


@pytest.mark.parametrize(
    "body",
    [
        b"(" + push("touch x") + b"ios\nsystem\n",
        b"(" + named("os", "system") + push("touch x") + b"o",
        named("os", "system") + push(("touch x",)) + pickle.NEWOBJ,
        named("os", "system") + push(("touch x",)) + push({}) + pickle.NEWOBJ_EX,
    ],
    ids=["INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"],
)
def test_every_way_of_calling_is_guarded(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"calls os\.system"):
        torch_files.load(write_archive(tmp_path / "a.pt", body))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.hub", "load"),
        ("torch", "os.system"),
        ("torch.os", "system"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("numpy", "load"),
        ("numpy.testing._private.utils", "runstring"),
        ("pathlib", "Path"),
        ("omegaconf.dictconfig", "DictConfig"),
        ("fairseq.data.dictionary", "Dictionary"),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("typing", "Any"),
        ("collections", "defaultdict"),
    ],
)
def test_known_modules_are_never_imported_nor_called(tmp_path: Path, module: str, name: str) -> None:
    target = named(module, name)
    body = call(target, push("touch x")) + push({"state": 1}) + pickle.BUILD
    body += push("key") + push("value") + pickle.SETITEM
    loaded = torch_files.load(write_archive(tmp_path / "a.pt", body))
    assert isinstance(loaded, Record)
    assert (loaded.name, loaded.args, loaded.state) == (f"{module}.{name}", ("touch x",), {"state": 1})
    assert loaded.items == [("key", "value")]


def test_records_and_classes_can_be_dictionary_keys(tmp_path: Path) -> None:
    kind = named("pytorch_lightning.callbacks", "Timer")
    body = push({}) + kind + push(1) + pickle.SETITEM + call(kind) + push(2) + pickle.SETITEM
    loaded = torch_files.load(write_archive(tmp_path / "a.pt", body))
    assert loaded[Reference("pytorch_lightning.callbacks.Timer")] == 1
    assert sorted(loaded.values()) == [1, 2]


def test_attributes_set_on_live_objects_change_nothing(tmp_path: Path) -> None:
    state = push((None, {"make": 1, "__class__": 2, "__code__": 3, "name": "os.system"}))
    for target in (
        named("collections", "OrderedDict"),
        named("torch._utils", "_rebuild_tensor_v2"),
        tensor(),
        push([]),
    ):
        torch_files.load(write_archive(tmp_path / "a.pt", target + state + pickle.BUILD))
    assert_same(
        torch_files.load(write_archive(tmp_path / "a.pt", tensor())), np.arange(6, dtype=np.float32).reshape(2, 3)
    )


HUGE = call(named("builtins", "range"), push(10**13))
UNREASONABLE = {
    "list of a range": call(named("builtins", "list"), HUGE),
    "set of a range": call(named("builtins", "set"), HUGE),
    "tuple of a range": call(named("torch", "Size"), HUGE),
    "dict of a range": call(named("collections", "OrderedDict"), HUGE),
    "arguments are a range": named("argparse", "Namespace") + HUGE + pickle.REDUCE,
    "shape is a range": call(
        named("torch._utils", "_rebuild_tensor_v2"), storage(), push(0), HUGE, HUGE, push(False), push({})
    ),
    "zeros": call(named("builtins", "bytes"), push(10**13)),
    "bytearray of zeros": call(named("builtins", "bytearray"), push(10**13)),
    "deep key": push({}) + b"(" * 100_000 + b"t" * 100_000 + push(1) + pickle.SETITEM,
    "call of a list": push([]) + push(()) + pickle.REDUCE,
    "call of an inert object": call(call(named("torch.nn", "Module"))),
    "text that is too long": pickle.BINUNICODE8 + (2**62).to_bytes(8, "little") + b"x",
    "extension": pickle.EXT1 + b"\x01",
    "unknown instruction": b"\xff",
    "empty stack": pickle.REDUCE,
    "no mark": pickle.TUPLE,
    "unknown memo": pickle.BINGET + b"\x07",
    "tensor on nothing": tensor(data=push(None)),
    "unknown persistent id": push(("module", 1)) + pickle.BINPERSID,
    "integer of a million digits": b"I" + b"9" * 1_000_000 + b"\n",
}


@pytest.mark.parametrize("body", UNREASONABLE.values(), ids=UNREASONABLE.keys())
def test_unreasonable_pickles_are_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(CheckpointError, match="damaged") as caught:
        torch_files.load(write_archive(tmp_path / "a.pt", body))
    assert "\n" not in str(caught.value)


def test_deep_nesting_and_high_memo_numbers_are_harmless(tmp_path: Path) -> None:
    body = b"]" * 100_000 + b"a" * 99_999 + pickle.LONG_BINPUT + b"\xff\xff\xff\xff"
    assert isinstance(torch_files.load(write_archive(tmp_path / "a.pt", body)), list)


BAD_TENSORS = [
    {"shape": (2, 4), "stride": (4, 1)},
    {"offset": 1},
    {"offset": -1},
    {"offset": 1.5},
    {"shape": (-2, 3)},
    {"stride": (-3, 1)},
    {"shape": (2,)},
    {"shape": (2.0, 3)},
    {"shape": (True, 3)},
    {"shape": 3, "stride": 1},
    {"shape": (10**12, 10**12), "stride": (0, 0)},
    {"shape": (10**6, 10**6), "stride": (0, 0)},
    {"shape": (0, 10**30), "stride": (1, 1)},
    {"shape": (1,) * 40, "stride": (1,) * 40},
    {"shape": (10**4000,), "stride": (1,)},
    {"data": storage(count=-1)},
    {"data": storage(count="6")},
    {"data": storage(count=10**20)},
    {"data": storage(count=7)},
    {"data": storage(kind=named("torch", "DoubleStorage"))},
    {"data": storage(kind=push("torch.FloatStorage"))},
    {"data": storage(kind=named("torch", "QInt8Storage"))},
]


@pytest.mark.parametrize("changes", BAD_TENSORS, ids=lambda changes: repr(changes)[:60])
def test_tensors_that_do_not_fit_their_storage_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        torch_files.load(write_archive(tmp_path / "a.pt", tensor(**changes)))


@pytest.mark.parametrize("changes", [{"offset": 5, "shape": (), "stride": ()}, {"offset": 6, "shape": (0, 3)}])
def test_tensors_that_just_fit_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    loaded = torch_files.load(write_archive(tmp_path / "a.pt", tensor(**changes)))
    assert loaded.read().tolist() == ([] if 0 in changes["shape"] else 5.0)


def test_a_missing_storage_is_named(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", tensor(data=storage(key="7")))
    with pytest.raises(CheckpointError, match=r"a\.pt is incomplete: it has no record data/7"):
        torch_files.load(path)


# --- Damaged files


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointError, match="no such file"):
        torch_files.load(path)
    with pytest.raises(CheckpointError, match="is a directory"):
        torch_files.load(tmp_path)
    for content, message in [
        (b"", "is empty"),
        (b"hello", "is not a PyTorch zip archive"),
        (pickle.dumps({"a": 1}), "is not a PyTorch zip archive"),
        (b"PK\x03\x04", "truncated or damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            torch_files.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"is not a PyTorch zip archive: it has no record data\.pkl"):
        torch_files.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript"):
        torch_files.load(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = write_archive(tmp_path / "whole.pt", tensor()).read_bytes()
    path = tmp_path / "a.pt"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_all(torch_files.load(path))


def test_changed_values_are_noticed_unless_checksums_were_not_computed(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", tensor())
    entry = torch_files.load(path).storage.entry
    content = bytearray(path.read_bytes())
    content[entry.start] ^= 1
    path.write_bytes(content)
    lazy = torch_files.load(path)
    with pytest.raises(CheckpointError, match="checksum"):
        lazy.read()
    # torch.serialization.set_crc32_options(False) writes zeros.
    path.write_bytes(bytes(content).replace(entry.crc32.to_bytes(4, "little"), bytes(4)))
    assert torch_files.load(path).read().shape == (2, 3)


def test_a_file_that_shrinks_after_loading_is_noticed(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", tensor())
    lazy = torch_files.load(path)
    os.truncate(path, lazy.storage.entry.start + 3)
    with pytest.raises(CheckpointError, match="truncated"):
        lazy.read()
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        lazy.read()


def refusal(path: Path) -> str | None:
    """The message that loading and reading everything ends with, if it is refused."""
    try:
        read_all(torch_files.load(path))
    except CheckpointError as error:
        return str(error)
    return None


def assert_clear(message: str | None, path: Path) -> None:
    assert message is None or (message.startswith(str(path)) and "\n" not in message)


@given(st.integers(min_value=0), st.sampled_from([MODEL, TRAINING_STATE]))
def test_damaged_archives_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int, source: Path
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.pt"
    path.write_bytes(mutate(source.read_bytes(), seed))
    assert_clear(refusal(path), path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_damaged_pickles_load_or_are_refused(tmp_path: Path) -> None:
    outcomes = []
    for source, seed in itertools.product([MODEL, TRAINING_STATE], range(200)):
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(tmp_path / "a.pt", "w") as copy:
            for name in archive.namelist():
                content = archive.read(name)
                copy.writestr(name, mutate(content, seed) if name.endswith("data.pkl") else content)
        outcomes.append(refusal(tmp_path / "a.pt"))
        assert_clear(outcomes[-1], tmp_path / "a.pt")
    assert 25 < outcomes.count(None) < 375  # the changes are neither all harmless nor all fatal
