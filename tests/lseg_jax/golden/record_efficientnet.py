"""Records what timm's EfficientNet-Lite computes, with the weights of `tests.golden_weights`.

pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
python -m tests.lseg_jax.golden.record_efficientnet

efficientnet.npz holds, by name:
    meta: JSON. "versions"; "spec", of lite0 to lite4 the shapes of all parameters by timm's names.
    even_0 ... even_3, odd_0 ... odd_3: float32 [B, h, w, C], the levels of tf_efficientnet_lite0 in evaluation mode, of
        the images that `images` makes.
    frozen, trained: float64 [P, 2], of the sum of all levels of "even", each times `probe`: of every parameter's
        gradient, in the order of `parameters`, its norm and its product with `probe`. The batch norms normalise by
        their running statistics, or by those of the batch. Computed in float64: in float32 the statistics of batches
        with few positions amplify rounding up to 1.5 % of a gradient's norm.
    statistics: float64 [S, 2], norm and product with `probe` of the running statistics after "trained", in the order
        of `statistics_names`.
"""

import json
from pathlib import Path

import numpy as np

from tests import golden_weights

SIZES = {"even": (2, 64, 96), "odd": (1, 45, 71)}
STAGES = (1, 2, 4, 6)
"""Whose outputs are the levels."""


def images(name: str) -> np.ndarray:
    """Normalised images [B, H, W, 3]."""
    batch, height, width = SIZES[name]
    return np.random.default_rng(7).uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)


def probe(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers that are a function of a name."""
    return golden_weights.tensor(f"probe of {name}", (1, *shape))[0]


def is_used(name: str) -> bool:
    """Whether the levels depend on a parameter of timm's."""
    return not name.startswith(("conv_head", "bn2", "classifier"))


def parameters(spec: dict[str, list[int]]) -> list[str]:
    """Those that are trained, in timm's order."""
    return [name for name in spec if is_used(name) and "running" not in name]


def statistics_names(spec: dict[str, list[int]]) -> list[str]:
    """Running means and variances, in timm's order."""
    return [name for name in spec if is_used(name) and "running" in name]


def summary(name: str, value: np.ndarray) -> tuple[float, float]:
    """Norm of an array and its product with `probe`, in timm's layout."""
    wide = np.asarray(value, np.float64)
    return float(np.sqrt((wide**2).sum())), float((wide * probe(name, wide.shape)).sum())


def _record() -> None:
    import timm
    import torch

    spec = {}
    for number in range(5):
        state = timm.create_model(f"tf_efficientnet_lite{number}").state_dict()
        spec[f"lite{number}"] = {
            name: list(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")
        }
    own = spec["lite0"]
    model = timm.create_model("tf_efficientnet_lite0").eval()
    weights = {name: torch.from_numpy(golden_weights.tensor(name, tuple(shape))) for name, shape in own.items()}
    kept: list[torch.Tensor] = []
    for stage in STAGES:
        model.blocks[stage].register_forward_hook(lambda _, __, output: kept.append(output.permute(0, 2, 3, 1)))

    def levels(name: str, dtype: type = np.float32) -> list[torch.Tensor]:
        kept.clear()
        model.forward_features(torch.from_numpy(images(name).astype(dtype)).permute(0, 3, 1, 2))
        return list(kept)

    arrays: dict[str, np.ndarray] = {}
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        for name in SIZES:
            arrays |= {f"{name}_{number}": level.numpy() for number, level in enumerate(levels(name))}
    model.double()
    for mode in ("frozen", "trained"):
        model.train(mode == "trained").zero_grad()
        found = levels("even", np.float64)
        probes = [
            torch.from_numpy(probe(f"level {number}", level.shape)).double() for number, level in enumerate(found)
        ]
        sum((level * other).sum() for level, other in zip(found, probes, strict=True)).backward()
        named = dict(model.named_parameters())
        arrays[mode] = np.asarray([summary(name, named[name].grad.numpy()) for name in parameters(own)])
    state = model.state_dict()
    arrays["statistics"] = np.asarray([summary(name, state[name].numpy()) for name in statistics_names(own)])
    path = Path(__file__).with_name("efficientnet.npz")
    meta = {"versions": {"torch": torch.__version__, "timm": timm.__version__}, "spec": spec}
    np.savez_compressed(path, meta=json.dumps(meta), **arrays)
    print(f"{path}: {path.stat().st_size} bytes, level 0 deviates by {arrays['even_0'].std():.3f}")


if __name__ == "__main__":
    _record()
