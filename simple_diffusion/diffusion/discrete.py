"""Discrete schedules: tables of betas, as in DDPM and latent diffusion.

Step k = 0, ..., T - 1 of such a process keeps the share 1 - beta_k of the variance of
the step before, so that its signal has the variance abar_k = prod_{j <= k} (1 - beta_j)
and its noise the rest: logsnr_k = log(abar_k / (1 - abar_k)). Step k is at time
k / (T - 1), and logsnr is linear between steps, so that solvers may stop anywhere.

At time 0 there is some noise, that of the first step, and at time 1 some signal.
"""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

Betas = Literal["linear", "scaled_linear"]


@dataclasses.dataclass(frozen=True)
class TabulatedSchedule:
    """Logsnr by linear interpolation of a table; beyond its ends the ends go on.

    Attributes:
      table: logsnr of the steps, the cleanest first, strictly decreasing.
    """

    table: tuple[float, ...]

    def __post_init__(self) -> None:
        steps = np.diff(self.table)
        if len(self.table) < 2 or not (steps < 0).all():
            raise ValueError(
                f"a table of {len(self.table)} values of logsnr must have at least two "
                "and decrease strictly"
            )

    @property
    def last(self) -> int:
        """The number of the last step, from 0."""
        return len(self.table) - 1

    @property
    def _levels(self) -> Float[Array, "steps"]:
        return jnp.asarray(self.table, jnp.float32)

    @property
    def _slopes(self) -> Float[Array, "steps"]:
        # On the host: in float32 the difference of neighbours would lose digits.
        return jnp.asarray(np.diff(self.table), jnp.float32)

    def __call__(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns logsnr at time t."""
        position = t * self.last
        k = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, self.last - 1)
        return self._levels[k] + self._slopes[k] * (position - k)

    def inverse(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns t; outside of the table it leaves [0, 1]."""
        k = self._interval(logsnr)
        return (k + (logsnr - self._levels[k]) / self._slopes[k]) / self.last

    def log_density(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns -log(-dlogsnr/dt), constant between steps."""
        return -jnp.log(-self._slopes[self._interval(logsnr)] * self.last)

    def _interval(self, logsnr: Float[Array, "*s"]) -> Int[Array, "*s"]:
        """Returns the number of the step before which a level lies."""
        ascending = -self._levels
        k = jnp.searchsorted(ascending, -logsnr, side="right") - 1
        return jnp.clip(k, 0, self.last - 1)


def from_betas(
    first: float, last: float, steps: int = 1000, kind: Betas = "scaled_linear"
) -> TabulatedSchedule:
    """Returns the schedule of betas that rise from `first` to `last`.

    Args:
      first: beta of the first step.
      last: beta of the last step.
      steps: their number.
      kind: "linear" in beta (DDPM, arXiv:2006.11239), or "scaled_linear", linear in the
        root of beta, as all models of latent diffusion and Stable Diffusion have it.

    Raises:
      ValueError: if the kind is unknown, or betas do not lie in (0, 1) in order.
    """
    if not 0 < first <= last < 1 or steps < 2:
        raise ValueError(
            f"betas from {first} to {last} in {steps} steps: they must satisfy "
            "0 < first <= last < 1, in at least 2 steps"
        )
    match kind:
        case "linear":
            betas = np.linspace(first, last, steps)
        case "scaled_linear":
            betas = np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2
        case _:
            raise ValueError(f"betas={kind!r} must be linear or scaled_linear")
    return TabulatedSchedule(tuple(_logsnr(betas).tolist()))


def _logsnr(betas: Float64[np.ndarray, "steps"]) -> Float64[np.ndarray, "steps"]:
    log_signal = np.cumsum(np.log1p(-betas))
    return log_signal - np.log(-np.expm1(log_signal))
