"""A third model is one small folder; tests/vlseg/commands trains it and tries all commands with it."""

import json
import os
from pathlib import Path

import pytest

from tests.commands import ROOT, Commands

CONFIG = f"--config={Path(__file__).with_name('config.py')}"
LIBTPU = Path(os.environ.get("TPU_LIBRARY_PATH", ROOT / ".venv/libtpu/libtpu/libtpu.so"))


@pytest.mark.skipif(not LIBTPU.exists(), reason="libtpu is not there: make test puts it into .venv/libtpu")
def test_it_compiles_for_a_tpu(tmp_path):
    report = tmp_path / "report.json"
    flags = ("--topology=v5e:2x4", "--labels=3", f"--libtpu={LIBTPU.parent}", f"--out={report}")
    process = Commands("launch").spawn("compile", CONFIG, *flags, TPU_LIBRARY_PATH=str(LIBTPU), PYTHONWARNINGS="ignore")
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, ""), output
    assert [one["program"] for one in json.loads(report.read_text())["programs"]] == ["train", "inference"]
