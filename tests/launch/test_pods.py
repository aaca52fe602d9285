"""The recorded reports of `make pods`, and the document made of them."""

import json
from pathlib import Path

import pytest

from launch import pods

FOLDER = Path(__file__).parent.parent.parent / "docs/pods"


def programs(name):
    found = json.loads((FOLDER / f"{name}.json").read_text())["programs"]
    return {one["program"]: one for one in found}


def exchanged(program, kind):
    return sum(exchange["bytes"] for exchange in program["exchanges"] if exchange["kind"] == kind)


def test_the_document_is_made_of_the_reports_that_are_there():
    assert {path.stem for path in FOLDER.glob("*.json")} == {report.name for report in pods.reports()}
    assert (FOLDER / "README.md").read_text() == pods.document(FOLDER)


def test_a_missing_report_has_no_line(tmp_path):
    (tmp_path / "coco_v5e-8.json").write_text((FOLDER / "coco_v5e-8.json").read_text())
    lines = [line for line in pods.document(tmp_path).splitlines() if "IFSeg" in line or "LSeg" in line]
    assert [line.split(" | ")[:2] for line in lines] == [["| IFSeg, OFA-Base, 171 categories", "v5e-8"]] * 2


def test_what_must_fit_fits():
    assert programs("ifseg_one_chip")["train"]["fits"]
    lseg = programs("lseg_ade20k_v5e-8")["train"]
    assert lseg["fits"] and lseg["images"] == 16


def test_the_model_is_nearly_all_that_is_computed():
    assert programs("ifseg_without_remat")["train"]["model_share"] >= 0.85
    assert programs("lseg_ade20k_v5e-8")["train"]["model_share"] >= 0.85


@pytest.mark.parametrize("model", ["coco", "lseg_ade20k"])
def test_more_chips_are_no_more_work_for_one(model):
    few, many = programs(f"{model}_v5e-8")["train"], programs(f"{model}_v5e-256")["train"]
    for what in ("flops", "bytes"):
        assert many[what] == pytest.approx(few[what], rel=0.01)
    assert exchanged(many, "all-reduce") == pytest.approx(exchanged(few, "all-reduce"), rel=0.01)


@pytest.mark.parametrize("model", ["coco", "lseg_ade20k"])
def test_chips_that_share_a_batch_gather_nothing(model):
    for name in ("v5e-8", "v5e-256"):
        found = programs(f"{model}_{name}")["train"]
        assert {exchange["kind"] for exchange in found["exchanges"]} == {"all-reduce"}


@pytest.mark.parametrize(("model", "moments"), [("coco", 2), ("lseg_ade20k", 1)])
def test_what_is_spread_over_chips_is_not_kept_by_each(model, moments):
    copied, spread = (programs(f"{model}_v5e-8{name}")["train"] for name in ("", "_fsdp"))
    assert spread["state_bytes"] < 0.15 * copied["state_bytes"]
    # Weights in half precision, for the forward pass, for the backward pass, and their gradients.
    weights = copied["state_bytes"] / (1 + moments) / 2
    assert sum(exchange["bytes"] for exchange in spread["exchanges"]) < 4 * weights
