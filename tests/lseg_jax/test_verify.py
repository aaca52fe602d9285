"""`verify` with Lightning's files of LSeg: a sound one, and what is wrong with others in the line where it belongs."""

import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import pytest

from lseg_jax import LSeg, checkpoint, official
from lseg_jax.config import TEXT_VIT, CLIPImageConfig, SentenceConfig
from lseg_jax.encoders import transformer
from lseg_jax.verification import KNOWN, LABELS, VERIFICATION
from tests import byte_pairs, micro
from tests.commands import Commands
from vlseg import torch_files, verification
from vlseg.checkpoints.directory import Weights
from vlseg.errors import VocabularyError
from vlseg.verification import Check

commands = Commands("lseg_jax")

CONFIG = dataclasses.replace(micro.LSEG, text=dataclasses.replace(micro.TEXT, vocabulary=TEXT_VIT.vocabulary))
ALL = {
    *("file", "names and shapes", "finite values", "plausible values", "converted and back", "tokens"),
    *("ViT, first block", "text, first block", "decoder, residual unit", "photograph"),
}


@pytest.fixture(scope="module")
def state():
    variables = jax.tree.map(np.asarray, micro.variables(checkpoint.parameter_shapes(CONFIG)))
    state = official.to_official(Weights(variables), CONFIG)
    state |= {"clip_pretrained.logit_scale": np.array(4.6, np.float32)}
    return {f"net.{name}": value for name, value in state.items()}


def save(path, state):
    torch_files.save(path, {"state_dict": state, "epoch": 3, "hyper_parameters": {"arch_option": 0}})
    return path


def marked(found, mark):
    return {what for what, (one, _) in found.items() if one == mark}


def test_a_sound_file(state, tmp_path, capsys):
    pytest.importorskip("instant_clip_tokenizer")
    code, found = commands.screen(capsys, f"--checkpoint={save(tmp_path / 'a.ckpt', state)}")
    assert code == 0 and marked(found, "yes") == ALL, found
    assert "no block" in found["names and shapes"][1] and "(1 carried along)" in found["names and shapes"][1]
    assert "--out=FILE.png" in found["picture"][1] and "space shuttle" in found["photograph"][1]


def test_what_is_wrong_in_one_file(state, tmp_path, capsys):
    """A kernel of zeros, numbers that are none, and the tokenizer of another model: each in its line."""
    kernel, norm = "net.pretrained.model.blocks.2.mlp.fc1.weight", "net.clip_pretrained.ln_final.bias"
    broken = {kernel: np.zeros_like(state[kernel]), norm: np.full_like(state[norm], np.inf)}
    pieces = [*byte_pairs.alphabet().values()]
    pieces += [f"{piece}</w>" for piece in pieces] + ["<|startoftext|>", "<|endoftext|>"]
    other = byte_pairs.write(tmp_path / "clip", {piece: index for index, piece in enumerate(pieces)}, [])
    path = save(tmp_path / "a.ckpt", state | broken)
    code, found = commands.screen(capsys, f"--checkpoint={path}", f"--tokenizer={other}")
    assert code == 1
    expected = {"plausible values", "finite values", "tokens", "text, first block", "photograph"}
    assert marked(found, "no") == expected, found
    assert "image/layers_2/fc1/kernel deviates by 0" in found["plausible values"][1]
    assert f"{CONFIG.text.width} in params/text/norm/bias" in found["finite values"][1]


def test_a_lost_parameter(state, tmp_path, capsys):
    lost = {name: value for name, value in state.items() if not name.endswith("scratch.head1.bias")}
    code, found = commands.screen(capsys, f"--checkpoint={save(tmp_path / 'a.ckpt', lost)}")
    assert code == 1 and "missing: scratch.head1.bias" in found["names and shapes"][1]


