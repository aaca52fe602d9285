"""PyTorch files that would take too long, too much memory or the interpreter with them, and damage in every place."""

import contextlib
import os
import pickle
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.vlseg import torch_files_cases as cases
from tests.vlseg.torch_files_cases import call, named, push, storage, tensor, write_archive
from vlseg import torch_files
from vlseg.errors import CheckpointError
from vlseg.torch_files import Record, Reference, reading, unpickling

FIXTURES = Path(__file__).parent.parent / "fixtures" / "torch"


def read_all(path: Path) -> None:
    for value in torch_files.load_state_dict(path).values():
        value.read()


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message) <= 500 and message.isprintable()
    return message


@pytest.mark.parametrize("body", cases.COSTLY.values(), ids=cases.COSTLY.keys())
def test_costly_pickles_take_no_time(tmp_path: Path, body) -> None:
    path = write_archive(tmp_path / "a.pt", body())
    start = time.monotonic()
    with contextlib.suppress(CheckpointError):
        torch_files.load(path)
    assert time.monotonic() - start < 3


def test_a_pickle_has_only_so_many_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickling, "MAX_INSTRUCTIONS", 1000)
    assert "more than 1000 instructions" in refusal(write_archive(tmp_path / "a.pt", b"N0" * 1000 + b"}"))


def test_the_interpreter_survives_what_it_refuses(tmp_path: Path) -> None:
    """In a process of its own, because slices of slices crash it when they are freed."""
    write_archive(tmp_path / "a.pt", cases.nested_slices(300_000))
    program = (
        "import sys\nfrom vlseg import torch_files\nfrom vlseg.errors import CheckpointError\n"
        "try:\n    torch_files.load(sys.argv[1])\nexcept CheckpointError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.pt"], capture_output=True, text=True, check=True
    )
    assert "a slice whose bounds are no numbers" in done.stdout


# --- Memory


def test_a_compressed_pickle_cannot_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MAX_INFLATED", 1 << 20)
    path = write_archive(tmp_path / "a.pt", b"}" + b"N0" * (1 << 20), zipfile.ZIP_DEFLATED)
    assert "would grow from" in refusal(path)


def test_compressed_zeros_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        one = tensor(shape=(1 << 20,), stride=(1,), data=storage(count=1 << 20))
        archive.writestr("x/data.pkl", b"\x80\x02}" + push("a") + one + b"s.")
        archive.writestr("x/data/0", bytes(4 << 20))
    assert not torch_files.load_state_dict(tmp_path / "a.pt")["a"].read().any()


@pytest.mark.parametrize(
    ("shape", "stride"), [((1 << 27,), (0,)), ((2000, 3), (0, 1)), ((40, 60), (0, 0)), ((1 << 14, 1 << 14), (0, 0))]
)
def test_a_view_is_no_larger_than_its_storage(tmp_path: Path, shape, stride) -> None:
    path = write_archive(tmp_path / "a.pt", b"}" + push("a") + tensor(shape=shape, stride=stride) + b"s")
    assert "on a storage of only 6 elements" in refusal(path)


