import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.core import arrays


def test_expand_dims_like_scales_each_example_by_its_own_number():
    v = arrays.expand_dims_like(jnp.array([2.0, 3.0]), jnp.zeros((2, 4, 4, 1)))
    assert v.shape == (2, 1, 1, 1)


def test_mean_per_example_is_numpys():
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        arrays.mean_per_example(jnp.asarray(x)), x.mean((1, 2)), rtol=1e-5
    )


def test_tree_norm_of_a_pythagorean_tree():
    assert float(arrays.tree_norm({"a": jnp.array([3.0]), "b": jnp.array(4.0)})) == 5.0


def test_tree_size_works_on_shapes_alone():
    shape = jax.ShapeDtypeStruct((1000, 1000, 1000), jnp.float32)
    assert arrays.tree_size({"a": shape, "b": shape}) == 2_000_000_000
