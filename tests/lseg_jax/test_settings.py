"""Settings of training: what cannot be, and what the authors use."""

import pytest

from lseg_jax.config import LSegConfig
from lseg_jax.settings import Training
from vlseg import settings as settings_of
from vlseg.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speed": 3}, "training has no setting speed"),
        ({"steps": 0}, "training.steps is 0"),
        ({"epochs": 0}, "training.epochs is 0"),
        ({"batch_size": 0}, "training.batch_size is 0"),
        ({"row_block": 0}, "training.row_block is 0"),
        ({"crop_size": 100}, "training.crop_size is 100; it must be a multiple of 32"),
        ({"base_size": -5}, "training.base_size is -5"),
        ({"learning_rate": -1.0}, "training.learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "training.learning_rate is nan"),
        ({"decoder_factor": -1.0}, "training.decoder_factor is -1.0"),
        ({"power": -0.9}, "training.power is -0.9"),
        ({"b1": 1.0}, r"training.b1 is 1.0; it must be in \[0, 1\)"),
        ({"b2": -0.1}, "training.b2 is -0.1"),
        ({"clip_norm": -1.0}, "training.clip_norm is -1.0"),
        ({"seed": -1}, "training.seed is -1"),
        ({"scale_range": (2.0, 0.5)}, "training.scale_range"),
        ({"scale_range": (0.5,)}, "training.scale_range"),
        ({"scale_range": (0.5, float("inf"))}, "training.scale_range"),
        ({"decay": "never"}, "training.decay 'never' is none of epoch, step"),
        ({"loss_mean": "classes"}, "training.loss_mean 'classes' is none of images, pixels"),
        ({"optimizer": "adagrad"}, "training.optimizer 'adagrad' is none of sgd, adamw"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        settings_of.read(Training, values, "training")


def test_the_defaults_are_the_official_settings():
    config = settings_of.load("configs/lseg_ade20k.py")
    settings = settings_of.read(Training, config.training, "training")
    assert settings == Training()
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (240, 12, 0.00025)
    assert (settings.optimizer, settings.b1, settings.weight_decay, settings.power) == ("sgd", 0.9, 1e-4, 0.9)
    assert (settings.base_size, settings.crop_size, settings.scale_range) == (520, 480, (0.5, 2.0))
    assert settings.decoder_factor == 10
    model = LSegConfig.from_dict(config.model.to_dict())
    assert (model.image.patch, model.image.width, model.image.layers, model.text.features) == (16, 1024, 24, 512)
    assert model.features == 256 and model.block == "none"
    assert config.data.folder.ignore_zero and config.evaluation.folder.ignore_zero
