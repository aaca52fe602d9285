"""Fields of settings as flags and as sections of a configuration, and settings in JSON."""

import dataclasses
import json

import pytest

from ifseg_jax import Inference
from vlseg import overrides, settings
from vlseg.checks import check_numbers
from vlseg.errors import ConfigError
from vlseg.evaluation.crf import CRF
from vlseg.evaluation.sliding_window import Scheme


@dataclasses.dataclass(frozen=True)
class Inner:
    """What lies within.

    Attributes:
        depth: how far down it goes, in
            metres.
        sizes, count: of all. wide: whether so.
    """

    depth: float = 1.0
    sizes: tuple[float, ...] = (1.0,)
    count: int = 3
    wide: bool = False

    def __post_init__(self):
        check_numbers(self, "count", whole=True)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    side: int = 8


def test_fields_have_what_the_docstring_says():
    found = overrides.fields(Outer)
    assert list(found) == ["inner_depth", "inner_sizes", "inner_count", "inner_wide", "side"]
    assert found["inner_depth"] == (("inner", "depth"), float, "how far down it goes, in metres.")
    assert found["inner_sizes"].text == found["inner_count"].text == "of all."
    assert found["inner_wide"] == (("inner", "wide"), bool, "whether so.")
    assert found["side"] == (("side",), int, "")


def test_every_setting_of_inference_is_explained():
    for kind in (Inference, Scheme):
        assert all(text for _, _, text in overrides.fields(kind).values())


def test_a_section_changes_what_is_set_in_it():
    section = overrides.section(Outer)
    assert section.to_dict() == {
        "inner": {"depth": None, "sizes": None, "count": None, "wide": None},
        "side": None,
    }
    start = Outer(Inner(depth=2.0, count=5), side=9)
    assert overrides.changed(start, section, "config.seen.") == start
    section.inner.sizes, section.inner.wide = (0.5, 2.0), True
    expected = Outer(Inner(2.0, (0.5, 2.0), 5, True), 9)
    assert overrides.changed(start, section, "config.seen.") == expected
    assert overrides.value(expected, "inner_count") == 5
    with pytest.raises(TypeError):
        section.inner.count = "many"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"count": -1}}, "config.seen.inner.count is -1; it must be 0 or more"),
        ({"inner": {"colour": 1}}, "config.seen.inner.colour: no such setting; there are depth, sizes, count, wide"),
        ({"outer": 1}, "config.seen.outer: no such setting; there are inner, side"),
    ],
)
def test_values_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        overrides.changed(Outer(), values, "config.seen.")


def test_settings_without_effect():
    """They are refused where they are given, and stay where they are stored."""
    for values, where, between, message in (
        ({"crf": {"exact": True}}, "config.seen.", ".", "config.seen.crf.exact .* config.seen.crf.iterations is 0"),
        ({"crf": {"iterations": 0, "exact": True}}, "--", "_", "--crf_exact .* crf_iterations is 0: give --crf_iter"),
        ({"knn_iterations": 0, "knn_k": 3}, "--", "_", "--knn_k has no effect, because knn_iterations is 0: give --k"),
    ):
        with pytest.raises(ConfigError, match=f"^{message}"):
            overrides.changed(Inference(), values, where, between)
    kept = overrides.changed(Inference(knn_k=7, crf=CRF(3, exact=True)), {"crf": {"iterations": 0}}, "--", "_")
    assert kept == Inference(knn_k=7, crf=CRF(exact=True))


def test_which_settings_are_set_and_stored():
    section = overrides.section(Outer)
    assert overrides.set_in(Outer, section) == {}
    section.inner.wide, section.inner.count = False, 0
    assert overrides.set_in(Outer, section) == {"inner_count": 0, "inner_wide": False}
    assert overrides.stored(Outer(Inner(depth=1, wide=True))) == {"inner_wide": True}
    assert overrides.stored(Inference(knn_k=7, knn_iterations=0, crf=CRF(exact=True))) == {"knn_iterations": 0}
    found = overrides.stored(Inference(knn_k=7, crf=CRF(3, exact=True)))
    assert overrides.shown(found) == "knn_k 7, crf_iterations 3, crf_exact True"


@pytest.mark.parametrize(
    "seen",
    [Inference(knn_k=5, crf=CRF(10, colour_deviation=5.0)), Scheme(scales=(0.5, 2.0), flip=True, crf=CRF(exact=True))],
)
def test_settings_survive_json(seen):
    stored = json.loads(json.dumps(dataclasses.asdict(seen)))
    assert settings.read(type(seen), stored, "inference") == seen
    # What was written before there was a CRF has none.
    assert settings.read(type(seen), {k: v for k, v in stored.items() if k != "crf"}, "inference").crf == CRF()
    with pytest.raises(ConfigError, match=r"^inference.crf has no setting colour; there are iterations"):
        settings.read(type(seen), {"crf": {"colour": 3}}, "inference")
    with pytest.raises(ConfigError, match=r"^inference.crf.iterations is -1"):
        settings.read(type(seen), {"crf": {"iterations": -1}}, "inference")
