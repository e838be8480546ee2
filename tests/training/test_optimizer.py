import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.training import optimizer


def rates(counts, **settings):
    rate = optimizer.learning_rate(1e-3, **settings)
    return np.asarray(jax.vmap(rate)(jnp.asarray(counts)))


def test_warm_up_rises_linearly_and_moves_at_the_first_update():
    np.testing.assert_allclose(
        rates([0, 4, 9, 10, 999], warmup_steps=10),
        [1e-4, 5e-4, 1e-3, 1e-3, 1e-3],
        rtol=1e-6,
    )


def test_without_warm_up_the_rate_is_the_one_asked_for():
    np.testing.assert_allclose(rates([0, 1, 10**6]), 1e-3, rtol=1e-6)


def test_cosine_goes_from_the_peak_to_the_final_rate_and_stays():
    counts = [10, 60, 110, 500]
    got = rates(counts, shape="cosine", warmup_steps=10, total_steps=110, final=1e-4)
    np.testing.assert_allclose(got, [1e-3, 5.5e-4, 1e-4, 1e-4], rtol=1e-5)


def test_rsqrt_halves_when_the_updates_quadruple():
    got = rates([99, 399, 1599], shape="rsqrt", warmup_steps=10, decay_from=100)
    np.testing.assert_allclose(got, [1e-3, 5e-4, 2.5e-4], rtol=1e-6)


@pytest.mark.parametrize("shape", optimizer.SHAPES)
def test_no_shape_ever_exceeds_the_peak_or_jumps(shape):
    got = rates(np.arange(300), shape=shape, warmup_steps=20, total_steps=300)
    assert got.max() <= 1e-3 * (1 + 1e-6)
    assert np.abs(np.diff(got)).max() <= 1e-3 / 20 * (1 + 1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": "linear"}, "must be one of constant, cosine, rsqrt"),
        ({"shape": "cosine"}, "needs total_steps > warmup_steps=0"),
        ({"shape": "rsqrt"}, "needs a warm-up or decay_from"),
    ],
)
def test_a_rate_that_cannot_be_computed_says_what_it_needs(settings, message):
    with pytest.raises(ValueError, match=message):
        optimizer.learning_rate(1e-3, **settings)


def first_update(grads, params=None, **settings):
    made = optimizer.adam(optimizer.learning_rate(1e-2), **settings)
    params = jax.tree.map(jnp.ones_like, grads) if params is None else params
    updates, _ = made.transform.update(grads, made.transform.init(params), params)
    return updates


def test_the_first_update_of_adam_has_the_size_of_the_learning_rate():
    updates = first_update({"kernel": jnp.array([3.0, -4.0, 1e-4])}, clip=None)
    np.testing.assert_allclose(updates["kernel"], [-1e-2, 1e-2, -1e-2], rtol=1e-5)


def test_clipping_leaves_a_gradient_of_the_largest_norm():
    # A large eps makes Adam proportional to the gradient, so its size can be seen.
    grads = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    clipped = first_update(grads, eps=1e6, clip=1.0)
    np.testing.assert_allclose(
        [clipped["a"][0], clipped["b"][0]], [-0.6e-8, -0.8e-8], rtol=1e-4
    )


def test_a_gradient_below_the_clip_is_left_alone():
    grads = {"a": jnp.array([0.3])}
    np.testing.assert_array_equal(
        first_update(grads, eps=1.0, clip=1.0)["a"],
        first_update(grads, eps=1.0, clip=None)["a"],
    )


def test_weight_decay_pulls_kernels_and_nothing_else():
    params = {
        "trunk": {"kernel": jnp.full((2, 3), 5.0), "bias": jnp.full((2, 3), 5.0)},
        "norm": {"scale": jnp.full(3, 5.0)},
    }
    # A gradient of zero leaves only the decay.
    updates = first_update(
        jax.tree.map(jnp.zeros_like, params), params, weight_decay=0.1
    )
    np.testing.assert_allclose(updates["trunk"]["kernel"], -1e-2 * 0.1 * 5.0, rtol=1e-5)
    assert not updates["trunk"]["bias"].any()
    assert not updates["norm"]["scale"].any()
