"""The model of clothing that comes with the package."""

from pathlib import Path

import ifseg_jax
from configs import clothing_pretrain, ifseg_clothing
from ifseg_jax.config import OFAConfig
from lseg_jax.photograph import PHOTOGRAPH
from vlseg import labels

MEGABYTE = 10**6


def test_the_model_of_clothing():
    """Small, made by its configurations, and it finds what a portrait in the public domain shows."""
    folder = Path(ifseg_jax.__file__).parent / "clothing"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12 * MEGABYTE
    clothing = ifseg_jax.load("clothing")
    expected = OFAConfig.from_dict(clothing_pretrain.get_config().model.to_dict())
    for name in clothing_pretrain.get_config().model:
        assert getattr(clothing.config, name) == getattr(expected, name), name
    assert dict(clothing.adaptation) == ifseg_clothing.get_config().adaptation.to_dict()
    assert clothing.labels == labels.load("clothing_59")
    found = clothing.segment(PHOTOGRAPH).label_map
    height, width = found.shape
    for word, row, column in [("skin", 0.45, 0.5), ("suit", 0.85, 0.3), ("hat", 0.22, 0.5), ("background", 0.4, 0.9)]:
        assert clothing.labels[found[int(row * height), int(column * width)]] == word
