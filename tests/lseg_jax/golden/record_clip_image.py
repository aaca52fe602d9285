"""Records what CLIP's image tower computes (openai/CLIP), with the weights of `tests.golden_weights`.

pip install torch ftfy regex tqdm && pip install --no-deps clip-anytorch
python -m tests.lseg_jax.golden.record_clip_image

clip_image.npz holds `spec`, JSON with the shapes of the tower's parameters by their names in CLIP, and `depths`,
float32 [4, B, 1 + n, D]: the tokens after each of the four layers.
"""

import json
from pathlib import Path

import clip.model
import numpy as np
import torch

from tests import golden_weights

SIZES = {"input_resolution": 96, "patch_size": 32, "width": 128, "layers": 4, "heads": 2, "output_dim": 24}


if __name__ == "__main__":
    tower = clip.model.VisionTransformer(**SIZES)
    names = {name: f"visual.{name}" for name in tower.state_dict()}
    spec = {names[name]: list(value.shape) for name, value in tower.state_dict().items()}
    weights = {name: golden_weights.tensor(full, tuple(spec[full])) for name, full in names.items()}
    tower.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    images = np.random.default_rng(7).uniform(-2, 2, (2, 3, 96, 96)).astype(np.float32)
    depths: list[torch.Tensor] = []
    for block in tower.transformer.resblocks:
        block.register_forward_hook(lambda _, __, output: depths.append(output.permute(1, 0, 2)))
    with torch.no_grad():
        tower(torch.from_numpy(images))
    path = Path(__file__).with_name("clip_image.npz")
    np.savez_compressed(path, spec=json.dumps(spec), depths=torch.stack(depths).numpy())
    print(f"{path}: {len(spec)} parameters, deviation {torch.stack(depths).std():.3f}")