def test_overlapping_views_are_no_larger_than_their_storage(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        one = tensor(shape=(2000, 2000), stride=(1, 1), data=storage(count=4000))
        archive.writestr("x/data.pkl", b"\x80\x02}" + push("a") + one + b"s.")
        archive.writestr("x/data/0", bytes(16_000))
    assert "on a storage of only 4000 elements" in refusal(tmp_path / "a.pt")


def test_many_views_of_one_storage_are_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        one = tensor(shape=(50_000,), stride=(1,), data=storage(count=50_000))
        views = b"".join(push(str(number)) + one for number in range(100))
        archive.writestr("x/data.pkl", b"\x80\x02}(" + views + b"u.")
        archive.writestr("x/data/0", bytes(200_000))
    assert "its tensors would grow to 20000000 bytes" in refusal(tmp_path / "a.pt")


# --- Damage


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_one_flipped_bit_of_a_record_is_noticed(tmp_path: Path, compression: int) -> None:
    """The checksum is of the record, whatever part of it tensors use."""
    body = b"}" + push("a") + tensor(offset=4, shape=(2,), stride=(1,)) + b"s"
    path = write_archive(tmp_path / "a.pt", body, compression)
    entry = torch_files.load(path)["a"].storage.entry
    content, noticed = path.read_bytes(), 0
    for position in range(entry.start, entry.start + entry.stored_bytes):
        changed = bytearray(content)
        changed[position] ^= 4
        path.write_bytes(changed)
        try:
            # Bits that pad a compressed record change nothing.
            assert torch_files.load(path)["a"].read().tolist() == [4, 5]
        except CheckpointError:
            noticed += 1
    assert noticed >= entry.stored_bytes - (2 if compression else 0)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("source", ["torch_1_9_omegaconf.ckpt", "torch_1_9_module.pt"])
def test_changed_instructions_load_or_are_refused(tmp_path: Path, source: str) -> None:
    refused = []
    for seed in range(60):
        path = cases.with_pickle(FIXTURES / source, tmp_path / "a.pt", seed)
        try:
            read_all(path)
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all(message.startswith(str(path)) and message.isprintable() for message in refused)


def raw_archive(path: Path, names, **changes) -> Path:
    """A zip archive of stored records, byte by byte; `changes` of the second record's entry in the directory."""
    content, directory = b"", b""
    for index, (local, central, data) in enumerate(names):
        start = len(content)
        content += b"PK\x03\x04" + bytes(10) + zlib.crc32(data).to_bytes(4, "little")
        content += 2 * len(data).to_bytes(4, "little") + len(local).to_bytes(2, "little") + bytes(2) + local + data
        own = changes if index == 1 else {}
        directory += b"PK\x01\x02" + bytes(2 + 2) + own.get("flags", 0).to_bytes(2, "little")
        directory += own.get("method", 0).to_bytes(2, "little") + bytes(4) + zlib.crc32(data).to_bytes(4, "little")
        size = own.get("size", len(data))
        directory += 2 * size.to_bytes(4, "little") + len(central).to_bytes(2, "little") + bytes(4)
        directory += own.get("disk", 0).to_bytes(2, "little") + bytes(6) + start.to_bytes(4, "little") + central
    end = b"PK\x05\x06" + bytes(4) + 2 * len(names).to_bytes(2, "little") + len(directory).to_bytes(4, "little")
    path.write_bytes(content + directory + end + len(content).to_bytes(4, "little") + bytes(2))
    return path


PICKLE = b"\x80\x02}" + push("a") + tensor() + b"s."
DATA = np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (b"x/data/0", {"flags": 1}, "encrypted"),
        (b"x/data/0", {"method": 8}, "described in two ways"),
        (b"x/data/0", {"method": 12}, "compressed in an unknown way"),
        (b"x/data/0", {"disk": 1}, "one part of an archive in several"),
        (b"x/data/1", {}, "described in two ways"),
        (b"x/data/0", {"size": 70}, "overlap"),
        (b"x/data/0", {"size": 1 << 20}, "truncated or damaged"),
        (b"x/data/0", {"size": 0xFFFFFFFF}, "damaged"),
    ],
)
def test_archives_that_say_two_things(tmp_path: Path, name, changes, message) -> None:
    last = (b"x/version", b"x/version", b"3\n")
    sound = raw_archive(
        tmp_path / "a.pt", [(b"x/data.pkl", b"x/data.pkl", PICKLE), (b"x/data/0", b"x/data/0", DATA), last]
    )
    assert torch_files.load(sound)["a"].read().ravel().tolist() == list(range(6))
    names = [(b"x/data.pkl", b"x/data.pkl", PICKLE), (b"x/data/0", name, DATA), last]
    assert message in refusal(raw_archive(tmp_path / "a.pt", names, **changes))


@pytest.mark.parametrize("name", [b"x/data/0", b"x/../data/1", b"/x/data/1", b"x\\data\\1", b"x/data/1\0"])
def test_records_of_one_name_and_of_odd_names(tmp_path: Path, name) -> None:
    names = [(b"x/data.pkl", b"x/data.pkl", PICKLE), (b"x/data/0", b"x/data/0", DATA), (name, name, DATA)]
    message = refusal(raw_archive(tmp_path / "a.pt", names))
    assert "several records of one name" in message or "misnamed" in message


