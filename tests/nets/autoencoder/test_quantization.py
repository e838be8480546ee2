"""Vector quantization against brute force and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.nets.autoencoder import quantization

RNG = np.random.default_rng(0)
Z = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
CODEBOOK = RNG.standard_normal((7, 5)).astype(np.float32)


def distances(z):
    return np.square(z[..., None, :] - CODEBOOK).sum(-1)


def test_the_nearest_entry_is_that_of_brute_force():
    found = quantization.quantize(jnp.asarray(Z), jnp.asarray(CODEBOOK))
    np.testing.assert_array_equal(found.indices, distances(Z).argmin(-1))
    np.testing.assert_allclose(found.values, CODEBOOK[found.indices], atol=1e-6)


def test_a_large_map_is_searched_in_parts_with_the_same_result(monkeypatch):
    whole = quantization.nearest(jnp.asarray(Z), jnp.asarray(CODEBOOK))
    monkeypatch.setattr(quantization, "_DISTANCES_AT_ONCE", 35)  # five vectors at once
    parts = quantization.nearest(jnp.asarray(Z), jnp.asarray(CODEBOOK))
    np.testing.assert_array_equal(whole, parts)


def test_the_gradient_passes_straight_through_to_the_input_only():
    weights = RNG.standard_normal(Z.shape).astype(np.float32)

    def total(z, codebook):
        return jnp.sum(weights * quantization.quantize(z, codebook).values)

    to_z, to_codebook = jax.grad(total, (0, 1))(jnp.asarray(Z), jnp.asarray(CODEBOOK))
    np.testing.assert_allclose(to_z, weights, atol=1e-6)
    assert not to_codebook.any()


def test_each_error_moves_one_side_by_its_closed_form():
    z, codebook = jnp.asarray(Z), jnp.asarray(CODEBOOK)
    found = quantization.quantize(z, codebook)
    nearest = CODEBOOK[np.asarray(found.indices)]
    expected = np.square(nearest - Z).mean(-1)
    np.testing.assert_allclose(found.codebook_error, expected, rtol=1e-5)
    np.testing.assert_allclose(found.commitment_error, expected, rtol=1e-5)

    def gradients(name):
        def total(z, codebook):
            return getattr(quantization.quantize(z, codebook), name).sum()

        return jax.grad(total, (0, 1))(z, codebook)

    to_z, to_codebook = gradients("commitment_error")
    np.testing.assert_allclose(to_z, 2 / 5 * (Z - nearest), atol=1e-5)
    assert not to_codebook.any()
    to_z, to_codebook = gradients("codebook_error")
    assert not to_z.any()
    summed = np.zeros_like(CODEBOOK)
    np.add.at(summed, np.asarray(found.indices), 2 / 5 * (nearest - Z))
    np.testing.assert_allclose(to_codebook, summed, atol=1e-5)
