"""A model that shared code does not know, trained by the command, and data to try the other commands with."""

from pathlib import Path

import pytest

from tests.commands import ROOT, Commands, train_flags
from vlseg import packages
from vlseg.segmenter import Segmenter


@pytest.fixture(scope="session")
def commands() -> Commands:
    """Those that find the package by the configuration or the checkpoint."""
    return Commands("vlseg.commands")


@pytest.fixture(scope="session")
def photo(folder) -> Path:
    return folder / "images/0.jpg"


@pytest.fixture(scope="session")
def training(folder):
    """The flags of a run with a working directory and other settings."""
    settings = {"data.source": folder, "evaluation.source": folder, "training.steps": 80, "log_every": 10}
    return lambda workdir, **changes: train_flags(ROOT / "tests/toy/config.py", workdir, settings, **changes)


@pytest.fixture(scope="session")
def run(commands, training, tmp_path_factory) -> tuple[Path, str]:
    """The working directory of a run that nothing disturbed, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    return workdir, commands.output("train", *training(workdir))


@pytest.fixture(scope="session")
def model(run) -> Path:
    return run[0] / "model"


@pytest.fixture(scope="session")
def loaded(model) -> Segmenter:
    return packages.find("tests.toy").load(model)