def test_files_in_the_place_of_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "is a pipe" in refusal(tmp_path / "pipe.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "nowhere.pt")
    assert "is a link to" in refusal(tmp_path / "link.pt")
    path = tmp_path / "a.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert "Git LFS pointer" in refusal(path)
    path.write_text("\n<!DOCTYPE html><html>sign in</html>")
    assert "HTML page" in refusal(path)
    path.write_bytes(b"sys_info".ljust(257, b"\0") + b"ustar  \0".ljust(300, b"\0"))
    assert "a tar archive, PyTorch's format from before 0.1.10" in refusal(path)


@pytest.mark.parametrize(
    ("maker", "said"),
    [
        ("_rebuild_qtensor", "'a' is quantised, which is not read: save what its dequantize() gives"),
        ("_rebuild_sparse_tensor", "'a' is sparse"),
        ("_rebuild_meta_tensor_no_storage", "'a' is on the device meta"),
        ("_rebuild_of_a_later_version", "'a' is of an unknown kind"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_not_left_out(tmp_path: Path, maker: str, said: str) -> None:
    other = call(named("torch._utils", maker), push(1))
    entries = b"}" + push("a") + other + b"s" + push("b") + tensor() + b"s"
    assert said in refusal(write_archive(tmp_path / "a.pt", entries))
    assert said in refusal(write_archive(tmp_path / "a.pt", b"}" + push("model") + entries + b"s"))


def test_negated_tensors_and_single_ones_are_named(tmp_path: Path) -> None:
    values = [push(value) for value in (0, (2, 3), (3, 1), False, {}, {"neg": True})]
    negated = call(named("torch._utils", "_rebuild_tensor_v2"), storage(), *values)
    message = refusal(write_archive(tmp_path / "a.pt", b"}" + push("a") + negated + b"s"))
    assert "'a' is conjugated or negated on reading" in message
    assert "holds a single tensor" in refusal(write_archive(tmp_path / "a.pt", tensor()))


# --- What would run, and what only stands for something


def test_partials_and_classes_of_ones_own_are_inert(tmp_path: Path) -> None:
    partial = call(named("functools", "partial"), named("my_project.layers", "act"))
    state = named("my_project.layers", "act") + pickle.EMPTY_TUPLE + push({"slope": 0.1}) + b"N"
    items = {
        "partial": partial + b"(" + state + b"t" + pickle.BUILD,
        "own": call(named("my_project.config", "Config"), push(3)),
        "script": named("__main__", "Config") + b")\x81" + push({"lr": 1}) + pickle.BUILD,
        "function": named("my_project.losses", "dice"),
        "optional": call(named("operator", "getitem"), named("typing", "Optional"), named("builtins", "int")),
        "simple": named("types", "SimpleNamespace") + b")\x81" + push({"a": 1}) + pickle.BUILD,
    }
    body = b"}" + b"".join(push(name) + value + b"s" for name, value in items.items())
    loaded = torch_files.load(write_archive(tmp_path / "a.pt", body))
    assert loaded["partial"].name == "functools.partial"
    assert loaded["partial"].args == (Reference("my_project.layers.act"),)
    assert (loaded["own"].name, loaded["own"].args) == ("my_project.config.Config", (3,))
    assert (loaded["script"].name, loaded["script"].state) == ("__main__.Config", {"lr": 1})
    assert loaded["function"] == Reference("my_project.losses.dice")
    assert isinstance(loaded["optional"], Record) and loaded["simple"].state == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        call(named("functools", "partial"), named("os", "system"), push("touch x")),
        call(named("functools", "partial"), push("touch x")),
        call(named("functools", "reduce"), named("my_project", "f"), push([1])),
        call(named("my_project.losses", "dice"), push(1)),
        call(named("operator", "getitem"), push({}), push("a")),
        call(named("builtins", "getattr"), named("my_project", "Config"), push("run")),
        call(named("dill._dill", "_create_function"), push(1)),
        call(named("commands", "getoutput"), push("touch x")),
        call(named("types", "FunctionType"), push(1)),
        named("code", "InteractiveConsole"),
    ],
)
def test_what_would_run_is_refused(tmp_path: Path, body: bytes) -> None:
    assert "could run code" in refusal(write_archive(tmp_path / "a.pt", b"}" + push("a") + body + b"s"))


def test_a_partial_that_is_called_is_refused(tmp_path: Path) -> None:
    partial = call(named("functools", "partial"), named("my_project.layers", "act"))
    assert "a call of something that is not a class" in refusal(write_archive(tmp_path / "a.pt", call(partial)))
