"""Prints, for some or all meshes of the devices of this process, how far a step is from that of a single device.

python tests/scale/meshes.py MODEL [MESH ...]
"""

import json
import sys

import jax
import numpy as np
from steps import MODELS

from vlseg.sharding import make_mesh


def step_on(make, mesh):
    """Loss, and gradients by name: what the optimizer has kept of them after its first step."""
    state, step = make(mesh)
    state, metrics = step(state, 0)
    kept = jax.tree_util.tree_leaves_with_path(jax.device_get(state["optimizer"]))
    moments = {jax.tree_util.keystr(path): leaf for path, leaf in kept if leaf.ndim and ".nu" not in str(path)}
    return float(metrics["loss"]), moments


def main():
    make, devices = MODELS[sys.argv[1]], jax.devices()
    loss, gradients = step_on(make, make_mesh("", devices[:1]))
    scale = max(np.abs(gradient).max() for gradient in gradients.values())
    report = {}
    for name in sys.argv[2:] or every_mesh(len(devices)):
        found, others = step_on(make, make_mesh(name, devices))
        difference = max(np.abs(others[key] - gradients[key]).max() for key in gradients)
        report[name] = [abs(found - loss) / loss, float(difference / scale)]
    print(json.dumps(report))


def every_mesh(devices):
    sizes = [1 << power for power in range(devices.bit_length())]
    return [f"data={a},fsdp={b},tensor={devices // a // b}" for a in sizes for b in sizes if a * b <= devices]


if __name__ == "__main__":
    main()
