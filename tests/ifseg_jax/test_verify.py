"""`verify` with files of OFA's format: a sound one, and what is wrong with others in the line where it belongs."""

import dataclasses

import jax
import numpy as np
import pytest

import ifseg_jax
from ifseg_jax import checkpoint, official, transformer
from ifseg_jax.config import SIZES
from ifseg_jax.prompt import PROMPT, UNKNOWN
from ifseg_jax.verification import KNOWN, LABELS, VERIFICATION
from tests import byte_pairs, micro
from tests.commands import Commands
from vlseg import torch_files, verification
from vlseg.checkpoints.directory import Weights
from vlseg.errors import VocabularyError
from vlseg.verification import Check

commands = Commands("ifseg_jax")

# 32 pixels a token, so that the photograph has few of them.
CONFIG = dataclasses.replace(
    micro.IFSEG, resnet_stages=(1, 1, 1, 1), vocabulary_size=SIZES["ofa_base"].vocabulary_size, token_bucket=64
)
PIECES = {"Ġsegment": 2835, "ation": 1258, "?": 116, ":": 35, "Ġimage": 2274, "Ġobject": 7626}
PIECES |= {"Ġarm": 3124, "chair": 13599, "Ġbath": 11824, "tub": 30326, "Ġbook": 1040, "case": 11173}
SPLIT = {"segmentation", "image?", "object:", "armchair", "bathtub", "bookcase"}


