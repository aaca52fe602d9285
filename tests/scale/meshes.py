"""Prints, for each mesh of the devices of this process, how far a step is from that of a single device.

python tests/scale/meshes.py MODEL
"""

import json
import sys

import jax
import numpy as np
from micro import ifseg, lseg

from vlseg.sharding import make_mesh

MODELS = {"image_free": lambda mesh, **changes: ifseg("image_free", mesh, **changes), "lseg": lseg}


def step_on(make, mesh, **changes):
    """Loss, and gradients by name: what the optimizer has kept of them after its first step."""
    state, step = make(mesh, **changes)
    state, metrics = step(state, 0)
    kept = jax.tree_util.tree_leaves_with_path(jax.device_get(state["optimizer"]))
    moments = {jax.tree_util.keystr(path): leaf for path, leaf in kept if leaf.ndim and ".nu" not in str(path)}
    return float(metrics["loss"]), moments


def main():
    make, devices = MODELS[sys.argv[1]], jax.devices()
    loss, gradients = step_on(make, make_mesh("", devices[:1]))
    scale = max(np.abs(gradient).max() for gradient in gradients.values())
    sizes = [1 << power for power in range(len(devices).bit_length())]
    meshes = [(a, b, len(devices) // a // b) for a in sizes for b in sizes if a * b <= len(devices)]
    report = {}
    for data, fsdp, tensor in meshes:
        name = f"data={data},fsdp={fsdp},tensor={tensor}"
        found, others = step_on(make, make_mesh(name, devices))
        difference = max(np.abs(others[key] - gradients[key]).max() for key in gradients)
        report[name] = [abs(found - loss) / loss, float(difference / scale)]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
