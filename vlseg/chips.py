"""What the makers publish of their chips: what measured rates are compared with."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Chip:
    """Published figures of one chip.

    Attributes:
        name: as in its documentation.
        flops: peak dense bfloat16 FLOP/s.
        memory: bytes of fast memory.
        bandwidth: bytes/s of that memory.
        network: bytes/s from a chip to others, over all of its links.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    network: float


CHIPS = {
    "TPU v4": Chip("TPU v4", 275e12, 32e9, 1228e9, 300e9),
    "TPU v5 lite": Chip("TPU v5e", 197e12, 16e9, 819e9, 200e9),
    "TPU v5": Chip("TPU v5p", 459e12, 95e9, 2765e9, 600e9),
    "TPU v6 lite": Chip("TPU v6e", 918e12, 32e9, 1640e9, 448e9),
    "NVIDIA A100-SXM4-40GB": Chip("A100", 312e12, 40e9, 1555e9, 300e9),
    "NVIDIA A100-SXM4-80GB": Chip("A100", 312e12, 80e9, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip("H200", 989e12, 141e9, 4800e9, 450e9),
}
CHIPS |= {"TPU v5e": CHIPS["TPU v5 lite"], "TPU v5p": CHIPS["TPU v5"], "TPU v6e": CHIPS["TPU v6 lite"]}
"""By JAX's `device_kind`; figures of cloud.google.com/tpu/docs and of NVIDIA's data sheets."""


def chip_of(device: jax.Device) -> Chip | None:
    """What is published of a device; None if it is not in the table."""
    return CHIPS.get(device.device_kind)
