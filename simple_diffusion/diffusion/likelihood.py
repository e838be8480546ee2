"""The variational bound on the negative log likelihood of 8-bit images.

Encoding an image with the complete diffusion process costs, in nats (VDM, arXiv
2107.00630, section 5; the process in the notation of process.py),

    -log p(x)  <=  KL(q(z_1 | x) || N(0, 1))         prior: the noisy end
                 + E[-log p(x | z_0)]                reconstruction: the clean end
                 + 1/2 integral E||eps - eps_hat||^2 dlogsnr        diffusion: between

with sums over pixels and channels. Divided by their number and by log 2, the bound is
in bits per dimension. It depends on the two ends of the schedule alone, and not on the
scale of z. All functions return one number per example.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simple_diffusion.core import arrays, rng
from simple_diffusion.core.types import DenoiseFn, Key
from simple_diffusion.diffusion import process
from simple_diffusion.diffusion.process import VP, Family
from simple_diffusion.diffusion.schedules import Schedule


class Bound(NamedTuple):
    """The three parts of the bound, in bits per dimension."""

    prior: Float[Array, "b"]
    reconstruction: Float[Array, "b"]
    diffusion: Float[Array, "b"]

    @property
    def total(self) -> Float[Array, "b"]:
        """The bound itself."""
        return self.prior + self.reconstruction + self.diffusion


def bound(
    denoise: DenoiseFn,
    x: Float[Array, "b h w c"],
    schedule: Schedule,
    u: Float[Array, "b"],
    keys: Key,
    family: Family = VP,
) -> Bound:
    """Returns an unbiased estimate of the bound from one noise level per example.

    The levels are uniform in logsnr. Samples uniform in t would hit the ends of the
    schedule rarely and with large weights, which would dominate the variance.

    Args:
      denoise: the denoise function.
      x: images whose pixels are the 256 levels of [-1, 1].
      schedule: its ends are the limits of the integral.
      u: uniform in [0, 1]: position of the level between the ends; stratified numbers
        (time_distributions.py) greatly reduce the variance of the estimate.
      keys: one per example.
      family: the scale of z that `denoise` expects.
    """
    noise_keys = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
    eps = rng.normal_per_example(noise_keys[:, 0], x.shape[1:])
    eps_clean = rng.normal_per_example(noise_keys[:, 1], x.shape[1:])
    noisy, clean = schedule(jnp.ones_like(u)), schedule(jnp.zeros_like(u))
    integrand = diffusion(denoise, x, eps, noisy + u * (clean - noisy), family)
    return Bound(
        prior=prior(x, noisy),
        reconstruction=reconstruction(x, eps_clean, clean),
        diffusion=(clean - noisy) * integrand,
    )


def prior(x: Float[Array, "b h w c"], logsnr: Float[Array, "b"]) -> Float[Array, "b"]:
    """Returns the divergence of q(z | x) at the noisy end from a standard normal."""
    # 1/2 (alpha^2 x^2 + sigma^2 - 1 - log sigma^2) in the scale of vp, without the
    # cancellation: sigma^2 - 1 = -alpha^2 and -log sigma^2 = softplus(logsnr).
    alpha_squared = arrays.expand_dims_like(jax.nn.sigmoid(logsnr), x)
    surplus = arrays.expand_dims_like(jax.nn.softplus(logsnr), x) - alpha_squared
    return _bits(0.5 * (alpha_squared * jnp.square(x) + surplus))


def reconstruction(
    x: Float[Array, "b h w c"], eps: Float[Array, "b h w c"], logsnr: Float[Array, "b"]
) -> Float[Array, "b"]:
    """Returns -log p(x | z) at the clean end, where z is x with the noise eps.

    p gives each of the 256 levels v a probability proportional to the density of z if v
    were the pixel.
    """
    # exp of -1/2 ((z - alpha v) / sigma)^2, divided by the same for the true level x,
    # is exp(-1/2 d^2 - d eps) with d = (x - v) alpha / sigma; its sum over v is 1/p.
    ratio = arrays.expand_dims_like(jnp.exp(0.5 * logsnr), x)

    def add_level(k: Int[Array, ""], total: Array) -> Array:
        d = ratio * (x - (k / 127.5 - 1.0))
        return total + jnp.exp(-0.5 * jnp.square(d) - d * eps)

    # A loop, because 256 arrays of the size of the batch would not fit into memory.
    total = jax.lax.fori_loop(0, 256, add_level, jnp.zeros_like(x))
    return _bits(jnp.log(total))


def diffusion(
    denoise: DenoiseFn,
    x: Float[Array, "b h w c"],
    eps: Float[Array, "b h w c"],
    logsnr: Float[Array, "b"],
    family: Family = VP,
) -> Float[Array, "b"]:
    """Returns the integrand 1/2 ||eps - eps_hat||^2, per unit of logsnr."""
    x_hat = denoise(process.add_noise(family, x, eps, logsnr), logsnr)
    # eps - eps_hat = (x_hat - x) alpha / sigma, at the same z.
    ratio = arrays.expand_dims_like(jnp.exp(0.5 * logsnr), x)
    return _bits(0.5 * jnp.square(ratio * (x - x_hat)))


def _bits(nats: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    return arrays.mean_per_example(nats) / math.log(2.0)
