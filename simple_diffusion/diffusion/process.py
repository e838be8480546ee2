"""The Gaussian process between image and noise, and the moments that solvers need.

Written for one pixel; all pixels behave alike and independently. x is the clean image,
ε ~ N(0, 1) noise, λ = log(α²/σ²) the logarithm of the signal-to-noise ratio (SNR). Of
two times, s is the cleaner and t the noisier one, s < t, so λₛ > λₜ.

§1  The marginal.  An image is mixed with noise,

        zₜ = αₜ x + σₜ ε.                                                       (1)

    All information about x lies in the ratio α/σ, that is in λ: multiplying z by a
    known number changes nothing. What remains to choose is a scale, the *family*:

        vp     α² + σ² = 1    α = √sigmoid(λ)     σ = √sigmoid(−λ)             (2a)
        flow   α + σ = 1      α = sigmoid(λ/2)    σ = sigmoid(−λ/2)            (2b)

    vp keeps the variance of normalised data at one (arXiv 2006.11239, 2107.00630); flow
    draws a straight line from image to noise (arXiv 2209.03003). What follows uses
    neither, so it holds for both.

§2  One step noisier.  We want a Markov chain with the marginals (1),
    zₜ = αₜₛ zₛ + σₜₛ ε′. Put (1) at time s into it: the coefficient of x must be αₜ,
    and the variances of the two noises must add up to σₜ²,

        αₜₛ = αₜ / αₛ,        σₜₛ² = σₜ² − αₜₛ² σₛ².                            (3)

    For a short step (3) subtracts two nearly equal numbers. But αₜₛ² σₛ² = r σₜ² with
    r = SNRₜ/SNRₛ = exp(λₜ − λₛ), so that

        σₜₛ² = c σₜ²,         c = 1 − r = −expm1(λₜ − λₛ) ∈ (0, 1),             (4)

    which is exact to the last digit for steps of any length. c is the fraction of the
    noise in zₜ that this step has added.

§3  One step cleaner, if x were known.  By Bayes' rule q(zₛ | zₜ, x) is proportional to
    N(zₛ; αₛ x, σₛ²) · N(zₜ; αₜₛ zₛ, σₜₛ²), a product of Gaussians in zₛ. Precisions
    add, and (3), then (4), simplify the sum:

        1/ς² = 1/σₛ² + αₜₛ²/σₜₛ² = σₜ²/(σₛ² σₜₛ²)     ⇒   ς² = c σₛ².           (5)

    The mean weighs the two opinions αₛ x and zₜ/αₜₛ about zₛ by their precisions:

        μ = (ς²/σₛ²) αₛ x + (ς² αₜₛ/σₜₛ²) zₜ = c αₛ x + αₜₛ (σₛ²/σₜ²) zₜ.        (6)

    An ancestral sampler draws from N(μ, ς²) with x̂ in the place of x. Since x̂ is not
    certain, the true reverse step is wider than ς². How wide depends on the data; for
    white data of unit variance, in vp, it is as wide as the step forward, c σₜ² (arXiv
    2006.11239, section 3.2). In between one interpolates log variance (2102.09672).

§4  One step cleaner without chance.  (1) leaves open how the noises at two times are
    related. If they are the same,

        zₛ = αₛ x̂ + σₛ ε̂,        ε̂ = (zₜ − αₜ x̂)/σₜ,                           (7)

    the step of DDIM (arXiv 2010.02502). Its limit is an ordinary differential equation,
    and it is simplest in the scale of flow: y = z/(α+σ) and τ = σ/(α+σ) turn (1) into
    y = (1−τ) x + τ ε, hence

        dy/dτ = ε̂ − x̂ = û.                                                    (8)

    Both sides stay bounded from pure noise (τ = 1) to the image (τ = 0), and a step of
    Euler's method in (8) is (7).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core import arrays


class Family(NamedTuple):
    """A choice of scale for z.

    name: "vp" or "flow".
    alpha_sigma: logsnr [*s] -> (alpha [*s], sigma [*s]), the amplitudes of (1).
    """

    name: str
    alpha_sigma: Callable[
        [Float[Array, "*s"]], tuple[Float[Array, "*s"], Float[Array, "*s"]]
    ]


def _vp(logsnr: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    # Two sigmoids instead of 1 - alpha^2, which is zero in float32 from logsnr 17 on.
    return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def _flow(logsnr: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    return jax.nn.sigmoid(0.5 * logsnr), jax.nn.sigmoid(-0.5 * logsnr)


VP = Family("vp", _vp)
FLOW = Family("flow", _flow)


class Transition(NamedTuple):
    """q(z_t | z_s) = N(scale z_s, variance): equations (3) and (4)."""

    scale: Float[Array, "*s"]
    variance: Float[Array, "*s"]


class Posterior(NamedTuple):
    """q(z_s | z_t, x) = N(z_scale z_t + x_scale x, variance): equations (5) and (6)."""

    z_scale: Float[Array, "*s"]
    x_scale: Float[Array, "*s"]
    variance: Float[Array, "*s"]


def expand(
    family: Family, logsnr: Float[Array, "b"], like: Float[Array, "b ..."]
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """Returns alpha and sigma with the trailing axes of size one that `like` needs."""
    alpha, sigma = family.alpha_sigma(logsnr)
    return arrays.expand_dims_like(alpha, like), arrays.expand_dims_like(sigma, like)


def add_noise(
    family: Family,
    x: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    logsnr: Float[Array, "b"],
) -> Float[Array, "b ..."]:
    """Returns z_t = alpha x + sigma eps, equation (1)."""
    alpha, sigma = expand(family, logsnr, x)
    return alpha * x + sigma * eps


def added_noise_fraction(
    logsnr_t: Float[Array, "*s"], logsnr_s: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """Returns c, the fraction of the noise in z_t added since z_s: equation (4)."""
    return -jnp.expm1(logsnr_t - logsnr_s)


def transition(
    family: Family, logsnr_t: Float[Array, "*s"], logsnr_s: Float[Array, "*s"]
) -> Transition:
    """Returns the moments of one step noisier, from s to t."""
    alpha_t, sigma_t = family.alpha_sigma(logsnr_t)
    alpha_s, _ = family.alpha_sigma(logsnr_s)
    fraction = added_noise_fraction(logsnr_t, logsnr_s)
    return Transition(alpha_t / alpha_s, fraction * jnp.square(sigma_t))


def posterior(
    family: Family, logsnr_t: Float[Array, "*s"], logsnr_s: Float[Array, "*s"]
) -> Posterior:
    """Returns the moments of one step cleaner, from t to s, when x is known."""
    alpha_t, sigma_t = family.alpha_sigma(logsnr_t)
    alpha_s, sigma_s = family.alpha_sigma(logsnr_s)
    fraction = added_noise_fraction(logsnr_t, logsnr_s)
    return Posterior(
        z_scale=alpha_t / alpha_s * jnp.square(sigma_s / sigma_t),
        x_scale=fraction * alpha_s,
        variance=fraction * jnp.square(sigma_s),
    )
