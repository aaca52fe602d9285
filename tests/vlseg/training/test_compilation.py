import jax.numpy as jnp
import numpy as np
import pytest

from vlseg.training.program import compile_step


def test_compiles_once_and_donates():
    traced = []

    def double(state, number):
        traced.append(number)
        return {"x": state["x"] * 2 + number}, number

    run = compile_step(double)
    first = {"x": jnp.arange(3.0)}
    state, _ = run(run(first, jnp.asarray(1))[0], jnp.asarray(2))
    np.testing.assert_array_equal(state["x"], np.arange(3.0) * 4 + 4)
    assert len(traced) == 1 and first["x"].is_deleted()


def test_other_shapes_are_an_error():
    run = compile_step(lambda x: (x + 1, x))
    run(jnp.zeros(2))
    with pytest.raises(TypeError):
        run(jnp.zeros(3))
