"""Small programs whose texts, compiled for a chip of TPU v5e, are recorded beside this file.

python -m tests.launch.programs .venv/libtpu [NAME ...]

writes recorded/NAME.hlo and, into recorded/costs.json, what XLA counts for each. They have no loops, whose bodies XLA
would count once.
"""

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from vlseg.nn import layers

FOLDER = Path(__file__).parent / "recorded"
COSTS = FOLDER / "costs.json"
COUNTED = ("bytes accessed", "flops", "transcendentals")
SINGLE, HALF = jnp.float32, jnp.bfloat16


class Small(NamedTuple):
    """A program: its function, shape and dtype of each argument, and which of them it may overwrite."""

    function: Callable[..., Any]
    arguments: tuple[tuple[tuple[int, ...], Any], ...]
    donated: tuple[int, ...] = ()


def attention(query, key, value):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(value.dtype), value)


def statistics(x):
    wide = x.astype(jnp.float32)
    return wide.sum(0), jnp.square(wide).mean(1)


def normalized(x, scale):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * scale


WHOLE = {
    "elementwise": Small(lambda x, y: jnp.tanh(x) * y + x, (((2048, 1024), SINGLE),) * 2),
    "two_products": Small(
        lambda x, w, v: jax.nn.gelu(x @ w) @ v,
        (((2048, 1024), HALF), ((1024, 2048), HALF), ((2048, 1024), HALF)),
    ),
    "reductions": Small(statistics, (((4096, 2048), HALF),)),
    "attention": Small(attention, (((2, 512, 8, 128), HALF),) * 3),
    "concatenated": Small(lambda x, y: jnp.concatenate([x.T, y]), (((1024, 512), SINGLE), ((512, 1024), SINGLE))),
    "transposed": Small(lambda x: x.transpose(0, 2, 1, 3), (((2, 512, 16, 128), SINGLE),)),
    "normalized": Small(normalized, (((2048, 1024), SINGLE), ((1024,), SINGLE))),
    "layer_of_a_stack": Small(
        lambda x, stack, layer: x @ stack[layer], (((1024, 512), HALF), ((12, 512, 512), HALF), ((), jnp.int32))
    ),
    "layer_put_into_a_stack": Small(
        lambda stack, x, layer: stack.at[layer].set(jnp.tanh(x)),
        (((12, 512, 512), SINGLE), ((512, 512), SINGLE), ((), jnp.int32)),
        (0,),
    ),
}
"""Of arrays that fill their tiles."""

PADDED = {
    "narrow": Small(lambda x: jnp.tanh(x) * 2, (((1237, 33, 32), HALF),)),
    "bytes": Small(lambda x, mask: jnp.where(mask, x, 0), (((1000, 33), jnp.uint8), ((1000, 33), jnp.bool_))),
    "vectors": Small(lambda x, y: (x * 2, y * 2), (((1000,), HALF), ((1000,), jnp.int8))),
}
"""Of arrays that do not."""


def product(precision, *types):
    def multiply(x, y):
        return jax.lax.dot(x, y, precision=precision, preferred_element_type=jnp.float32)

    return Small(multiply, tuple(((256, 256), dtype) for dtype in types))


PRECISIONS = {
    "product_default": product("default", SINGLE, SINGLE),
    "product_high": product("high", SINGLE, SINGLE),
    "product_highest": product("highest", SINGLE, SINGLE),
    "product_highest_half": product("highest", HALF, HALF),
    "product_highest_mixed": product("highest", HALF, SINGLE),
}

DECLARED = pl.CostEstimate(flops=12_345, bytes_accessed=777_777, transcendentals=1_048_576)