@pytest.fixture(scope="module")
def state():
    variables = jax.tree.map(np.asarray, micro.variables(checkpoint.parameter_shapes(CONFIG)))
    state = official.to_official(Weights(variables), CONFIG)
    copies = {"decoder.embed_tokens.weight": state[official.WORDS]}
    return state | copies | {"encoder.version": np.array([3.0], np.float32)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    pieces = dict(PIECES)
    for text, ids in KNOWN.items():
        words = [word for word in text.split() if word not in SPLIT]
        if len(words) == len(ids):
            pieces |= {f"Ġ{word}": index for word, index in zip(words, ids, strict=True)}
    pieces |= {"Ġwhat": 99, "Ġis": 16, "Ġthe": 5, "Ġmap": 5456, "Ġof": 9}
    return byte_pairs.write_dictionary(tmp_path_factory.mktemp("bpe"), pieces)


def save(path, state):
    torch_files.save(path, {"model": state, "args": None})
    return path


def marked(found, mark):
    return {what for what, (one, _) in found.items() if one == mark}


def test_a_sound_file(state, tokenizer, tmp_path, capsys):
    path, picture = save(tmp_path / "a.pt", state), tmp_path / "picture.png"
    code, found = commands.screen(capsys, f"--checkpoint={path}", f"--tokenizer={tokenizer}", f"--out={picture}")
    assert code == 0, found
    assert marked(found, "-") == {"SHA-256", "picture", "time"}
    assert marked(found, "yes") == {
        *("file", "names and shapes", "finite values", "plausible values", "converted and back", "tokens"),
        *("ResNet, first block", "encoder, first layer", "decoder, first layer", "photograph"),
    }
    assert "(1 carried along, 1 tied copies)" in found["names and shapes"][1]
    assert f"of {len(KNOWN)} known texts" in found["tokens"][1]
    assert "person" in found["photograph"][1] and "wall" in found["photograph"][1]
    assert picture.stat().st_size > 10_000 and str(picture) in found["picture"][1]


def test_a_number_that_is_none_and_the_tokenizer_of_another_model(state, tmp_path, capsys):
    positions = state["decoder.embed_image_positions.weight"].copy()
    positions[3, 4:7] = np.nan
    path = save(tmp_path / "a.pt", state | {"decoder.embed_image_positions.weight": positions})
    other = byte_pairs.write_dictionary(tmp_path / "bpe", {"Ġcat": 4758, "Ġperson": 622})
    code, found = commands.screen(capsys, f"--checkpoint={path}", f"--tokenizer={other}")
    assert code == 1 and marked(found, "no") == {"finite values", "tokens"}, found
    assert "3 in params/decoder/image_positions" in found["finite values"][1]


@pytest.fixture
def quick(monkeypatch):
    """`verify` without the comparisons of layers, and a photograph that is not segmented."""
    monkeypatch.setattr(type(VERIFICATION), "layers", lambda self, model: iter(()))
    monkeypatch.setattr(verification, "of_photograph", lambda subject, out: words_of(subject))


def words_of(subject):
    yield Check(True, "photograph", str(subject.model.words(subject.labels).prompt_ids))


def test_without_a_tokenizer_nothing_fails(state, quick, tmp_path, capsys):
    """The photograph is asked for by recorded ids. A tokenizer that is given must work."""
    path = save(tmp_path / "a.pt", state)
    code, found = commands.screen(capsys, f"--checkpoint={path}")
    assert code == 0 and marked(found, "-") == {"SHA-256", "tokens"}, found
    assert "not compared" in found["tokens"][1] and "encoder.json" in found["tokens"][1]
    assert found["photograph"] == ("yes", str((0, *KNOWN[PROMPT], *(KNOWN[one][0] for one in (*LABELS, UNKNOWN)), 2)))
    code, found = commands.screen(capsys, f"--checkpoint={path}", f"--tokenizer={tmp_path / 'absent'}")
    assert code == 1 and marked(found, "no") == {"tokens"}, found


def test_another_prompt_needs_a_tokenizer(state, tokenizer, quick, tmp_path, capsys):
    ifseg_jax.load(save(tmp_path / "a.pt", state), prompt_prefix="a map").save(tmp_path / "model")
    given = f"--checkpoint={tmp_path / 'model'}"
    code, found = commands.screen(capsys, given)
    assert code == 0 and {"tokens", "photograph"} <= marked(found, "-"), found
    assert "--tokenizer=DIRECTORY" in found["photograph"][1]
    code, found = commands.screen(capsys, given, f"--tokenizer={tokenizer}")
    assert code == 0 and {"tokens", "photograph"} <= marked(found, "yes"), found
    assert str(KNOWN[PROMPT][0]) not in found["photograph"][1].split(", ")


def test_a_table_that_is_not_used_has_a_line(state, quick, tmp_path, capsys):
    table = {"decoder.seg_projection.weight": np.ones((3, CONFIG.width), np.float32)}
    code, found = commands.screen(capsys, f"--checkpoint={save(tmp_path / 'a.pt', state | table)}")
    assert code == 0 and found["category table"][0] == "-" and "a table of 3 categories" in found["category table"][1]


def test_a_missing_tokenizer_is_a_line_that_says_how_to_get_one():
    with pytest.raises(VocabularyError, match=r"--tokenizer=DIRECTORY.*encoder\.json"):
        VERIFICATION.tokens(ifseg_jax.IFSeg(CONFIG, {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.layers.1.fc2.bias": None}, "missing: decoder.layers.1.fc2.bias"),
        ({"decoder.layers.1.fc2.bias": np.ones(3, np.float32)}, "decoder.layers.1.fc2.bias is [3] instead of [32]"),
        ({"stranger": np.ones(3, np.float32)}, "not known: stranger"),
    ],
)
def test_parameters_of_another_model(state, tmp_path, capsys, change, message):
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    code, found = commands.screen(capsys, f"--checkpoint={save(tmp_path / 'a.pt', changed)}")
    assert (code, list(found)) == (1, ["file", "SHA-256", "names and shapes"])
    assert found["names and shapes"][0] == "no" and message in found["names and shapes"][1]


def test_a_web_page(tmp_path, capsys):
    (tmp_path / "ofa_base.pt").write_text("<!doctype html><html>not found</html>")
    code, found = commands.screen(capsys, f"--checkpoint={tmp_path / 'ofa_base.pt'}")
    assert code == 1 and marked(found, "no") == {"names and shapes"}


def test_no_file_is_wrong_use(tmp_path, capsys):
    assert "no such checkpoint" in commands.refusal(capsys, "verify", f"--checkpoint={tmp_path / 'absent.pt'}")


def test_the_bundled_model(capsys):
    code, found = commands.screen(capsys)
    assert code == 0 and {"SHA-256", "tokens"} <= marked(found, "-"), found
    assert "words of its own" in found["tokens"][1]


def test_layers_that_compute_something_else_are_seen(micro_model, monkeypatch):
    scale = transformer.score_scale
    monkeypatch.setattr(transformer, "score_scale", lambda config: 1.001 * scale(config))
    resnet, encoder, decoder = VERIFICATION.layers(micro_model)
    assert (resnet.passed, encoder.passed, decoder.passed) == (True, False, False)
