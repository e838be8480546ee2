import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.types import Conditioning
from simple_diffusion.diffusion import denoiser, parameterization, process

LOGSNR = jnp.linspace(-3.0, 3.0, 5)
X, EPS = jax.random.normal(jax.random.key(0), (2, 5, 4, 4, 3))


@pytest.mark.parametrize("family", [process.VP, process.FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("kind", parameterization.KINDS)
def test_a_perfect_network_of_any_kind_denoises_perfectly(kind, family):
    prediction = parameterization.target(kind, X, EPS, LOGSNR, family)

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        assert dropout_key is None  # no dropout when sampling
        return params["scale"] * prediction

    denoise = denoiser.denoise_fn(apply, {"scale": 1.0}, kind, Conditioning(), family)
    z = process.add_noise(family, X, EPS, LOGSNR)
    np.testing.assert_allclose(denoise(z, LOGSNR), X, rtol=0, atol=1e-5)


def test_the_network_is_given_what_is_bound_and_what_it_is_called_with():
    seen = {}

    def apply(params, z_t, logsnr, cond, dropout_key=None):
        seen.update(params=params, z_t=z_t, logsnr=logsnr, cond=cond)
        return z_t

    params, cond = {"w": jnp.ones(2)}, Conditioning(label=jnp.arange(5))
    denoiser.denoise_fn(apply, params, "x", cond)(X, LOGSNR)
    assert seen["params"] is params and seen["cond"] is cond
    assert seen["z_t"] is X and seen["logsnr"] is LOGSNR


def test_a_network_in_bfloat16_gives_an_estimate_in_float32():
    def apply(params, z_t, logsnr, cond, dropout_key=None):
        return z_t.astype(jnp.bfloat16)

    denoise = denoiser.denoise_fn(apply, {}, "v", Conditioning())
    x_hat = denoise(X, LOGSNR)
    assert x_hat.dtype == jnp.float32
    # Only the prediction is rounded: z_t is not, or alpha z_t would be off as well.
    output = np.asarray(X.astype(jnp.bfloat16), np.float32)
    alpha, sigma = process.expand(process.VP, LOGSNR, X)
    np.testing.assert_allclose(x_hat, alpha * X - sigma * output, rtol=0, atol=1e-6)
