"""Records how the official LSeg (isl-org/lang-seg) learns: 30 updates in three epochs, without a block and with each.

python -m tests.lseg_jax.golden.record_training CLONE

CLONE: a checkout of lang-seg; packages as in `small`. Weights, label embeddings, pictures and targets are those of
`lesson`. Loss, optimizer and schedule are the authors' (modules/lsegmentation_module.py with `--accumulate_grad_batches
2`): each of `PROCESSES` processes has one picture and averages over its pixels, batch norms see the pictures of all
processes, and Lightning divides the loss of each accumulated batch. All of it runs in float64, so that a difference is
the rounding of the other side.

training_BLOCK.npz holds `losses` float64 [30], of each update; `rates` float64 [30, 2], of encoder and decoder; `meta`,
JSON with the shapes of all parameters; by their official names the total change of trained parameters and the final
running statistics, float32 of which `KEPT_BITS` of the mantissa are kept.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from tests.lseg_jax.golden import small
from tests.lseg_jax.golden.lesson import (
    BATCHES,
    CASES,
    EPOCHS,
    PARTS,
    PROCESSES,
    RATE,
    SIZES,
    UPDATES,
    Case,
    examples,
    label_embeddings,
    weights,
)

MOMENTUM, DECAY, POWER = 0.9, 1e-4, 0.9
KEPT_BITS = 14


class Text:
    """Stands in for CLIP, of which training uses nothing but the features of the labels."""

    def encode_text(self, _: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(label_embeddings()).double()


def parts(images: np.ndarray, targets: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The accumulated batches: pictures as the authors' transforms make them, and targets."""
    for part in range(PARTS):
        pixels = torch.from_numpy(images[part::PARTS]).permute(0, 3, 1, 2).double() / 255
        yield (pixels - 0.5) / 0.5, torch.from_numpy(targets[part::PARTS]).long()


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 with `KEPT_BITS` of the mantissa, which compress."""
    dropped = 23 - KEPT_BITS
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (((bits + (1 << (dropped - 1))) >> dropped) << dropped).view(np.float32)


def record(path: Path, case: Case) -> None:
    net = small.vit(Text(), **SIZES, block=case.block, depth=case.depth, activation=case.activation)
    state = net.state_dict()
    spec = {name: list(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    for name, shape in spec.items():
        state[name] = torch.from_numpy(weights(name, tuple(shape)))
    net.load_state_dict(state)
    net.double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    groups = [
        {"params": net.pretrained.parameters(), "lr": RATE},
        {"params": net.scratch.parameters(), "lr": 10 * RATE},
    ]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: pow(1 - epoch / EPOCHS, POWER))
    criterion = torch.nn.CrossEntropyLoss(ignore_index=-1)
    net.train()
    # A constant, which hangs on a graph that only one backward pass can go through.
    net.logit_scale = net.logit_scale.detach().double()
    losses, rates = [], []
    # The network halves the precision of image features on their way to a GPU's product, and makes float32 of it.
    kept = {"half": torch.Tensor.double, "float": torch.Tensor.double}
    with mock.patch.multiple(torch.Tensor, **kept):
        for update in range(EPOCHS * UPDATES):
            total = 0.0
            for images, targets in parts(*examples(update % BATCHES, case.seed)):
                logits = net(images)
                own = [criterion(logits[one : one + 1], targets[one : one + 1]) for one in range(PROCESSES)]
                loss = torch.stack(own).mean() / PARTS
                loss.backward()
                total += loss.item()
            losses.append(total)
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (update + 1) % UPDATES == 0:
                schedule.step()
    found = {}
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            found[name] = rounded(value.numpy())
        elif name in spec and not torch.equal(value, before[name]):
            found[name] = rounded((value - before[name]).numpy())
    meta = {"spec": spec, **case._asdict()}
    np.savez_compressed(path, meta=json.dumps(meta), losses=np.array(losses), rates=np.array(rates), **found)
    print(f"{path}: loss {losses[0]:.4f} to {losses[-1]:.4f}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    small.import_authors(sys.argv[1])
    for case in CASES:
        record(Path(__file__).with_name(f"training_{case.block}.npz"), case)
