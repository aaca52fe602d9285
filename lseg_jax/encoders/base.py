"""The interfaces of encoders: all that the rest of LSeg knows about one.

An encoder is a module of this package whose configuration, a frozen dataclass of sizes, derives from `ImageEncoder` or
`TextEncoder`, and a line in `lseg_jax.encoders.KINDS`.
"""

import abc
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lseg_jax.tokenizers import Tokenizer
from vlseg.checkpoints.foreign import Format, Shapes
from vlseg.checkpoints.rules import Rule
from vlseg.errors import ConfigError

STRIDES = (4, 8, 16, 32)
"""Pixels per position of the four levels that an image encoder gives the decoder."""

Axes = Sequence[tuple[str, tuple[str | None, ...]]]
"""Regular expressions, searched in the path of a parameter, and the logical axes of its last dimensions; see
`vlseg.sharding`. The first that is found counts."""


class Encoder(abc.ABC):
    """What image and text encoders have in common.

    Attributes:
        formats: names that its weights are published by.
        official_mark: a parameter that official LSeg checkpoints with this encoder have and others lack; None if the
            official code has no such encoder.
        carried: matches official names of parameters beside it that are not computed with, but kept.
        axes: of its parameters.
    """

    formats: ClassVar[tuple[Format, ...]] = ()
    official_mark: ClassVar[str | None] = None
    carried: ClassVar[str | None] = None
    axes: ClassVar[Axes] = ()

    @property
    @abc.abstractmethod
    def example(self) -> jax.ShapeDtypeStruct:
        """An input that its module can be initialised with."""

    @abc.abstractmethod
    def module(self) -> nn.Module:
        """The encoder itself."""

    def rules(self) -> list[Rule]:
        """The rule of every parameter, by the names of its formats after their recipes; layers in order."""
        return []

    def official_rules(self) -> list[Rule]:
        """The same by the names of official LSeg checkpoints."""
        return []

    @classmethod
    def from_shapes(cls, shapes: Shapes, *args: Any, **known: Any) -> Self:
        """The configuration that shapes tell, by the names of `rules`.

        Args:
            shapes: of all parameters. args: the encoder's own. known: what a format's `settings` have found.

        Raises:
            CheckpointError, ConfigError: a shape that decides it is missing or cannot be.
        """
        raise NotImplementedError

    @classmethod
    def from_official(cls, shapes: Shapes) -> Self:
        """The same by the names of `official_rules`."""
        raise NotImplementedError


class ImageEncoder(Encoder):
    """An image encoder. Its module is "image" among the parameters of a model.

    Attributes:
        mean, deviation: subtracted from pixels in [0, 1], and what they are divided by then.
        undivided: what it is called, with an article, if it is not cut up into layers that `LSegConfig.remat` could
            have computed again; "" if it is.
    """

    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    deviation: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    undivided: ClassVar[str] = ""

    @property
    @abc.abstractmethod
    def channels(self) -> tuple[int, ...]:
        """Of each level; their strides are `STRIDES`."""

    @property
    @abc.abstractmethod
    def heads(self) -> int:
        """Attention heads, which the axis "tensor" of a mesh must divide; 0 without attention."""

    @property
    def official_name(self) -> str | None:
        """Its part of the official `--backbone`; None if the authors have no such encoder."""
        return None

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

    @abc.abstractmethod
    def module(self, dtype: str = "float32", remat: str = "none") -> nn.Module:
        """The encoder itself; `dtype` and `remat` as in `LSegConfig`."""

    def reassembly(self, dtype: str) -> list[nn.Module]:
        """Modules that make levels of its outputs, "reassemble_0" and so on among the parameters of a model."""
        return []

    @abc.abstractmethod
    def levels(
        self, encoder: nn.Module, reassembly: Sequence[nn.Module], images: jax.Array, *, train: bool
    ) -> list[jax.Array]:
        """Runs the modules, bound to a model.

        Args:
            encoder, reassembly: see `module` and `reassembly`.
            images: float [B, H, W, 3], normalised; H and W are multiples of 32.

        Returns:
            A map for each stride, finest first: [B, H / stride, W / stride, channels].
        """

    def frozen(self, levels: int) -> re.Pattern[str]:
        """Matches the paths of the parameters and statistics up to this level, 1 to 4, finest first.

        Raises:
            ConfigError: the encoder is not trained in parts.
        """
        raise ConfigError(
            "config.training.frozen_levels has no effect with this image encoder, which is trained as a whole: leave "
            "it out, or give --config.training.frozen_levels=0 where the file of --config has it"
        )

    @abc.abstractmethod
    def flops(self, height: int, width: int) -> int:
        """Operations from an image of this size to its levels, counted as in `lseg_jax.flops`."""


class TextEncoder(Encoder):
    """A text encoder. Its module, int [N, context] -> float32 [N, features], is "text" among the parameters of a model.

    Attributes:
        trained_apart: its weights come from elsewhere and are no part of a model.
        unknown: the token that stands for text outside the vocabulary; None if there is no such text.
    """

    trained_apart: ClassVar[bool] = False
    unknown: ClassVar[int | None] = None

    @property
    @abc.abstractmethod
    def features(self) -> int:
        """Width of a text's embedding."""

    @property
    @abc.abstractmethod
    def context(self) -> int:
        """Tokens of a text; longer ones are cut."""

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, self.context), jnp.int32)

    @abc.abstractmethod
    def identity(self, variables: Mapping[str, Any]) -> str:
        """Names the weights: of equal identity are equal embeddings. `variables` are those of the model."""

    @abc.abstractmethod
    def read(self, texts: Sequence[str], tokenizer: Tokenizer | None = None) -> list[tuple[int, ...]]:
        """The tokens that the encoder sees of each text, without those that frame a text.

        Says which texts are too long and were cut. Arguments and errors as of `embed`.
        """

    @abc.abstractmethod
    def embed(
        self, texts: Sequence[str], variables: Mapping[str, Any], identity: str, tokenizer: Tokenizer | None = None
    ) -> np.ndarray:
        """Embeddings of texts, cached on disk (`lseg_jax.labels`).

        Args:
            texts: N of them.
            variables: of the model. identity: `identity(variables)`, which may take long to compute.
            tokenizer: from a text to ids; by default the encoder's own.

        Returns:
            float32 [N, features], l2-normalised.

        Raises:
            VocabularyError: a package is missing, or the tokenizer is not this encoder's.
        """


def normalized(x: jax.Array) -> jax.Array:
    """`x` divided by its l2 norm along the last axis, float32."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
