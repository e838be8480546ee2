"""Loss weightings, all relative to one measure.

A weighting is the logarithm of w(logsnr) in

    loss = integral of w(logsnr) E_eps(logsnr) dlogsnr,

where E_eps is the mean squared error of the predicted noise. The integral does not
depend on t: a training schedule only selects the samples, and is divided out.

Many published losses are averages over t instead, and so depend on the schedule that
they were published with: the density p(logsnr) of that schedule is part of the weight.
Such weightings take the schedule as an argument. In training with the same schedule and
uniform t, the density cancels and the published formula remains; in training with
another schedule, the loss stays the same. With E_x = E_eps / SNR, and so on, from
parameterization.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simple_diffusion.core.types import WeightFn
from simple_diffusion.diffusion import parameterization, time_distributions
from simple_diffusion.diffusion.process import VP, Family
from simple_diffusion.diffusion.schedules import Schedule


def unit() -> WeightFn:
    """Returns w = 1; half this loss, summed over pixels, is the variational bound."""
    return lambda logsnr: jnp.zeros_like(logsnr)


def mse(kind: str, schedule: Schedule, family: Family = VP) -> WeightFn:
    """Returns the weighting of the plain mean over t of the squared error of `kind`.

    Args:
      kind: the space of the error, independent of what the network predicts.
      schedule: the schedule over which t was uniform.
      family: the scale of z that defines v; the other kinds do not depend on it.
    """

    def log_weight(logsnr: Float[Array, "b"]) -> Float[Array, "b"]:
        factor = parameterization.log_error_factor(kind, logsnr, family)
        return schedule.log_density(logsnr) - factor

    return log_weight


# The loss of simple diffusion's U-Nets (arXiv 2301.11093, section 3.4).
eps_mse = functools.partial(mse, "eps")
# The loss of its U-ViTs.
v_mse = functools.partial(mse, "v")
x_mse = functools.partial(mse, "x")
# Flow matching, if the schedule is `flow`.
u_mse = functools.partial(mse, "u")


def logit_normal(schedule: Schedule, mean: float = 0.0, std: float = 1.0) -> WeightFn:
    """Returns the weighting of the mean of E_u over logit-normal t.

    In Stable Diffusion 3 (arXiv 2403.03206, section 3.1) and JiT (arXiv 2511.13720) the
    distribution of t is part of the loss. A time distribution here is not: the loss is
    divided by its density. This weighting contains the density, as `edm` does. Trained
    with `time_distributions.logit_normal` of the same mean and std, every example's
    error has the same factor, as published.

    Args:
      schedule: the schedule of t; theirs is `flow`.
      mean: of logit(t); positive prefers noise. 0 in SD3. JiT's -0.8 is 0.8 here,
        because its time runs from noise to data.
      std: its standard deviation: 1 in SD3, 0.8 in JiT.
    """
    plain = u_mse(schedule)
    density = time_distributions.logit_normal(mean, std).log_density
    return lambda logsnr: plain(logsnr) + density(schedule.inverse(logsnr))


def snr_trunc(schedule: Schedule) -> WeightFn:
    """Returns max(E_x, E_eps), that is max(1, 1/SNR) on E_eps (arXiv 2202.00512)."""
    return lambda logsnr: jnp.maximum(-logsnr, 0.0) + schedule.log_density(logsnr)


def min_snr(schedule: Schedule, gamma: float = 5.0, floor: float = 0.0) -> WeightFn:
    """Returns min(SNR, gamma) on E_x: min(1, gamma/SNR) on E_eps (arXiv 2303.09556).

    Args:
      schedule: over which t was uniform.
      gamma: largest weight on E_x.
      floor: smallest weight on E_x; 0 in the paper. Where noise hides everything, what
        the conditions say of the large shapes is learned only if errors there count.
    """

    def log_weight(logsnr: Float[Array, "b"]) -> Float[Array, "b"]:
        ratio = jnp.minimum(math.log(gamma) - logsnr, 0.0)
        if floor:
            ratio = jnp.maximum(ratio, math.log(floor) - logsnr)
        return ratio + schedule.log_density(logsnr)

    return log_weight


def soft_min_snr(schedule: Schedule, gamma: float = 5.0) -> WeightFn:
    """Returns gamma SNR / (gamma + SNR) on E_x: `min_snr` without its corner."""

    def log_weight(logsnr: Float[Array, "b"]) -> Float[Array, "b"]:
        ratio = jax.nn.log_sigmoid(math.log(gamma) - logsnr)
        return ratio + schedule.log_density(logsnr)

    return log_weight


def sigmoid(bias: float) -> WeightFn:
    """Returns sigmoid(bias - logsnr), the loss of SiD2 (arXiv 2410.19324, Eq. 4).

    The paper writes it as exp(bias) sigmoid(logsnr - bias) on E_x, times -dlogsnr/dt.
    """
    return lambda logsnr: jax.nn.log_sigmoid(bias - logsnr)


def edm(p_mean: float = -1.2, p_std: float = 1.2, sigma_data: float = 0.5) -> WeightFn:
    """Returns the loss of EDM (arXiv 2206.00364, table 1).

    Args:
      p_mean: mean of log(sigma/alpha) over training; logsnr is -2 times that.
      p_std: its standard deviation.
      sigma_data: standard deviation of the data; -1.2, 1.2 and 0.5 are the paper's.
    """

    def log_weight(logsnr: Float[Array, "b"]) -> Float[Array, "b"]:
        deviation = (logsnr + 2.0 * p_mean) / (2.0 * p_std)
        log_density = -0.5 * jnp.square(deviation) - math.log(
            2.0 * p_std * math.sqrt(2.0 * math.pi)
        )
        # (s^2 + sd^2) / (s sd)^2 on E_x is 1 + s^2 / sd^2 on E_eps, with s^2 = 1/SNR.
        return log_density + jax.nn.softplus(-logsnr - 2.0 * math.log(sigma_data))

    return log_weight


def sigmoid_bias(resolution: int | float) -> float:
    """Returns the bias of `sigmoid` for images of this side.

    The bias is linear in log2(side) between the tabulated sides. Outside it falls by
    2 log 2 per doubling, the rate at which pooled images gain SNR. The value at 64 is
    from public code for rectified flow, the others are from SiD2.
    """
    sides, biases = [64, 128, 256, 512, 1024], [2.0, 0.0, -1.0, -3.0, -4.0]
    inside = min(max(resolution, sides[0]), sides[-1])
    tabulated = np.interp(math.log2(inside), np.log2(sides), biases)
    return float(tabulated) - 2.0 * math.log(resolution / inside)
