"""Solvers: one step from z_t to the cleaner z_s, given a denoise function.

All are written in terms of x_hat, so that changes of x_hat (guidance, clipping,
projection) also affect the noise estimate. All commute with a change of
family: a sample in the scale of flow is the sample in the scale of vp, rescaled.

Equation numbers refer to diffusion/process.py. The noise levels logsnr_t and logsnr_s
are scalars, the same for every image of the batch; keys are one per image.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core import rng
from simple_diffusion.core.types import DenoiseFn, Key, Solver
from simple_diffusion.diffusion import process
from simple_diffusion.diffusion.process import VP, Family

Image = Float[Array, "b h w c"]
Scalar = Float[Array, ""]


def ancestral(family: Family = VP, gamma: float = 0.2) -> Solver:
    """Returns the sampler of DDPM (arXiv 2006.11239), with x_hat in the posterior (6).

    Args:
      family: the scale of z.
      gamma: interpolates log variance between that of the posterior (0), exact if x_hat
        is certain, and that of the reverse step for white data (1). simple diffusion
        uses 0.2, and 1 for text-to-image.
    """

    def step(
        denoise: DenoiseFn,
        z_t: Image,
        state: Any,
        logsnr_t: Scalar,
        logsnr_s: Scalar,
        keys: Key,
    ) -> tuple[Image, Any]:
        x_hat = _estimate(denoise, z_t, logsnr_t)
        q = process.posterior(family, logsnr_t, logsnr_s)
        # The bounds are c sigma_s^2 and c sigma_t^2 in the scale of vp, where sigma^2
        # is sigmoid(-logsnr). Their ratio is the same in every scale.
        ratio = jax.nn.sigmoid(-logsnr_t) / jax.nn.sigmoid(-logsnr_s)
        std = jnp.sqrt(q.variance) * ratio ** (0.5 * gamma)
        noise = rng.normal_per_example(keys, z_t.shape[1:])
        return q.z_scale * z_t + q.x_scale * x_hat + std * noise, state

    return Solver(lambda z_t: (), step)


def ddim(family: Family = VP, eta: float = 0.0) -> Solver:
    """Returns DDIM (arXiv 2010.02502): equation (7), with a fraction of fresh noise.

    Args:
      family: the scale of z.
      eta: 0 keeps the estimated noise and is deterministic; 1 replaces as much of it
        as the process would, which is `ancestral` with gamma = 0.
    """

    def step(
        denoise: DenoiseFn,
        z_t: Image,
        state: Any,
        logsnr_t: Scalar,
        logsnr_s: Scalar,
        keys: Key,
    ) -> tuple[Image, Any]:
        x_hat = _estimate(denoise, z_t, logsnr_t)
        noise = _noise_in(family, z_t, x_hat, logsnr_t)
        if eta:
            # Variance 1 = kept^2 + fresh^2, where fresh^2 = eta^2 c. As a sum: 1 minus
            # the fresh part would lose all digits where c is nearly 1.
            kept = jnp.sqrt(1.0 - eta**2 + eta**2 * jnp.exp(logsnr_t - logsnr_s))
            fresh = eta * jnp.sqrt(process.added_noise_fraction(logsnr_t, logsnr_s))
            fresh_noise = rng.normal_per_example(keys, z_t.shape[1:])
            noise = kept * noise + fresh * fresh_noise
        alpha_s, sigma_s = family.alpha_sigma(logsnr_s)
        return alpha_s * x_hat + sigma_s * noise, state

    return Solver(lambda z_t: (), step)


def heun(family: Family = VP) -> Solver:
    """Returns Heun's second-order method on the flow (8); two network calls a step.

    EDM (arXiv 2206.00364, algorithm 1) applies it to z/alpha as a function of
    sigma/alpha instead, which is unbounded and needs a grid like `karras`; in (8) a
    step may start at pure noise.
    """

    def step(
        denoise: DenoiseFn,
        z_t: Image,
        state: Any,
        logsnr_t: Scalar,
        logsnr_s: Scalar,
        keys: Key,
    ) -> tuple[Image, Any]:
        alpha_t, sigma_t = family.alpha_sigma(logsnr_t)
        alpha_s, sigma_s = family.alpha_sigma(logsnr_s)
        scale_t, scale_s = alpha_t + sigma_t, alpha_s + sigma_s
        y_t, dtau = z_t / scale_t, sigma_s / scale_s - sigma_t / scale_t

        def velocity(z: Image, logsnr: Scalar) -> Image:
            x_hat = _estimate(denoise, z, logsnr)
            return _noise_in(family, z, x_hat, logsnr) - x_hat

        u_t = velocity(z_t, logsnr_t)
        u_s = velocity(scale_s * (y_t + dtau * u_t), logsnr_s)
        return scale_s * (y_t + dtau * 0.5 * (u_t + u_s)), state

    return Solver(lambda z_t: (), step)


def dpmpp_2m(family: Family = VP) -> Solver:
    """Returns DPM-Solver++(2M) (arXiv 2211.01095): second order, one call a step.

    In l = logsnr/2 the exact solution weighs x_hat(l) by exp(l) over the step. x_hat is
    taken to be linear there, through its values at this step and the one before.
    """

    def init(z_t: Image) -> tuple[Image, Scalar]:
        # The estimate before the first step has weight 0: its logsnr is -inf.
        return jnp.zeros_like(z_t), jnp.float32(-jnp.inf)

    def step(
        denoise: DenoiseFn,
        z_t: Image,
        state: tuple[Image, Scalar],
        logsnr_t: Scalar,
        logsnr_s: Scalar,
        keys: Key,
    ) -> tuple[Image, tuple[Image, Scalar]]:
        x_before, logsnr_before = state
        x_hat = _estimate(denoise, z_t, logsnr_t)
        ratio = (logsnr_s - logsnr_t) / (logsnr_t - logsnr_before)
        x_middle = x_hat + 0.5 * ratio * (x_hat - x_before)

        _, sigma_t = family.alpha_sigma(logsnr_t)
        alpha_s, sigma_s = family.alpha_sigma(logsnr_s)
        share = -jnp.expm1(0.5 * (logsnr_t - logsnr_s))
        z_s = sigma_s / sigma_t * z_t + alpha_s * share * x_middle
        return z_s, (x_hat, logsnr_t)

    return Solver(init, step)


def _estimate(denoise: DenoiseFn, z: Image, logsnr: Scalar) -> Image:
    return denoise(z, jnp.broadcast_to(logsnr, z.shape[:1]))


def _noise_in(family: Family, z: Image, x_hat: Image, logsnr: Scalar) -> Image:
    """Returns eps_hat, the noise that z contains if x_hat is the image."""
    alpha, sigma = family.alpha_sigma(logsnr)
    return (z - alpha * x_hat) / sigma
