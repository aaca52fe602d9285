"""Trains a small model for some steps in a working directory and prints a digest of its final parameters.

python tests/scale/training.py MODEL WORKDIR STEPS [--coordinator=HOST:PORT --num_processes=N --process_id=I]
"""

import hashlib
import json
import sys

import jax
import numpy as np
from steps import MODELS

from vlseg import cli, distributed, sharding
from vlseg.training.loop import Schedule, train

ARGUMENTS = sys.argv[1:4]


def main(_):
    distributed.initialize(saves=True)
    model, workdir, steps = ARGUMENTS
    mesh = sharding.make_mesh("")
    state, step = MODELS[model](mesh)
    print("started", flush=True)
    state = train(state, step, workdir, Schedule(int(steps), 1, 2))
    params = jax.device_get(sharding.gathered(state["params"], mesh))
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(params[name]) for name in sorted(params))).hexdigest()
    if distributed.is_main():
        print(json.dumps({"digest": digest}))


if __name__ == "__main__":
    del sys.argv[1:4]
    distributed.define_flags()
    cli.run(main)
