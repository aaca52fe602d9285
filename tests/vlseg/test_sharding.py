"""The mesh and what is spread over it; what it computes is compared in tests/scale."""

import collections
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ifseg_jax
import lseg_jax
from ifseg_jax.checkpoint import parameter_shapes
from ifseg_jax.config import SIZES
from lseg_jax import checkpoint
from lseg_jax.config import LSegConfig
from vlseg import sharding
from vlseg.errors import ConfigError

IFSEG, LSEG = ifseg_jax.PACKAGE.axes, lseg_jax.PACKAGE.axes


class Shape:
    """A mesh as far as its sizes go: this machine has one device."""

    def __init__(self, **sizes):
        self.shape = {axis: sizes.get(axis, 1) for axis in sharding.AXES}


@given(st.permutations(["data", "fsdp", "tensor"]), st.tuples(*[st.integers(1, 6)] * 3))
def test_sizes_are_read_in_any_order(axes, sizes):
    text = ",".join(f"{axis}={size}" for axis, size in zip(axes, sizes, strict=True))
    expected = dict(zip(axes, sizes, strict=True))
    assert sharding.parse_mesh(text, int(np.prod(sizes))) == expected


def test_data_takes_the_devices_that_are_left():
    assert sharding.parse_mesh("", 8) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert sharding.parse_mesh(" tensor=2 , fsdp=2 ", 8) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model=2", "'model=2' is not like data=4; the axes are data, fsdp, tensor"),
        ("data=2,data=4", "once each"),
        ("fsdp=0", "is not like"),
        ("fsdp=x", "is not like"),
        ("fsdp=3", "asks for 3 devices, which does not fit the 8"),
        ("data=2", "asks for 2 devices"),
    ],
)
def test_meshes_that_cannot_be(text, message):
    with pytest.raises(ConfigError, match=message):
        sharding.parse_mesh(text, 8)


def test_what_does_not_divide_is_named():
    mesh = Shape(data=4, fsdp=2, tensor=3)
    sharding.check_batch(mesh, 16)
    sharding.check_heads(mesh, 12)
    with pytest.raises(ConfigError, match=r"a batch of 12 cannot be divided into 8 parts \(data=4 x fsdp=2 of"):
        sharding.check_batch(mesh, 12)
    with pytest.raises(ConfigError, match=r"16 attention heads cannot be divided into 3 parts \(tensor=3 of"):
        sharding.check_heads(mesh, 16)


@pytest.mark.parametrize(
    ("shapes", "axes", "divided_twice", "held"),
    [
        # By hand: six layers of 12 + 16 square maps, six maps of positions. 18.3 % of all parameters are held.
        (parameter_shapes(SIZES["ofa_base"]), IFSEG, (6 * 28 + 6) * 768**2, 33_608_772),
        # Of each layer of ViT and CLIP all but the maps of queries, keys and values. 17.2 %.
        (checkpoint.parameter_shapes(LSegConfig()), LSEG, 9 * (24 * 1024**2 + 12 * 512**2), 69_680_000),
    ],
    ids=["ifseg", "lseg"],
)
def test_what_a_device_holds(shapes, axes, divided_twice, held):
    mesh = Shape(fsdp=4, tensor=2)
    sizes = collections.Counter()
    for name, shape in shapes.items():
        parts = sharding.partition(name, shape, mesh, axes)
        assert len(parts) == len(shape)
        counts = [1 if axes is None else mesh.shape[axes] for axes in parts]
        assert all(size % count == 0 for size, count in zip(shape, counts, strict=True))
        sizes[math.prod(counts)] += math.prod(shape)
    assert sizes[8] == divided_twice
    assert sizes[1] < 0.002 * sizes.total()
    assert sum(size // count for count, size in sizes.items()) == held


def test_inward_and_outward_maps_meet():
    """What leaves a layer's first map in parts enters its second in the same parts, so nothing is gathered between."""
    mesh = Shape(fsdp=2, tensor=2)
    for axes, first, second in (
        (IFSEG, "params/encoder/layers/attention/value", "params/encoder/layers/attention/out"),
        (IFSEG, "params/decoder/layers/cross_attention/value", "params/decoder/layers/cross_attention/out"),
        (IFSEG, "params/encoder/layers/ffn/fc1", "params/encoder/layers/ffn/fc2"),
        (LSEG, "params/image/layers_0/fc1", "params/image/layers_0/fc2"),
    ):
        inward, outward = (sharding.partition(f"{n}/kernel", (6, 8, 8), mesh, axes) for n in (first, second))
        assert inward[-1] == outward[-2] == "tensor" and inward[-2] == outward[-1] == "fsdp"


def test_a_dimension_that_does_not_divide_stays_whole():
    assert sharding.partition("params/x/kernel", (3, 3, 8, 6), Shape(fsdp=4), IFSEG) == sharding.PartitionSpec(
        *[None] * 4
    )


def test_one_device():
    mesh = sharding.make_mesh("")
    assert sharding.own_rows(mesh, 6).tolist() == list(range(6))
    batch = {"images": np.arange(12.0).reshape(6, 2)}
    np.testing.assert_array_equal(sharding.place_batch(batch, mesh, 6)["images"], batch["images"])
    tree = {"params/ffn/fc1/kernel": np.ones((4, 4)), "count": np.int32(3)}
    placed = sharding.place(tree, mesh, IFSEG)
    jax.tree.map(np.testing.assert_array_equal, sharding.gathered(placed, mesh), tree)
    x = jax.numpy.ones((1, 3))
    assert sharding.for_each_shard(x) is x and sharding.batch_sharded(x) is x
