"""Records what timm's EfficientNet-Lite0 computes with the published weights of ImageNet.

pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
python -m tests.lseg_jax.golden.record_lite0 efficientnet-lite0-57934424.pth

lite0.json holds the versions, the SHA-256 of the weights, and of each level of the images that `images` makes its mean,
its standard deviation and its values at the places of `places`.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

STAGES = (1, 2, 4, 6)
"""Whose outputs are the levels."""

VALUES = 12
"""Of each level."""


def images() -> np.ndarray:
    """Two normalised images [2, 64, 96, 3]: gratings that fade into each other, and a disc and a bar on them."""
    y, x = np.mgrid[:64, :96].astype(np.float64)
    made = []
    for turn in (0.0, 1.1):
        waves = [np.sin((x * np.cos(turn + hue) + y * np.sin(turn + hue)) / (3 + 2 * hue)) for hue in range(3)]
        pixels = 127 + 90 * np.stack(waves, axis=-1) * (x / 95)[..., None]
        pixels[(x - 30) ** 2 + (y - 30) ** 2 < 300] = (200, 120, 60)
        pixels[40:52, 50:90] = (20, 30, 160)
        made.append((np.round(pixels) - 127) / 128)
    return np.asarray(made, np.float32)


def places(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Indices of `VALUES` entries that lie evenly in a level of that shape."""
    return np.unravel_index(np.linspace(0, np.prod(shape) - 1, VALUES + 2).round().astype(int)[1:-1], shape)


def described(level: np.ndarray) -> dict[str, object]:
    """The record of a level [B, h, w, C]."""
    wide = np.asarray(level, np.float64)
    values = [float(value) for value in wide[places(wide.shape)]]
    return {"shape": list(wide.shape), "mean": float(wide.mean()), "deviation": float(wide.std()), "values": values}


def _record(weights: Path) -> None:
    import timm
    import torch

    model = timm.create_model("tf_efficientnet_lite0").eval()
    published = torch.load(weights, map_location="cpu", weights_only=True)
    # The file has the names of EfficientNet-PyTorch, and both list their modules in the order of computation.
    wanted, found = list(model.state_dict().items()), list(published.values())
    assert [value.shape for _, value in wanted] == [value.shape for value in found]
    model.load_state_dict({name: value for (name, _), value in zip(wanted, found, strict=True)})
    levels: list[np.ndarray] = []
    for stage in STAGES:
        model.blocks[stage].register_forward_hook(
            lambda _, __, output: levels.append(output.permute(0, 2, 3, 1).numpy())
        )
    with torch.no_grad():
        model.forward_features(torch.from_numpy(images()).permute(0, 3, 1, 2))
    record = {
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "levels": [described(level) for level in levels],
    }
    path = Path(__file__).with_name("lite0.json")
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{path}: levels deviate by {[round(level['deviation'], 3) for level in record['levels']]}")


if __name__ == "__main__":
    _record(Path(sys.argv[1]))
