"""Noise schedules: the log signal-to-noise ratio as a function of time, and back.

Time runs from t = 0 (clean) to t = 1 (noise), so every schedule is strictly decreasing.
A schedule also defines a distribution: if t is uniform, logsnr has the density
p(logsnr) = -dt/dlogsnr, which is how often training samples each noise level.

Bounds are applied by remapping t and never by clamping logsnr: a clamped schedule has a
flat end, where the density is infinite and the inverse does not exist.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@runtime_checkable
class Schedule(Protocol):
    """A strictly decreasing map from time in [0, 1] to logsnr."""

    def __call__(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns logsnr at time t."""
        ...

    def inverse(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns the time t at which the schedule has this logsnr."""
        ...

    def log_density(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns log p(logsnr) for uniform t, that is -log(-dlogsnr/dt)."""
        ...


@dataclasses.dataclass(frozen=True)
class Cosine:
    """alpha = cos(u), sigma = sin(u), with the angle u linear in t.

    Unbounded, u = pi/2 t (arXiv 2301.11093); bounds shorten the range of the angle.

    Attributes:
      logsnr_min: logsnr at t = 1.
      logsnr_max: logsnr at t = 0.
    """

    logsnr_min: float = -15.0
    logsnr_max: float = 15.0

    # tan(u) = sigma/alpha = exp(-logsnr/2). Near t = 1, where u approaches pi/2, the
    # resolution of float32 is too low (an error of 3e-4 in logsnr). So u is measured
    # from the nearer end of the quarter circle.

    @property
    def _start(self) -> float:
        """The angle between t = 0 and the axis of no noise."""
        return math.atan(math.exp(-0.5 * self.logsnr_max))

    @property
    def _end(self) -> float:
        """The angle between t = 1 and the axis of no signal."""
        return math.atan(math.exp(0.5 * self.logsnr_min))

    @property
    def _width(self) -> float:
        return math.pi / 2 - self._start - self._end

    def __call__(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns logsnr = -2 log tan u(t)."""
        angle, sign = _from_nearer_end(t, self._start, self._end, self._width)
        return sign * 2.0 * jnp.log(jnp.tan(angle))

    def inverse(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns t; outside the bounds it leaves [0, 1]."""
        angle = jnp.atan(jnp.exp(-0.5 * jnp.abs(logsnr)))
        from_start = (angle - self._start) / self._width
        from_end = (angle - self._end) / self._width
        return jnp.where(logsnr >= 0, from_start, 1.0 - from_end)

    def log_density(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns log p, from -dlogsnr/dt = 4 width cosh(logsnr/2)."""
        return -math.log(4.0 * self._width) - _log_cosh(0.5 * logsnr)


@dataclasses.dataclass(frozen=True)
class Flow:
    """alpha = 1 - a, sigma = a, with the amplitude a linear in t (rectified flow).

    The schedule defines logsnr only. The family (process.py) defines the scale of z,
    and any family can be trained with any schedule. Source: arXiv 2209.03003.

    Attributes:
      logsnr_min: logsnr at t = 1.
      logsnr_max: logsnr at t = 0.
    """

    logsnr_min: float = -15.0
    logsnr_max: float = 15.0

    @property
    def _start(self) -> float:
        """The amplitude of the noise at t = 0."""
        return 1.0 / (1.0 + math.exp(0.5 * self.logsnr_max))

    @property
    def _end(self) -> float:
        """The amplitude of the signal at t = 1."""
        return 1.0 / (1.0 + math.exp(-0.5 * self.logsnr_min))

    @property
    def _width(self) -> float:
        return 1.0 - self._start - self._end

    def __call__(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns logsnr = 2 log((1 - a) / a)."""
        a, sign = _from_nearer_end(t, self._start, self._end, self._width)
        return sign * 2.0 * (jnp.log(a) - jnp.log1p(-a))

    def inverse(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns t; outside the bounds it leaves [0, 1]."""
        a = jax.nn.sigmoid(-0.5 * jnp.abs(logsnr))
        from_start = (a - self._start) / self._width
        from_end = (a - self._end) / self._width
        return jnp.where(logsnr >= 0, from_start, 1.0 - from_end)

    def log_density(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns log p, from -dlogsnr/dt = 2 width / (a (1 - a))."""
        # 1 / (a (1 - a)) = 4 cosh(logsnr/4)^2
        return -math.log(8.0 * self._width) - 2.0 * _log_cosh(0.25 * logsnr)


@dataclasses.dataclass(frozen=True)
class ShiftedSchedule:
    """Another schedule with a constant added to its logsnr.

    Attributes:
      base: the schedule that is shifted.
      shift: added to logsnr; an array broadcasts against t, one shift per example.
    """

    base: Schedule
    shift: float | Float[Array, "..."]

    def __call__(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns the base's logsnr plus the shift."""
        return self.base(t) + self.shift

    def inverse(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns the time t at which the base has logsnr minus the shift."""
        return self.base.inverse(logsnr - self.shift)

    def log_density(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns log p of the base at logsnr minus the shift."""
        return self.base.log_density(logsnr - self.shift)


@dataclasses.dataclass(frozen=True)
class InterpolatedSchedule:
    """A linear interpolation from one schedule at t = 0 to another at t = 1.

    Attributes:
      clean: the schedule at the clean end.
      noisy: the schedule at the noisy end.
    """

    clean: Schedule
    noisy: Schedule

    def __call__(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns (1 - t) clean(t) + t noisy(t)."""
        return (1.0 - t) * self.clean(t) + t * self.noisy(t)

    def inverse(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns t by bisection; outside the range, the nearer end."""

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            is_before = self(middle) > logsnr  # then the answer lies later
            return jnp.where(is_before, middle, low), jnp.where(is_before, high, middle)

        # 2^-32 is below the resolution of float32, also at the clean end, where t is
        # added to an angle of 1e-4 or more.
        bracket = jnp.zeros_like(logsnr), jnp.ones_like(logsnr)
        low, high = jax.lax.fori_loop(0, 32, halve, bracket)
        return 0.5 * (low + high)

    def log_density(self, logsnr: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Returns log p, from the derivative of the product rule."""
        t = self.inverse(logsnr)
        clean, noisy = self.clean(t), self.noisy(t)
        clean_rate = jnp.exp(-self.clean.log_density(clean))
        noisy_rate = jnp.exp(-self.noisy.log_density(noisy))
        return -jnp.log((1.0 - t) * clean_rate + t * noisy_rate + clean - noisy)


def cosine(logsnr_min: float = -15.0, logsnr_max: float = 15.0) -> Cosine:
    """Returns the cosine schedule between two bounds."""
    return Cosine(logsnr_min, logsnr_max)


def flow(
    logsnr_min: float = -15.0, logsnr_max: float = 15.0, shift: float = 0.0
) -> Schedule:
    """Returns the straight-line schedule between two bounds; the shift comes last."""
    base = Flow(logsnr_min, logsnr_max)
    return ShiftedSchedule(base, shift) if shift else base


def shift_schedule(
    base: Cosine | Flow,
    noise_d: int | float,
    image_d: int | float,
    keep_end_points: bool = False,
) -> ShiftedSchedule:
    """Returns `base` with the SNR divided by (image_d / noise_d)^2.

    Averaging over k x k pixels divides the variance of white noise by k^2. An image of
    side image_d, pooled to noise_d, shall be as noisy as `base` defines. Its own SNR is
    therefore smaller by that factor (arXiv 2301.11093, section 3.1).

    Args:
      base: the schedule at the reference resolution.
      noise_d: side in pixels of the reference resolution; smaller means noisier.
      image_d: side in pixels of the images fed to the network; sqrt(h w) if not square.
      keep_end_points: first moves the bounds of `base` in the opposite direction, so
        that the logsnr at t = 0 and t = 1 do not change.
    """
    shift = 2.0 * math.log(noise_d / image_d)
    if keep_end_points:
        base = dataclasses.replace(
            base,
            logsnr_min=base.logsnr_min - shift,
            logsnr_max=base.logsnr_max - shift,
        )
    return ShiftedSchedule(base, shift)


def interpolate_schedules(clean: Schedule, noisy: Schedule) -> InterpolatedSchedule:
    """Returns the schedule that starts as `clean` and ends as `noisy`.

    For text-to-image at 512 pixels: clean = shift_schedule(cosine(), 256, 512) and
    noisy = shift_schedule(cosine(), 32, 512). Swapping them gives Eq. 6 of arXiv
    2301.11093 as printed, which narrows the range of logsnr instead of widening it.
    """
    return InterpolatedSchedule(clean, noisy)


def _from_nearer_end(
    t: Float[Array, "*s"], start: float, end: float, width: float
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Returns the distance from the nearer end, and the sign of -logsnr' there.

    The end is selected before any function is applied, so that neither the value nor
    the gradient is evaluated at the singularity of the far end.
    """
    is_first_half = t <= 0.5
    distance = jnp.where(is_first_half, start + t * width, end + (1.0 - t) * width)
    return distance, jnp.where(is_first_half, -1.0, 1.0)


def _log_cosh(v: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jnp.logaddexp(v, -v) - math.log(2.0)
