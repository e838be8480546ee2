"""The steps of DDNM and DDNM+ (arXiv 2212.00490), as solvers.

One step from z_t to z_s, with x̂ the estimate of the network, ε̂ = (z_t - α_t x̂)/σ_t the
corresponding noise, x' the projected estimate and n fresh noise:

    z_s = α_s x' + σ_s (η n + √(1 - η²) ε̂).                                      (1)

ε̂ belongs to x̂, not to x'. Ordinary solvers on `null_space.project_denoiser` use the
noise of x'. η differs from that of DDIM, whose fresh noise depends on the step length.

With noise in the measurement, y = A x + N(0, σ_y²), x' carries A⁺ times that noise. Let
A = U diag(s) Vᵀ. Along a column of V with s > 0, DDNM+ corrects only a fraction λ and
adds less noise of its own, so that both together have the variance of z_s:

    x' = x̂ - V λ Vᵀ A⁺(A x̂ - y),     z_s = α_s x' + V (d₁ Vᵀn + d₂ Vᵀε̂),
    (α_s λ σ_y / s)² + d₁² = σ_s².                                               (2)

    s > 0, s σ_s ≥ α_s σ_y:   λ = 1,                           d₁² = σ_s² - (α_s σ_y/s)²
    s > 0, otherwise:         λ = s σ_s √(1 - η²)/(α_s σ_y),   d₁ = η σ_s
    s = 0:                                                     d₁ = η σ_s

and d₂ = √(1 - η²) σ_s where s = 0, else 0. As σ_y -> 0 all of the noise along s > 0 is
fresh, whereas (1) keeps √(1 - η²) ε̂ there: DDNM+ does not become DDNM. At the end,
where σ_s = 0, λ is 0 too: the image is x̂ itself, without projection.

The code of the authors has V (d₁ n + d₂ ε̂) in place of the noise in (2), without Vᵀ,
for all but in-painting and denoising. That is no more than another draw of n, but takes
the pixels of ε̂ for coefficients, so that the noise that is kept is not that of z_t. For
super-resolution, colour, blur and Hadamard sensing with noise, results here therefore
differ from theirs; with Vᵀ added to their code they are equal.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core import rng
from simple_diffusion.core.types import DenoiseFn, Key, Solver
from simple_diffusion.diffusion import process
from simple_diffusion.diffusion.process import VP, Family
from simple_diffusion.restoration import null_space
from simple_diffusion.restoration.operators import LinearOperator

Image = Float[Array, "b h w c"]
Scalar = Float[Array, ""]

# Section 4.1 of the paper: most of the noise is fresh, which removes earlier errors.
ETA = 0.85


def ddnm(
    operator: LinearOperator,
    y: Array,
    family: Family = VP,
    eta: float = ETA,
    *,
    as_ddim: bool = False,
) -> Solver:
    """Returns the step (1), for a measurement without noise.

    Args:
      operator: of the measurement.
      y: the measurement.
      family: the scale of z.
      eta: fraction of fresh noise, in [0, 1].
      as_ddim: replace eta² of the noise that the step adds, as DDIM does, instead of
        eta² of all noise (for inpainting in the latents of an autoencoder).
    """

    def step(
        denoise: DenoiseFn,
        z_t: Image,
        state: Any,
        logsnr_t: Scalar,
        logsnr_s: Scalar,
        keys: Key,
    ) -> tuple[Image, Any]:
        x_hat, eps_hat = _estimates(denoise, z_t, logsnr_t, family)
        new, old = jnp.float32(1.0), jnp.float32(0.0)  # of the noise, in variance
        if as_ddim:
            new = process.added_noise_fraction(logsnr_t, logsnr_s)
            old = jnp.exp(logsnr_t - logsnr_s)
        noise = eta * jnp.sqrt(new) * rng.normal_per_example(keys, z_t.shape[1:])
        # As a sum: 1 minus the fresh part would lose all digits where that is nearly 1.
        noise = noise + jnp.sqrt(1.0 - eta**2 + eta**2 * old) * eps_hat
        alpha_s, sigma_s = family.alpha_sigma(logsnr_s)
        x = null_space.project(operator, x_hat, y)
        return alpha_s * x + sigma_s * noise, state

    return Solver(lambda z_t: (), step)


def ddnm_plus(
    operator: LinearOperator,
    y: Array,
    sigma_y: float,
    family: Family = VP,
    eta: float = ETA,
) -> Solver:
    """Returns the step (2), for a measurement with noise.

    Args:
      operator: of the measurement; with its spectrum.
      y: the measurement, with noise.
      sigma_y: standard deviation of its noise, more than 0, in units of x: twice the
        value for images in [0, 1].
      family: the scale of z.
      eta: as for `ddnm`, where the measurement gives no, or too noisy, information.

    Raises:
      ValueError: sigma_y is not positive, or the operator has no spectrum.
    """
    _check_sigma(sigma_y)
    spectrum = operator.spectrum
    if spectrum is None:
        raise ValueError(
            "restore.sigma_y > 0 needs the exact operator: set restore.compat=False, "
            "or restore.solver=ddnm_simplified"
        )

    def step(
        denoise: DenoiseFn,
        z_t: Image,
        state: Any,
        logsnr_t: Scalar,
        logsnr_s: Scalar,
        keys: Key,
    ) -> tuple[Image, Any]:
        x_hat, eps_hat = _estimates(denoise, z_t, logsnr_t, family)
        alpha_s, sigma_s = family.alpha_sigma(logsnr_s)
        singulars = jnp.asarray(spectrum.singulars, z_t.dtype)
        share, fresh, kept = ddnm_plus_coefficients(
            singulars, alpha_s, sigma_s, sigma_y, eta
        )
        noise = rng.normal_per_example(keys, z_t.shape[1:])
        error = operator.pinv(operator.forward(x_hat) - y)
        # All three terms of (2) share one synthesis.
        coefficients = (
            fresh * spectrum.analyse(noise)
            + kept * spectrum.analyse(eps_hat)
            - alpha_s * share * spectrum.analyse(error)
        )
        return alpha_s * x_hat + spectrum.synthesise(coefficients), state

    return Solver(lambda z_t: (), step)


def ddnm_plus_coefficients(
    singulars: Float[Array, "*s"],
    alpha: Scalar,
    sigma: Scalar,
    sigma_y: float,
    eta: float,
) -> tuple[Float[Array, "*s"], Float[Array, "*s"], Float[Array, "*s"]]:
    """Returns lambda, d1 and d2 of (2) for each singular value.

    Args:
      singulars: s, not negative.
      alpha: amplitude of the image at the end of the step.
      sigma: amplitude of the noise there.
      sigma_y: that of the noise in the measurement, more than 0.
      eta: fraction of fresh noise where the measurement has no effect.
    """
    measured = singulars > 0
    strong = measured & (singulars * sigma >= alpha * sigma_y)
    old = jnp.sqrt(jnp.asarray(1.0 - eta**2, singulars.dtype))
    weak = singulars * sigma * old / (alpha * sigma_y)
    # The noise that comes from the measurement; 0 instead of a division by 0.
    from_y = alpha * sigma_y / jnp.where(strong, singulars, jnp.inf)
    own = jnp.sqrt(jnp.maximum((sigma - from_y) * (sigma + from_y), 0.0))
    share = jnp.where(strong, 1.0, jnp.where(measured, weak, 0.0))
    fresh = jnp.where(strong, own, eta * sigma)
    return share, fresh, jnp.where(measured, 0.0, old * sigma)


def ddnm_simplified(
    operator: LinearOperator,
    y: Array,
    sigma_y: float = 0.0,
    family: Family = VP,
    eta: float = ETA,
) -> Solver:
    """Returns the step of the simplified sampler as published, including its errors.

    It uses only A and A⁺ and treats all singular values as 1. Its noise is too small by
    a factor √(1 - ᾱ²) at ᾱ = α_s²: 0.92 in the middle of sampling and less than 0.1 at
    the end. For comparison only.

    Args:
      operator: of the measurement.
      y: the measurement.
      sigma_y: standard deviation of its noise, in units of x; may be 0.
      family: the scale of z; the step is taken in that of vp.
      eta: as for `ddnm`.
    """

    def step(
        denoise: DenoiseFn,
        z_t: Image,
        state: Any,
        logsnr_t: Scalar,
        logsnr_s: Scalar,
        keys: Key,
    ) -> tuple[Image, Any]:
        x_hat, eps_hat = _estimates(denoise, z_t, logsnr_t, family)
        alpha, sigma = VP.alpha_sigma(logsnr_s)
        alpha_bar = alpha**2
        level, from_y = jnp.sqrt(1.0 - alpha_bar**2), alpha_bar * sigma_y
        strong = level >= from_y
        share = jnp.where(strong, 1.0, level / jnp.where(strong, 1.0, from_y))
        gain = jnp.sqrt(jnp.maximum(level**2 - from_y**2, 0.0))
        error = operator.pinv(operator.forward(x_hat) - y)
        noise = eta * rng.normal_per_example(keys, z_t.shape[1:])
        noise = noise + (1.0 - eta**2) ** 0.5 * eps_hat
        z_s = alpha * (x_hat - share * error) + gain * sigma * noise
        return family.alpha_sigma(logsnr_s)[0] / alpha * z_s, state

    return Solver(lambda z_t: (), step)


def _estimates(
    denoise: DenoiseFn, z_t: Image, logsnr: Scalar, family: Family
) -> tuple[Image, Image]:
    """Returns x_hat and the corresponding noise in z_t."""
    x_hat = denoise(z_t, jnp.broadcast_to(logsnr, z_t.shape[:1]))
    alpha, sigma = family.alpha_sigma(logsnr)
    return x_hat, (z_t - alpha * x_hat) / sigma


def _check_sigma(sigma_y: float) -> None:
    if not sigma_y > 0:
        raise ValueError(f"sigma_y={sigma_y} must be more than 0")
