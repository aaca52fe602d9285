"""Image and text encoders, each a module with the interface of `lseg_jax.encoders.base`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from lseg_jax.encoders import foreign
from lseg_jax.encoders.base import Encoder, ImageEncoder, TextEncoder
from lseg_jax.encoders.clip import TextConfig
from lseg_jax.encoders.clip_image import CLIPImageConfig
from lseg_jax.encoders.efficientnet import EfficientNetConfig
from lseg_jax.encoders.minilm import SentenceConfig
from lseg_jax.encoders.resnet import ResNetConfig
from lseg_jax.encoders.vit import ViTConfig
from vlseg.checkpoints import packaged, state_dicts
from vlseg.checkpoints.efficientnet import WEIGHTS
from vlseg.checkpoints.rules import Variables
from vlseg.errors import CheckpointError, ConfigError

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
    if source not in NAMED and not os.path.exists(source):
        raise CheckpointError(f"{source}: no such file; by name there are {', '.join(NAMED)}")


def _read(path: Path, kinds: Mapping[str, type[AnyEncoder]], part: str) -> tuple[AnyEncoder, Variables]:
    tensors, beside = foreign.open_tensors(path)
    wanted = {form: kind for kind in kinds.values() for form in kind.formats}
    known = [form for kinds in KINDS.values() for kind in kinds.values() for form in kind.formats]
    try:
        found = state_dicts.unwrapped(tensors, [form.mark for form in wanted])
        form = foreign.recognized(found.tensors, list(wanted), known)
        named, left_out = foreign.renamed(found.tensors, form)
        told = form.settings(path) if path.is_dir() else {}
        config = wanted[form].from_shapes(foreign.shapes_of(named), **told)
        table = config.rules()
        named, more = state_dicts.without_extras(named, state_dicts.modules_of(rule.official for rule in table))
        variables = foreign.read_variables(named, table, config.module(), config.example, part)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    state_dicts.report(path, found.prefix, (*found.left_out, *left_out, *more), beside)
    return config, variables
