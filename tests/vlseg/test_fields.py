"""Values from files, flags and configurations against the fields of dataclasses."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import pytest

from ifseg_jax.config import OFAConfig
from ifseg_jax.settings import Adaptation, Inference, Options
from lseg_jax.config import LSegConfig
from lseg_jax.settings import Training
from vlseg import fields, settings
from vlseg.errors import ConfigError
from vlseg.evaluation.sliding_window import Scheme
from vlseg.fields import Length, Range


@dataclasses.dataclass(frozen=True)
class Inner:
    share: Annotated[float, Range(0, 1, below=True)] = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    needed: str
    count: Annotated[int, Range(1, 9)] = 1
    sizes: Annotated[tuple[Annotated[int, Range(1, 9)], ...], Length(1, 3)] = (1,)
    pair: tuple[float, float] = (0.0, 1.0)
    on: bool = False
    maybe: Annotated[int, Range(1, 9)] | None = None
    inner: Inner = Inner()
    rest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def test_values_become_a_dataclass() -> None:
    values = {"needed": "x", "sizes": [1, 2], "pair": [1, 2.5], "maybe": None, "inner": {"share": 0}, "rest": {"a": 1}}
    assert fields.read(Outer, values, "it") == Outer("x", 1, (1, 2), (1, 2.5), False, None, Inner(0), {"a": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"^it is \[\]; it must hold settings by name"),
        ({}, "^it lacks needed"),
        ({"needed": "x", "colour": 1}, "^it has no setting colour"),
        ({"needed": 5}, "needed is 5; it must be a text"),
        ({"needed": "x", "count": 10}, r"count is 10; it must be in \[1, 9\], an integer"),
        ({"needed": "x", "count": True}, "count is True"),
        ({"needed": "x", "count": 1.0}, "count is 1.0"),
        ({"needed": "x", "count": [1]}, r"count is \[1\]"),
        ({"needed": "x", "count": {"a": 1}}, "count is {'a': 1}"),
        ({"needed": "x", "count": 10**5000}, "thousands of digits"),
        ({"needed": "x", "count": None}, "count is None"),
        ({"needed": "x", "sizes": []}, "sizes has 0 items; it must have 1 to 3"),
        ({"needed": "x", "sizes": [1] * 4}, "sizes has 4 items"),
        ({"needed": "x", "sizes": [1, "2"]}, r"sizes is \(1, '2'\)"),
        ({"needed": "x", "sizes": 3}, "sizes is 3; it must be a list"),
        ({"needed": "x", "pair": [1]}, "pair has 1 items; it must have 2"),
        ({"needed": "x", "pair": [0, float("inf")]}, "finite"),
        ({"needed": "x", "pair": [0, 10**400]}, "finite"),
        ({"needed": "x", "on": 1}, "on is 1; it must be True or False"),
        ({"needed": "x", "maybe": 0}, "maybe is 0"),
        ({"needed": "x", "inner": 3}, "inner is 3; it must hold settings by name"),
        ({"needed": "x", "inner": {"share": 1}}, r"inner.share is 1; it must be in \[0, 1\)"),
        ({"needed": "x", "inner": {"share": float("nan")}}, "inner.share is nan"),
        ({"needed": "x", "rest": [1]}, r"rest is \[1\]"),
    ],
)
def test_values_that_cannot_be(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fields.read(Outer, values, "it")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (OFAConfig, {"encoder_layers": 10**9}),
        (OFAConfig, {"resnet_stages": [1] * 40}),
        (OFAConfig, {"resnet_stages": [10**9]}),
        (OFAConfig, {"image_bucket": 10**6}),
        (OFAConfig, {"prompt_prefix": ["a"]}),
        (OFAConfig, {"full_context_alignment": 1}),
        (Inference, {"short_side": 10**6}),
        (Inference, {"short_side": True}),
        (Inference, {"knn_iterations": 2**31}),
        (Inference, {"crf": {"iterations": [1]}}),
        (Scheme, {"base_size": 10**9}),
        (Scheme, {"crop_size": 2**31}),
        (Scheme, {"base_size": 16000, "crop_size": 32}),
        (Scheme, {"scales": [[1.0]]}),
        (Scheme, {"scales": [1.0] * 1000}),
        (Training, {"crop_size": 2**31}),
        (Training, {"scale_range": [1, 2, 3]}),
        (Adaptation, {"artificial_image_type": "rand_k-1-999999999"}),
        (Adaptation, {"image_size": 2**31}),
        (Adaptation, {"seed": 2**70}),
        (Options, {"query_blocks": 10**9}),
        (Options, {"dropout": float("nan")}),
    ],
)
def test_sizes_that_no_device_has_are_refused_wherever_they_come_from(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        settings.read(kind, values, "config")


@pytest.mark.parametrize(
    "values",
    [{"image": {"layers": 10**9}}, {"image": {"kind": {}}}, {"text": {"vocabulary": 2**40}}, {"features": [256]},
     {"block": ["none"]}, {"image": [1]}, {"block_depth": 10**9, "block": "depthwise"}],
)  # fmt: skip
def test_encoders_that_no_device_holds_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LSegConfig.from_dict(values)
