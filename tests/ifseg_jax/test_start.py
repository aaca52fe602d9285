"""How a run starts from published weights: what is told before anything is fetched, and what is fetched, once."""

import dataclasses
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ifseg_jax import checkpoint, weights
from ifseg_jax.config import SIZES, OFAConfig
from ifseg_jax.prompt import PROMPT, UNKNOWN
from tests import byte_pairs, micro
from tests.commands import NAMES, ROOT, Commands, files_in, labelled_folder
from vlseg import labels, settings, torch_files
from vlseg.checkpoints.directory import Stored, Weights
from vlseg.checkpoints.download import WeightFile

commands = Commands("ifseg_jax")
CONFIG = "--config=configs/coco.py"
START = ("--config.checkpoint=ofa_tiny", "--config.adaptation.image_size=64")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path, b"<html>not found</html>")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


SMALL = dataclasses.replace(micro.IFSEG, vocabulary_size=OFAConfig.vocabulary_size, max_positions=1024)
"""With OFA's vocabulary."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Where published files are, instead of the network: a tokenizer, and a page in place of the weights."""
    folder = byte_pairs.write_dictionary(tmp_path / "published", {"Ġhouse": 300, "Ġtree": 301})
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.files = {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}
        url = f"http://127.0.0.1:{server.server_address[1]}"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("VLSEG_CACHE", str(tmp_path / "cache"))
        monkeypatch.setitem(SIZES, "ofa_tiny", SMALL)  # whose shapes are found at once
        monkeypatch.setitem(weights.WEIGHTS, "ofa_tiny", WeightFile(f"{url}/ofa_tiny.pt"))
        for name, file in weights.TOKENIZER.items():
            monkeypatch.setitem(weights.TOKENIZER, name, WeightFile(f"{url}/{file.url.rpartition('/')[2]}"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_documented_command_needs_no_other_flag(server, tmp_path, monkeypatch):
    """On one host: what it wants is fetched, once, and what comes of it needs no tokenizer to be named."""
    texts = " ".join((PROMPT, UNKNOWN, *labels.load("coco_stuff_171")))
    words = dict.fromkeys(word for text in texts.split() for word in (text, text.lower()))
    folder = byte_pairs.write_dictionary(tmp_path / "words", {f"Ġ{word}": 300 + n for n, word in enumerate(words)})
    arrays = jax.tree.map(np.asarray, micro.variables(checkpoint.parameter_shapes(SMALL)))
    checkpoint.write_official(tmp_path / "weights.pt", Stored(SMALL, Weights(arrays)))
    server.files = {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}
    server.files["/ofa_tiny.pt"] = (tmp_path / "weights.pt").read_bytes()
    monkeypatch.setitem(weights.WEIGHTS, "ofa_base", weights.WEIGHTS["ofa_tiny"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    short = ("--config.adaptation.steps=1", "--config.adaptation.batch_size=1")
    assert commands.output("train", CONFIG, *short).endswith("wrote runs/coco/model\n")
    assert server.asked == ["/encoder.json", "/vocab.bpe", "/dict.txt", "/ofa_tiny.pt"]
    picture = labelled_folder(tmp_path / "folder", 1) / "images/0.jpg"
    commands.output("predict", "--checkpoint=runs/coco/model", f"--images={picture}", "--short_side=40", "--out=out")
    assert commands.output("convert", "--checkpoint=runs/coco/model", "--out=coco.pt") == "wrote coco.pt\n"
    commands.output("export", "--checkpoint=runs/coco/model", "--format=official", "--out=exported.pt")
    found, expected = (torch_files.load_state_dict(tmp_path / name) for name in ("coco.pt", "exported.pt"))
    assert found.keys() == expected.keys() and set(checkpoint.CATEGORY_TABLES) <= found.keys()
    for name in found:
        np.testing.assert_array_equal(found[name].read(), expected[name].read())
    assert len(server.asked) == 4


def in_another_run(workdir):
    """Of an older version, which left no inputs.json."""
    workdir.mkdir()
    config = settings.load("configs/coco.py")
    config.checkpoint, config.adaptation.image_size, config.categories = "ofa_tiny", 64, "cat,grass"
    (workdir / "config.json").write_text(config.to_json())


MISTAKES = {
    "no effect": (["--config.loading.workers=2"], "config.loading.workers=2 has no effect in image_free training"),
    "names": (["--config.categories=absent.txt"], "absent.txt: no such file of category names"),
    "tokenizer": (["--config.tokenizer=absent"], "no tokenizer directory absent"),
    "empty tokenizer": (["--config.tokenizer=configs"], "holds no tokenizer"),
    "data": (["--config.mode=supervised", "--config.data.source=absent"], "absent"),
    "no data": (["--config.mode=supervised"], "a supervised run needs images"),
    "other data": (
        ["--config.mode=supervised", "--config.data.source=FOLDER", "--config.categories=cat,dog"],
        "categories",
    ),
    "evaluation": (["--config.evaluation.source=absent"], "absent"),
    "validation": (["--config.validation.source=absent", "--config.validation.every=1"], "absent"),
    "devices": (["--config.mesh=data=3"], "mesh 'data=3' asks for 3 devices"),
    "size": (["--config.adaptation.image_size=65"], "image_size 65 is not a multiple of"),
    "inference": (["--config.inference.short_side=0"], "config.inference.short_side is 0"),
    "schedule": (["--config.profile=x"], "config.profile 'x' is not like"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_anything_is_fetched(mistake, server, tmp_path, capsys):
    flags, message = MISTAKES[mistake]
    folder = labelled_folder(tmp_path / "folder", 1)
    flags = [flag.replace("FOLDER", str(folder)) for flag in flags]
    line = commands.refusal(capsys, "train", CONFIG, f"--workdir={tmp_path / 'run'}", *START, *flags)
    assert message in line
    assert server.asked == [] and not (tmp_path / "run").exists()


def test_places_that_cannot_be_are_told_before_anything_is_fetched(server, tmp_path, capsys, monkeypatch):
    def line(workdir):
        return commands.refusal(capsys, "train", CONFIG, f"--workdir={workdir}", *START)

    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    in_another_run(tmp_path / "other")
    assert "cannot make the working directory" in line(tmp_path / "file")
    assert "is a file, not a directory" in line(tmp_path / "file/run")
    assert "is a link to nowhere" in line(tmp_path / "link")
    assert 'categories was "cat,grass" and is "coco_stuff_171" now' in line(tmp_path / "other")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    found = line(tmp_path / "run")
    assert "3 checkpoints of" in found and "1.0 MB are free: make room" in found
    assert server.asked == []


def test_the_tokenizer_is_fetched_once_and_before_the_weights(server, tmp_path, capsys):
    def line(*flags):
        server.asked.clear()
        workdir = f"--workdir={tmp_path / 'run'}"
        return commands.refusal(
            capsys, "train", CONFIG, workdir, *START, f"--config.categories={','.join(NAMES)}", *flags
        )

    assert "a web page came instead of the file" in line()
    assert server.asked == ["/encoder.json", "/vocab.bpe", "/dict.txt", "/ofa_tiny.pt"]
    assert {"encoder.json", "vocab.bpe", "dict.txt"} <= files_in(tmp_path / "cache/BPE")
    assert "a web page came" in line() and server.asked == ["/ofa_tiny.pt"]
    names = ",".join(f"house {number}" for number in range(600))
    assert "the model reads at most 1024" in line(f"--config.categories={names}") and server.asked == []
