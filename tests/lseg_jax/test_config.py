"""Configurations as plain values, and those that cannot be."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lseg_jax.config import (
    ACTIVATIONS,
    BLOCKS,
    DTYPES,
    REMAT,
    LSegConfig,
    ResNetConfig,
    SentenceConfig,
    TextConfig,
    ViTConfig,
)
from vlseg.errors import ConfigError

SIZES = st.integers(1, 2000)
FOURS = st.tuples(SIZES, SIZES, SIZES, SIZES)


@st.composite
def transformers(draw, kind, **fields):
    heads = draw(st.integers(1, 20))
    return kind(width=heads * draw(st.integers(1, 64)), heads=heads, **{key: draw(of) for key, of in fields.items()})


TEXTS = transformers(TextConfig, layers=SIZES, features=SIZES, context=SIZES, vocabulary=SIZES)
VITS = transformers(
    ViTConfig, patch=st.sampled_from([8, 16, 32]), layers=SIZES.map(lambda n: 4 * n), grid=SIZES, reassembled=FOURS
)


@st.composite
def configurations(draw):
    block = draw(st.sampled_from(BLOCKS))
    return LSegConfig(
        text=draw(TEXTS | st.builds(SentenceConfig, SIZES)),
        image=draw(VITS | st.builds(ResNetConfig, FOURS, SIZES)),
        features=draw(SIZES),
        block=block,
        block_depth=0 if block == "none" else draw(SIZES),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        template=draw(st.sampled_from(["{}", "a photo of {}."])),
        dtype=draw(st.sampled_from(DTYPES)),
        remat=draw(st.sampled_from(REMAT)),
    )


@given(configurations())
def test_there_and_back(config):
    assert LSegConfig.from_dict(config.to_dict()) == config
    again = LSegConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again) == hash(config)


def test_what_is_left_out_has_its_default():
    assert LSegConfig.from_dict({}) == LSegConfig()
    assert LSegConfig.from_dict({"image": {"layers": 8}}) == LSegConfig(image=ViTConfig(layers=8))
    resnet = LSegConfig.from_dict({"image": {"kind": "resnet"}, "text": {"kind": "minilm"}})
    assert resnet == LSegConfig(SentenceConfig(), ResNetConfig())


def test_another_kind_of_encoder_is_one_setting():
    values = LSegConfig().to_dict()
    values["text"]["kind"], values["image"]["kind"] = "minilm", "resnet"
    assert LSegConfig.from_dict(values) == LSegConfig(SentenceConfig(), ResNetConfig())
    values["image"]["patch"] = 32
    with pytest.raises(ConfigError, match="patch"):
        LSegConfig.from_dict(values)


def test_plain_values():
    assert LSegConfig(SentenceConfig(), ResNetConfig()).to_dict() == {
        "text": {"kind": "minilm", "features": 384},
        "image": {"kind": "resnet", "stages": (3, 4, 23, 3), "width": 64},
        "features": 256,
        "block": "none",
        "block_depth": 0,
        "activation": "lrelu",
        "template": "{}",
        "dtype": "float32",
        "remat": "none",
    }


def test_a_resnet_takes_pixels_as_imagenet_has_them():
    assert (LSegConfig().mean, LSegConfig().deviation) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    resnet = LSegConfig(image=ResNetConfig())
    assert (resnet.mean, resnet.deviation) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": 1}, "colour"),
        ({"text": {"colour": 1}}, "colour"),
        ({"text": {"kind": "bert"}}, "'bert' is none of clip, minilm"),
        ({"text": {"kind": []}}, "model settings"),
        ({"text": {"kind": "minilm", "layers": 2}}, "layers"),
        ({"text": {"width": 100, "heads": 3}}, "width 100 is not a multiple of heads 3"),
        ({"text": {"heads": 0}}, "heads is 0"),
        ({"text": "clip"}, "model settings"),
        ({"text": None}, "model settings"),
        ({"image": {"kind": "swin"}}, "'swin' is none of vit, resnet"),
        ({"image": {"kind": "resnet", "patch": 32}}, "patch"),
        ({"image": {"kind": "resnet", "stages": [1, 1, 1]}}, "3 stages"),
        ({"image": {"kind": "resnet", "stages": [1, 1, 1, 0]}}, "stages is"),
        ({"image": {"kind": "resnet", "stages": 4}}, "model settings"),
        ({"image": {"layers": 6}}, "6 layers"),
        ({"image": {"layers": "24"}}, "layers is '24'"),
        ({"image": {"layers": -4}}, "layers is -4"),
        ({"image": {"patch": 14}}, "patches of 14"),
        ({"image": {"width": 100, "heads": 3}}, "width 100 is not a multiple of heads 3"),
        ({"image": {"reassembled": [1, 2, 3]}}, "3 reassembled levels"),
        ({"image": {"reassembled": [1, 2, 3, 0.5]}}, "reassembled is"),
        *[({"template": template}, "must hold {} once") for template in ("", "a photo", "{} {}", None)],
        ({"features": 0}, "features is 0"),
        ({"features": "256"}, "features is '256'"),
        ({"block": "attention"}, "'attention' is none of"),
        ({"block": "depthwise"}, "depth 0"),
        ({"block": "depthwise", "block_depth": -1}, "depth -1"),
        ({"block": "depthwise", "block_depth": "2"}, "depth 2"),
        ({"block_depth": 1}, "depth 1"),
        ({"activation": "gelu"}, "'gelu' is none of"),
        ({"dtype": "float16"}, "'float16' is none of"),
        ({"remat": "all"}, "'all' is none of"),
        ("model", "model settings"),
        (None, "model settings"),
    ],
)
def test_values_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        LSegConfig.from_dict(values)
    assert "\n" not in str(caught.value)
