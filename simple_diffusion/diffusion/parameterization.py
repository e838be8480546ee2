"""Kinds of network predictions, and the conversions between them.

Every kind is a linear combination a x + b eps of image and noise:

    eps   eps                  the noise
    x     x                    the image
    v     alpha eps - sigma x  the velocity along the circle of vp (arXiv 2202.00512)
    u     eps - x              the velocity along the line of flow (arXiv 2209.03003)

Together with z_t = alpha x + sigma eps that is two equations in two unknowns, with
determinant det = alpha b - sigma a. So a prediction o and z_t give

    x_hat = (b z_t - sigma o) / det,    and back    o = (b z_t - det x_hat) / sigma,

and an error of size d in x_hat is an error of size (det / sigma) d in o. The kinds
differ only in this factor, so a loss in one space converts exactly to every other.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.diffusion import process
from simple_diffusion.diffusion.process import VP, Family

# kind -> (a, b) from (alpha, sigma). A new kind is one line here.
_COMBINATIONS: dict[str, Callable] = {
    "eps": lambda alpha, sigma: (jnp.zeros_like(alpha), jnp.ones_like(alpha)),
    "x": lambda alpha, sigma: (jnp.ones_like(alpha), jnp.zeros_like(alpha)),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "u": lambda alpha, sigma: (-jnp.ones_like(alpha), jnp.ones_like(alpha)),
}

KINDS = tuple(_COMBINATIONS)


def target(
    kind: str,
    x: Float[Array, "b ..."],
    eps: Float[Array, "b ..."],
    logsnr: Float[Array, "b"],
    family: Family = VP,
) -> Float[Array, "b ..."]:
    """Returns the ideal prediction of this kind for x and eps.

    Training uses this function rather than `from_x`, because it has no division.
    """
    a, b = _combination(kind, *process.expand(family, logsnr, x))
    return a * x + b * eps


def to_x(
    kind: str,
    output: Float[Array, "b ..."],
    z_t: Float[Array, "b ..."],
    logsnr: Float[Array, "b"],
    family: Family = VP,
) -> Float[Array, "b ..."]:
    """Returns x_hat from a prediction of any kind.

    Args:
      kind: one of `KINDS`.
      output: the prediction.
      z_t: the noisy image that the prediction is for.
      logsnr: the noise level of z_t.
      family: the scale of z_t.

    Raises:
      ValueError: the kind is unknown.
    """
    alpha, sigma = process.expand(family, logsnr, z_t)
    a, b = _combination(kind, alpha, sigma)
    return (b * z_t - sigma * output) / (alpha * b - sigma * a)


def from_x(
    kind: str,
    x_hat: Float[Array, "b ..."],
    z_t: Float[Array, "b ..."],
    logsnr: Float[Array, "b"],
    family: Family = VP,
) -> Float[Array, "b ..."]:
    """Returns the prediction that is equivalent to x_hat; the inverse of `to_x`.

    Arguments and errors as for `to_x`. It divides by sigma, so at high logsnr the
    rounding error of z_t is amplified in every kind but x.
    """
    alpha, sigma = process.expand(family, logsnr, z_t)
    a, b = _combination(kind, alpha, sigma)
    return (b * z_t - (alpha * b - sigma * a) * x_hat) / sigma


def log_error_factor(
    kind: str, logsnr: Float[Array, "*s"], family: Family = VP
) -> Float[Array, "*s"]:
    """Returns log(E_eps / E_kind), the ratio of squared errors at a fixed z_t.

    Adding it to a log weight on the error of eps gives the log weight on the error of
    `kind` that is the same loss. It is log(alpha^2 / det^2): for vp that is zero for
    eps, log SNR for x, and log alpha^2 for v.
    """
    alpha, sigma = family.alpha_sigma(logsnr)
    a, b = _combination(kind, alpha, sigma)
    return 2.0 * (jnp.log(alpha) - jnp.log(jnp.abs(alpha * b - sigma * a)))


def _combination(kind: str, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    if kind not in _COMBINATIONS:
        raise ValueError(f"unknown kind of prediction {kind!r}; known: {KINDS}")
    return _COMBINATIONS[kind](alpha, sigma)
