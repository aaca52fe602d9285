"""Paths of which it cannot be told what is there."""

import os

import pytest

import ifseg_jax
import lseg_jax
from vlseg.data.sources import open_dataset
from vlseg.errors import VlsegError
from vlseg.labels.tokens import tokenizer_directory
from vlseg.training.workdir import check_place

OPENERS = {
    "ifseg": ifseg_jax.load,
    "lseg": lseg_jax.load,
    "data": open_dataset,
    "annotations": lambda path: open_dataset(f"labelme:{path}"),
    "catalog": lambda path: open_dataset(f"voc:{path}"),
    "tokenizer": lambda path: tokenizer_directory(path, "files"),
    "working directory": check_place,
}


@pytest.mark.parametrize("name", OPENERS)
def test_it_is_said_why(name, tmp_path):
    os.symlink("loop", tmp_path / "loop")
    for path, reason in {"x" * 300: "too long", f"{tmp_path}/a\0b": "null byte", f"{tmp_path}/loop": "levels"}.items():
        with pytest.raises(VlsegError, match=reason):
            OPENERS[name](path)


@pytest.mark.parametrize("option", [{"label_offset": "1"}, {"ignore_zero": 1}, {"ignore_label": "255"}])
def test_options_of_another_type(option, tmp_path):
    with pytest.raises(VlsegError, match=f"{next(iter(option))} is .* must be"):
        open_dataset(str(tmp_path), **option)