def kernel(cost: pl.CostEstimate | None) -> Small:
    def body(x, y, out):
        out[...] = jnp.exp(x[...]) + y[...]

    def call(x, y):
        spec = pl.BlockSpec((256, 256), lambda i, j: (i, j))
        row = pl.BlockSpec((256, 256), lambda i, j: (0, j))
        shape = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
        run = pl.pallas_call(
            body, shape, grid=(4, 4), in_specs=[spec, row], out_specs=spec, cost_estimate=cost, name="example"
        )
        return run(x * 2, y) + 1

    return Small(call, (((1024, 1024), SINGLE), ((256, 1024), SINGLE)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized_by_products(x, scale, bias, epsilon):
    return layers._normalize_forward(x, scale, bias, epsilon)[0]


normalized_by_products.defvjp(
    layers._normalize_forward, lambda _, saved, gradient: layers._gradients_by_products(*saved, gradient)
)


def feed_forward(normalize):
    """Gradients of a transformer's feed-forward part with its inner normalization, in bfloat16."""

    def run(weights, x):
        scale, first, second = weights
        y = jax.nn.gelu(x @ first.astype(HALF), approximate=False)
        y = normalize(y, scale, jnp.zeros_like(scale), 1e-5).astype(HALF)
        return jnp.square((x + y @ second.astype(HALF)).astype(jnp.float32)).sum()

    def gradients(scale, first, second, x):
        return jax.grad(run, argnums=(0, 1))((scale, first, second), x)

    weights = ((1024,), (256, 1024), (1024, 256))
    return Small(gradients, (*((shape, SINGLE) for shape in weights), ((8, 501, 256), HALF)))


FEED_FORWARD = {
    "feed_forward": feed_forward(layers._normalize),
    "feed_forward_by_products": feed_forward(normalized_by_products),
}
"""With LayerNorm's gradient as it is, and with the one that is for CPUs."""

KERNELS = {"kernel": kernel(DECLARED), "kernel_without_estimate": kernel(None)}

ALL = WHOLE | PADDED | PRECISIONS | FEED_FORWARD | KERNELS


def recorded(name: str) -> str:
    """The text of a compiled program."""
    return (FOLDER / f"{name}.hlo").read_text()


def compile_for(small: Small, device: Any) -> tuple[str, dict[str, float]]:
    """Text of a program compiled for a device, without what tells where its source lies, and XLA's costs."""
    placed = jax.sharding.SingleDeviceSharding(device)
    shapes = [jax.ShapeDtypeStruct(*argument, sharding=placed) for argument in small.arguments]
    jitted = jax.jit(small.function, donate_argnums=small.donated, out_shardings=placed)
    compiled = jitted.lower(*shapes).compile()
    text = re.sub(r"\nFileNames\n.*?\n\n\n", "\n\n", compiled.as_text(), flags=re.DOTALL)
    text = re.sub(r"(, )?(metadata|frontend_attributes|sharding)=\{(?:[^{}]|\{[^{}]*\})*\}", "", text)
    # Of the notes to the backend only a kernel's estimate is of use.
    estimate = re.compile(r'"cost_estimate":\{[^}]*\}')
    lines = []
    for line in text.splitlines():
        line, _, notes = line.partition(", backend_config=")
        found = estimate.search(notes)
        lines.append(f'{line}, backend_config={{"custom_call_config":{{{found[0]}}}}}' if found else line)
    costs = compiled.cost_analysis()
    return "\n".join(lines) + "\n", {name: float(costs.get(name, 0)) for name in COUNTED}


def main(arguments: list[str]) -> None:
    from launch import compile as launch_compile

    launch_compile.find_libtpu(arguments.pop(0))
    # At this effort nothing is kept inside the core between instructions, which XLA would count like main memory.
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    device = launch_compile.devices("v5e:2x2")[0]
    costs = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    for name in arguments or ALL:
        text, costs[name] = compile_for(ALL[name], device)
        (FOLDER / f"{name}.hlo").write_text(text)
        print(name, costs[name], flush=True)
    COSTS.write_text(json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    import sys

    os.environ["JAX_PLATFORMS"] = "cpu"
    main(sys.argv[1:])
