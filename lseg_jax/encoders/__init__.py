"""Image and text encoders, each a module with the interface of `lseg_jax.encoders.base`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lseg_jax.encoders.base import Encoder, ImageEncoder, TextEncoder
from lseg_jax.encoders.clip import TextConfig
from lseg_jax.encoders.clip_image import CLIPImageConfig
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.encoders.minilm import SentenceConfig
from lseg_jax.encoders.resnet import ResNetConfig
from lseg_jax.encoders.vit import ViTConfig
from vlseg.checkpoints import foreign, packaged
from vlseg.checkpoints.efficientnet import WEIGHTS
from vlseg.checkpoints.foreign import Format, Shapes, shapes_of
from vlseg.checkpoints.rules import Tensors, Variables, check_names, check_shapes, flatten, unflatten
from vlseg.errors import CheckpointError

TEXTS: dict[str, type[TextEncoder]] = {"clip": TextConfig, "minilm": SentenceConfig}
IMAGES: dict[str, type[ImageEncoder]] = {
    "vit": ViTConfig,
    "resnet": ResNetConfig,
    "clip": CLIPImageConfig,
    "efficientnet": EfficientNetConfig,
}
"""Encoders by the name that files and settings give them; the first is the default."""

KINDS: Mapping[str, Mapping[str, type[Encoder]]] = {"text": TEXTS, "image": IMAGES}
"""Both, by their name among the parameters of a model."""

WHOLE = re.compile(r"((module|model|net)\.)*(clip_pretrained|pretrained|scratch)\.|params/decoder/")
"""Names that only a whole model has."""

FRESH = "none"
"""What stands for fresh weights of an encoder, in place of a file."""

NAMED: Mapping[str, EfficientNetConfig] = {
    name: EfficientNetConfig(name.removeprefix("efficientnet_")) for name in WEIGHTS
}
"""The image encoders whose weights are known by name, see `vlseg.checkpoints.packaged`."""

AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


def read_text(path: str | os.PathLike[str]) -> tuple[TextEncoder, Variables]:
    """A text encoder, with the configuration that its shapes tell.

    Args:
        path: a safetensors file (.safetensors), a PyTorch archive (any other suffix; OpenAI's TorchScript files, too),
            or a directory as Hugging Face has it. Other parts of CLIP are skipped.

    Returns:
        The configuration, with heads 64 wide as in all of CLIP's unless a config.json in the directory says otherwise,
        and {"params": {"text": ...}}, float32.

    A prefix that training code puts before names is taken off, and modules beside the encoder's are left out; both are
    said, see `vlseg.checkpoints.state_dicts`.

    Raises:
        CheckpointError: there is no such file, it is broken or something else; names are missing or not known, or
            shapes do not fit each other.
    """
    return _read(Path(path), TEXTS, "text")


def read_image(path: str | os.PathLike[str]) -> tuple[ImageEncoder, Variables]:
    """An image encoder, with the configuration that its shapes tell.

    Args:
        path: the same kinds as for `read_text`, and .npz; or a name of `NAMED`, whose file is found in the installed
            package, or fetched. Classifiers and what leads to them are skipped.

    Returns:
        The configuration, of a vision transformer with heads 64 wide as in timm's and CLIP's (unless a config.json in
        the directory says otherwise), its position embedding on the grid that it was trained on; and
        {"params": {"image": ...}}, with {"batch_stats": {"image": ...}} of a ResNet, float32.

    Raises:
        CheckpointError: as in `read_text`, or LSeg cannot use such an encoder. DownloadError: a name whose package is
            not installed and cannot be fetched.
    """
    name = os.fspath(path)
    check_image(name)
    return _read(packaged.local(name, WEIGHTS), IMAGES, "image")


def check_image(source: str) -> None:
    """Raises CheckpointError if weights of an image encoder are neither known by name nor there; fetches nothing."""
    packaged.check(source, WEIGHTS)


def _read(path: Path, kinds: Mapping[str, type[AnyEncoder]], part: str) -> tuple[AnyEncoder, Variables]:
    wanted = {form: kind for kind in kinds.values() for form in kind.formats}
    known = [form for kinds in KINDS.values() for kind in kinds.values() for form in kind.formats]

    def describe(form: Format, shapes: Shapes, told: Mapping[str, Any]) -> foreign.Encoder[AnyEncoder]:
        config = wanted[form].from_shapes(shapes, **told)
        return foreign.Encoder(config, config.rules(), config.module(), config.example)

    return foreign.read(path, list(wanted), describe, part, known=known, refuse=_refuse_whole)


def _refuse_whole(tensors: Tensors) -> None:
    if any(WHOLE.match(name) for name in tensors):
        raise CheckpointError("this is a whole LSeg model, not an encoder to start from; use --config.checkpoint")


def merge(variables: Mapping[str, Any], *parts: Mapping[str, Any]) -> Variables:
    """Variables of a model with encoders put in the place of its own.

    Args:
        variables: from `LSegNet.init`; they stay as they are.
        parts: from `read_text` and `read_image`.

    Raises:
        CheckpointError: an encoder has other names or shapes than the model's; some are listed.
    """
    merged = flatten(variables)
    for part in parts:
        found = flatten(part)
        encoders = {_encoder(path) for path in found}
        replaced = {path for path in merged if _encoder(path) in encoders}
        check_names(found, replaced, "the model's encoder")
        check_shapes(shapes_of(found), {path: tuple(merged[path].shape) for path in replaced})
        merged |= found
    return unflatten(merged)


def _encoder(path: str) -> str:
    """The encoder that a path in our variables is of, such as "text" for "params/text/norm/scale"."""
    return path.split("/")[1]
