"""Names behind the names of wrappers, and modules that the model does not have."""

import logging

import pytest

from vlseg.checkpoints.state_dicts import modules_of, report, unwrapped, without_extras
from vlseg.errors import CheckpointError

NAMES = ["stem.weight", "layers.0.weight", "layers.1.weight"]
STATE = {name: index for index, name in enumerate(NAMES)}


def prefixed(prefix):
    return {f"{prefix}{name}": value for name, value in STATE.items()}


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        *((prefix, prefix) for prefix in ("module.", "model.", "net.", "module.model.", "model.backbone.")),
        ("module._orig_mod.net.", "module.net."),
        ("_orig_mod.module.", "module."),
    ],
)
def test_prefixes_are_taken_off(prefix, said):
    found = unwrapped(prefixed(prefix) | {"criterion.weight": 9}, ["stem.weight"])
    assert (found.tensors, found.prefix, found.left_out) == (STATE, said, ("criterion.weight",))


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_names_without_a_prefix_stay(prefix):
    found = unwrapped(prefixed(prefix) | {"criterion.weight": 9}, ["stem.weight"])
    assert (found.tensors, found.prefix, found.left_out) == (STATE | {"criterion.weight": 9}, "", ())


def test_compiled_and_sharded_parts_of_a_model():
    state = {
        "stem._orig_mod.weight": 0,
        "layers._fsdp_wrapped_module.0.weight": 1,
        "layers.1._checkpoint_wrapped_module.weight": 2,
    }
    assert unwrapped(state, ["stem.weight"]).tensors == STATE
    with pytest.raises(CheckpointError, match="the same name"):
        unwrapped(state | {"stem.weight": 3}, ["stem.weight"])


def test_a_prefix_of_something_else_stays():
    state = prefixed("encoder_k.")
    assert unwrapped(state, ["stem.weight"]).tensors == state


def test_two_models_in_one_file():
    with pytest.raises(CheckpointError, match=r"several models, under model\. and net\.; keep one"):
        unwrapped(prefixed("model.") | prefixed("net."), ["stem.weight"])
    both = unwrapped(STATE | prefixed("module."), ["stem.weight"]).tensors
    kept, left_out = without_extras(both, modules_of(NAMES))
    assert kept == STATE and left_out == tuple(prefixed("module."))


@pytest.mark.parametrize(
    "name",
    [
        "head.weight",
        "fc2.bias",
        "aux_classifier.0.weight",
        "auxlayer.conv.weight",
        "layers.0.aux_head.weight",
        "decode_head.conv_seg.weight",
        "classification_heads.a.dense.weight",
        "ema_model.layers.0.weight",
        "criterion.weight",
        "projection_head.0.weight",
        "text_head.weight",
        "fc_norm.weight",
    ],
)
def test_extra_modules_are_left_out(name):
    kept, left_out = without_extras(STATE | {name: 5}, modules_of(NAMES))
    assert kept == STATE and left_out == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.gamma",
        "layers.2.weight",
        "norm_pre.weight",
        "dist_token",
        "stem.bn.weight",
        "blocks.0.weight",
        "multihead_attn.bias",
    ],
)
def test_what_could_be_a_part_of_the_computation_stays(name):
    kept, left_out = without_extras(STATE | {name: 5}, modules_of(NAMES))
    assert name in kept and not left_out


def test_what_was_done_is_said_in_one_line(caplog):
    caplog.set_level(logging.INFO, logger="vlseg")
    report("a.pt", "module.", ["fc.weight", "fc.bias", "queue.x"], ["optimizer"])
    report("a.pt", "net.", [], [], usual="net.")
    report("a.pt", "net.", [], ["optimizer_states"], usual="net.")
    report("a.pt", "", [], ["ema"])
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            "a.pt: names are read without their prefix 'module.'; left out: fc (2 tensors), queue (1 tensor), the "
            "entry 'optimizer'",
        ),
        ("INFO", "a.pt: left out: the entry 'optimizer_states'"),
        ("WARNING", "a.pt: left out: the entry 'ema'"),
    ]
