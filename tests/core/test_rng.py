import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.core import rng


def data(key):
    return np.asarray(jax.random.key_data(key))


def test_same_seed_step_and_name_give_the_same_key():
    assert (
        data(rng.derive_key(1, 2, "noise")) == data(rng.derive_key(1, 2, "noise"))
    ).all()


def test_seed_step_and_name_each_change_the_key():
    keys = [
        rng.derive_key(0, 0, "noise"),
        rng.derive_key(1, 0, "noise"),
        rng.derive_key(0, 1, "noise"),
        rng.derive_key(0, 0, "time"),
    ]
    assert len({data(k).tobytes() for k in keys}) == len(keys)


def test_a_traced_step_gives_the_key_of_the_number():
    traced = jax.jit(lambda step: rng.derive_key(3, step, "time"))(jnp.int32(7))
    assert (data(traced) == data(rng.derive_key(3, 7, "time"))).all()


def test_noise_of_an_example_does_not_depend_on_its_batch():
    key = rng.derive_key(0, 0, "noise")
    whole = rng.normal_per_example(rng.derive_example_keys(key, jnp.arange(6)), (4, 3))
    part = rng.normal_per_example(
        rng.derive_example_keys(key, jnp.arange(4, 6)), (4, 3)
    )
    np.testing.assert_array_equal(whole[4:], part)


def test_per_example_noise_is_standard_normal():
    keys = rng.derive_example_keys(rng.derive_key(0, 0, "noise"), jnp.arange(200))
    noise = rng.normal_per_example(keys, (500,))
    # 1e5 draws: the mean has standard error 0.003, the deviation 0.002.
    assert abs(float(noise.mean())) < 0.015
    assert abs(float(noise.std()) - 1) < 0.01
