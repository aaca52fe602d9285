"""Records what the official LSeg (isl-org/lang-seg) computes; only torch and the authors' modules run here.

pip install torch==2.13.0 torchvision timm ftfy regex tqdm "setuptools<81" && pip install --no-deps clip-anytorch
python -m tests.lseg_jax.golden.record CLONE [NAME ...]

CLONE: a checkout of lang-seg. The weights are those of `tests.golden_weights`, the text encoder has two layers. Every
file holds `tokens` int [N, 77], or [B, N, 77] for zero-shot models, whose images have label sets of their own; `logits`
float32 [B, N, H, W]; and `meta`, JSON with the official parameters' shapes and the arguments of `RECORDS`.
"""

import importlib
import json
import sys
import types
from pathlib import Path
from unittest import mock

import clip
import clip.model
import numpy as np
import timm
import torch

from tests import golden_weights

LABELS = ("other", "sky", "a cat sitting on grass")
DEPTHWISE = 2
RECORDS = {
    "vitl16": {"backbone": "clip_vitl16_384"},
    "vitl16_shallow_depthwise3": {"backbone": "clip_vitl16_384", "block_depth": 3, "activation": "tanh", "layers": 4},
    "resnet101_zeroshot": {"backbone": "clip_resnet101"},
}
SIZE = (64, 96)


def build(backbone: str, block_depth: int = 0, activation: str = "", layers: int = 24) -> torch.nn.Module:
    """The authors' network with fresh weights; `layers` of the vision transformer, read out at equal depths."""
    zero_shot = backbone == "clip_resnet101"
    name = "lseg_net_zs" if zero_shot else "lseg_net"
    net = importlib.import_module(f"modules.models.{name}")
    create, encoder = timm.create_model, net._make_encoder
    text = clip.model.CLIP(512, 32, 1, 64, 32, 77, 49408, 512, 8, 2)
    depths = {} if zero_shot else {"hooks": [layers * quarter // 4 - 1 for quarter in range(1, 5)]}
    with (
        mock.patch.object(clip, "load", return_value=(text, None)),
        mock.patch.object(timm, "create_model", lambda name, **_: create(name, pretrained=False, depth=layers)),
        mock.patch.object(net, "_make_encoder", lambda *args, **options: encoder(*args, **{**options, **depths})),
    ):
        options = {"backbone": backbone, "features": 256}
        if zero_shot:
            return net.LSegRNNetZS(LABELS[1:], use_pretrained=False, arch_option=0, **options)
        block = {"arch_option": DEPTHWISE if block_depth else 0, "block_depth": block_depth, "activation": activation}
        return net.LSegNet(list(LABELS), **block, **options)


def record(path: Path, arguments: dict) -> None:
    model = build(**arguments).eval()
    state = model.state_dict()
    spec = {name: list(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    for name, shape in spec.items():
        state[name] = torch.from_numpy(golden_weights.tensor(name, tuple(shape)))
    model.load_state_dict(state)
    zero_shot = hasattr(model, "texts")
    images = np.random.default_rng(7).uniform(-1, 1, (2 if zero_shot else 1, 3, *SIZE)).astype(np.float32)
    # The networks halve the precision of image features on their way to a GPU's product; a CPU does it in float32.
    with torch.no_grad(), mock.patch.object(torch.Tensor, "half", torch.Tensor.float):
        logits = model(torch.from_numpy(images), *([[0, 1]] if zero_shot else []))
    tokens = torch.stack(model.texts) if zero_shot else model.text
    meta = {"spec": spec, "hw": SIZE, **arguments}
    np.savez_compressed(path, meta=json.dumps(meta), tokens=tokens.numpy(), logits=logits.numpy())
    print(f"{path}: logits {tuple(logits.shape)}, deviation {logits.std():.3f}")


if __name__ == "__main__":
    clone, *names = sys.argv[1:]
    sys.path.insert(0, clone)
    # Imported by the model files and not used there.
    sys.modules.setdefault("pandas", types.ModuleType("pandas"))
    for name in names or RECORDS:
        record(Path(__file__).with_name(f"lseg_{name}.npz"), RECORDS[name])
