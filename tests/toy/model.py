import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from vlseg import settings
from vlseg.checkpoints.directory import Stored, Weights
from vlseg.evaluation.crf import CRF
from vlseg.scores import Scores
from vlseg.segmenter import Segmenter


@dataclasses.dataclass(frozen=True)
class Config:
    features: int = 16
    to_dict = dataclasses.asdict


@dataclasses.dataclass(frozen=True)
class Seen:
    brightness: float = 1.0
    crf: CRF = dataclasses.field(default_factory=CRF)


@dataclasses.dataclass(frozen=True)
class Training:
    steps: int = 20
    batch_size: int = 8
    accumulation_steps: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(settings.Run):
    package: str = "tests.toy"
    model: Config = dataclasses.field(default_factory=Config)
    training: Training = dataclasses.field(default_factory=Training)


def shapes(config):
    return {"params/kernel": (27, config.features), "params/bias": (config.features,)}


@jax.jit
def logits(variables, words, images):
    """[B, H, W, N] of images uint8 [B, H, W, 3], whose colours fall into 27 soft boxes, and words [N, C]."""
    colours = images.astype(jnp.float32)[..., None] / 255
    red, green, blue = jnp.moveaxis(jnp.exp(-(((colours - jnp.asarray([0.1, 0.5, 0.9])) / 0.25) ** 2)), -2, 0)
    boxes = jnp.einsum("...r,...g,...b->...rgb", red, green, blue).reshape(*images.shape[:-1], 27)
    return 4 * (boxes @ variables["params"]["kernel"] + variables["params"]["bias"]) @ words.T


@dataclasses.dataclass
class ToyScores(Scores):
    values: jax.Array

    def probabilities(self):
        return np.asarray(jax.nn.softmax(self.values))


@dataclasses.dataclass(frozen=True)
class Toy(Segmenter[Seen]):
    package = "tests.toy"
    config: Config
    variables: dict
    inference: Seen = Seen()
    labels: tuple = ()

    def embed(self, labels=None):
        rngs = [np.random.default_rng(zlib.crc32(name.encode())) for name in self.names(labels)]
        words = jnp.asarray([rng.standard_normal(self.config.features) for rng in rngs], jnp.float32)
        return words / jnp.linalg.norm(words, axis=-1, keepdims=True)

    def scores(self, images, embeddings, settings, batch_size):
        (image,) = images
        dimmed = [image[None] * np.float32(seen.brightness) for seen in settings]
        return [[ToyScores(logits(self.variables, embeddings, one)[0]) for one in dimmed]]

    def image_function(self, settings):
        def segment(arrays, images):
            values = logits(*arrays, images)
            return {"probabilities": jax.nn.softmax(values), "label_map": values.argmax(-1).astype(jnp.int32)}

        return jax.tree_util.Partial(segment, (dict(self.variables), self.embed()))

    @property
    def export_size(self):
        return 32, 1

    def stored(self):
        kept = {"labels": list(self.labels), "seen": dataclasses.asdict(self.inference)}
        return Stored(self.config, Weights(jax.tree.map(np.asarray, self.variables)), kept)
