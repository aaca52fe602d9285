import jax.numpy as jnp
import numpy as np
import pytest

from vlseg.training.compilation import compile_once


def test_compiles_once_and_donates():
    traced = []

    def double(state, number):
        traced.append(number)
        return {"x": state["x"] * 2 + number}

    run = compile_once(double, donate_argnums=0)
    first = {"x": jnp.arange(3.0)}
    state = run(run(first, jnp.asarray(1)), jnp.asarray(2))
    np.testing.assert_array_equal(state["x"], np.arange(3.0) * 4 + 4)
    assert len(traced) == 1 and first["x"].is_deleted()


def test_other_shapes_are_an_error():
    run = compile_once(lambda x: x + 1)
    run(jnp.zeros(2))
    with pytest.raises(TypeError):
        run(jnp.zeros(3))