def test_settings_that_cannot_be_used(tmp_path, capsys):
    copy = shutil.copytree(checkpoint.BUNDLED_MODELS["tiny"], tmp_path / "model")
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"labels": "cat"}))
    code, found = commands.screen(capsys, f"--checkpoint={copy}")
    assert code == 1 and found["settings"][0] == "no" and "config.json cannot be used" in found["settings"][1]


def test_the_bundled_model(capsys):
    code, found = commands.screen(capsys)
    assert code == 0 and "a tokenizer of its own" in found["tokens"][1], found


def test_a_missing_tokenizer_is_a_line_that_says_how_to_get_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    with pytest.raises(VocabularyError, match=r"pip install .*tokenizer\.json"):
        VERIFICATION.tokens(LSeg(CONFIG, {}))


def test_without_a_tokenizer_nothing_fails(state, tmp_path, capsys, monkeypatch):
    """The photograph is asked for by recorded ids. A tokenizer that is given must work."""
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    monkeypatch.setattr(type(VERIFICATION), "layers", lambda self, model: iter(()))
    monkeypatch.setattr(verification, "of_photograph", lambda subject, out: asked(subject))
    given = f"--checkpoint={save(tmp_path / 'a.ckpt', state)}"
    code, found = commands.screen(capsys, given)
    assert code == 0 and found["photograph"] == ("yes", str([list(KNOWN[label]) for label in LABELS])), found
    assert found["tokens"][0] == "-" and "not compared" in found["tokens"][1] and "pip install" in found["tokens"][1]
    code, found = commands.screen(capsys, given, f"--tokenizer={tmp_path / 'absent'}")
    assert code == 1 and marked(found, "no") == {"tokens"}, found


def asked(subject):
    yield Check(True, "photograph", str([list(subject.model.tokenizer(label)) for label in subject.labels]))


def test_labels_in_a_template_need_a_tokenizer(monkeypatch):
    model = LSeg(dataclasses.replace(CONFIG, template="a photo of a {}"), {}, tokenizer=lambda text: [1])
    assert VERIFICATION.subject(model).model is model
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    alone = dataclasses.replace(model, tokenizer=None)
    with pytest.raises(VocabularyError, match=r"pip install .*tokenizer\.json"):
        VERIFICATION.subject(alone)
    with pytest.raises(VocabularyError, match="a vocabulary of its own: give its tokenizer"):
        VERIFICATION.subject(dataclasses.replace(alone, config=micro.LSEG))


def test_known_ids_are_those_of_clip():
    pytest.importorskip("instant_clip_tokenizer")
    assert VERIFICATION.tokens(LSeg(CONFIG, {})).found == f"CLIP's ids of {len(KNOWN)} known texts"


def test_layers_of_other_models(micro_resnet, monkeypatch):
    """With a ResNet, without CLIP; and layers that compute something else are seen."""
    sentences = dataclasses.replace(
        micro_resnet, config=dataclasses.replace(micro_resnet.config, text=SentenceConfig())
    )
    assert [(one.what, one.passed) for one in VERIFICATION.layers(sentences)] == [
        ("ResNet, first block", True),
        ("decoder, residual unit", True),
    ]
    monkeypatch.setattr(transformer, "quick_gelu", transformer.exact_gelu)
    _, text, _ = VERIFICATION.layers(micro_resnet)
    assert text.what == "text, first block" and text.passed is False


def test_layers_of_clips_image_tower(micro_model, monkeypatch):
    config = dataclasses.replace(micro.LSEG, image=CLIPImageConfig(16, 64, 1, 4, 3, micro.IMAGE.reassembled))
    model = dataclasses.replace(
        micro_model, config=config, variables=micro.variables(checkpoint.parameter_shapes(config))
    )
    first, *_ = VERIFICATION.layers(model)
    assert (first.what, first.passed) == ("ViT, first block", True)
    normal = CLIPImageConfig.style._replace(activation=transformer.exact_gelu)
    monkeypatch.setattr(CLIPImageConfig, "style", normal)
    first, *_ = VERIFICATION.layers(model)
    assert first.passed is False
