"""The light degradation of BSRGAN: small images as they come from cameras and the web.

Blur, two resizes, noise and JPEG follow each other in a random order; JPEG comes once
more at the end. Noise and compression are weaker than in BSRGAN, and its second blur
and its camera leave empty slots, so that the order is still that of seven.

What is random apart from the pixels of the noise is a `Plan`, drawn first: a test can
look at it, and two images can be degraded alike.

All of it runs on the host. JPEG has to, and since it may come anywhere in the order,
the steps before it would have to return from the device first.

Sources: Zhang et al., arXiv 2103.14006, section 3; Rombach et al., arXiv 2112.10752,
appendix D.6.1, for the light form.
"""

import dataclasses
import io
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from simple_diffusion.data.conditioning import filters
from simple_diffusion.data.conditioning.filters import Filter, FloatImage

Slot = Literal["blur", "no second blur", "shrink", "fit", "noise", "jpeg", "no camera"]
NoiseKind = Literal["independent", "grey", "correlated"]

SLOTS: tuple[Slot, ...] = (
    "blur",
    "no second blur",
    "shrink",
    "fit",
    "noise",
    "jpeg",
    "no camera",
)
_FILTERS: tuple[Filter, ...] = ("linear", "cubic", "area")
_NOISES: tuple[NoiseKind, ...] = ("independent", "grey", "correlated")
_NOISE_SHARES = 0.4, 0.4, 0.2
_MAX_NOISE = 2  # of 255
_QUALITIES = 80, 95
_JPEG_SHARE = 0.9  # without that at the end
_HALVING_SHARE, _RESIZE_SHARE = 0.25, 0.8
_DECIMATION_TAPS = 25
# Squared pixels: a Gaussian of variance 0 has no formula, and this one is a point.
_MIN_VARIANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Blur:
    """A Gaussian of `taps` pixels along each axis.

    variances: along and across the direction at `angle`, as `filters.gaussian_2d`.
    """

    taps: int
    variances: tuple[float, float]
    angle: float


@dataclasses.dataclass(frozen=True)
class Resize:
    """Shrinks by any factor, at least 1."""

    factor: float
    filter: Filter


@dataclasses.dataclass(frozen=True)
class Decimation:
    """A Gaussian blur around the middle of step x step pixels, of which one is kept."""

    step: int
    sigma: float


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian noise.

    kind: independent in each channel, the same in all, or correlated between them.
    mixing: white noise of k channels times this matrix is the noise, in units of the
      range of the image.
    """

    kind: NoiseKind
    mixing: Float[np.ndarray, "k 3"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The random choices of one degradation.

    factor: by which the image shrinks in all.
    halving: the filter that shrinks it by 2 before anything else; None if that does not
      happen.
    order: of the slots.
    blur, shrink, noise: the steps of these slots.
    fit: the filter that brings the image to its final size.
    quality: of JPEG in its slot; None for none.
    final_quality: of JPEG at the end.
    """

    factor: int
    halving: Filter | None
    order: tuple[Slot, ...]
    blur: Blur
    shrink: Resize | Decimation
    fit: Filter
    noise: Noise
    quality: int | None
    final_quality: int


def draw_plan(factor: int, rng: np.random.Generator) -> Plan:
    """Returns the random choices of one degradation.

    Args:
      factor: by which the image shrinks.
      rng: the random numbers.
    """
    halving: Filter | None = None
    if factor == 4 and rng.random() < _HALVING_SHARE:
        is_plain = rng.random() < 0.5
        halving = _choose_filter(rng) if is_plain else "antialiased"
    step = factor // 2 if halving else factor  # what is left to do
    return Plan(
        factor,
        halving,
        order=_draw_order(rng),
        blur=_draw_blur(step, rng),
        shrink=_draw_shrink(step, rng),
        fit=_choose_filter(rng),
        noise=_draw_noise(rng),
        quality=_draw_quality(rng) if rng.random() < _JPEG_SHARE else None,
        final_quality=_draw_quality(rng),
    )


def apply_plan(
    image: UInt8[np.ndarray, "h w c"], plan: Plan, rng: np.random.Generator
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Returns the small image.

    Args:
      image: of 1 or 3 channels; the factor of the plan divides its height and width.
      plan: what to do.
      rng: draws the pixels of the noise.
    """
    h, w, _ = image.shape
    size = h // plan.factor, w // plan.factor
    x = image.astype(np.float32) / 255
    if plan.halving:
        x = _clip(filters.resize(x, (h // 2, w // 2), plan.halving))
    for slot in plan.order:
        x = _apply_slot(x, slot, plan, size, rng)
    return _compress(x, plan.final_quality)


def _apply_slot(
    x: FloatImage,
    slot: Slot,
    plan: Plan,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Float32[np.ndarray, "h2 w2 c"]:
    if slot == "blur":
        return _apply_blur(x, plan.blur)
    if slot == "shrink":
        return _clip(_shrink(x, plan.shrink))
    if slot == "fit":
        return _clip(filters.resize(x, size, plan.fit))
    if slot == "noise":
        return _clip(x + draw_noise(x.shape, plan.noise, rng))
    if slot == "jpeg" and plan.quality is not None:
        return _compress(x, plan.quality).astype(np.float32) / 255
    return x


def draw_noise(
    shape: tuple[int, ...], noise: Noise, rng: np.random.Generator
) -> Float32[np.ndarray, "h w c"]:
    """Returns noise for an image, in units of its range.

    Args:
      shape: height, width and number of channels, at most 3. An image of fewer gets the
        noise of the first ones.
      noise: its kind and strength.
      rng: the random numbers.
    """
    h, w, c = shape
    mixing = noise.mixing[:, :c].astype(np.float32)
    return rng.standard_normal((h, w, len(mixing)), np.float32) @ mixing


def _draw_order(rng: np.random.Generator) -> tuple[Slot, ...]:
    """Returns the slots in random order, except that "fit" comes after "shrink"."""
    order = [SLOTS[k] for k in rng.permutation(len(SLOTS))]
    shrink, fit = order.index("shrink"), order.index("fit")
    if fit < shrink:
        order[shrink], order[fit] = order[fit], order[shrink]
    return tuple(order)


def _draw_blur(step: int, rng: np.random.Generator) -> Blur:
    if rng.random() < 0.5:
        first, second, turn = rng.random(3)
        widest = (4 + step) / 4
        variances = widest * first, widest * second
        taps = int(rng.integers(2, 11, endpoint=True)) + 3
        angle = np.pi * turn
    else:
        sigma = (2 + 0.2 * step) / 4 * rng.random()
        variances = sigma**2, sigma**2
        taps = int(rng.integers(2, 4, endpoint=True)) + 3
        angle = 0.0
    along, across = (max(float(v), _MIN_VARIANCE) for v in variances)
    return Blur(taps, (along, across), float(angle))


def _draw_shrink(step: int, rng: np.random.Generator) -> Resize | Decimation:
    if rng.random() < _RESIZE_SHARE:
        return Resize(float(rng.uniform(1, 2 * step)), _choose_filter(rng))
    return Decimation(step, float(rng.uniform(0.1, 0.6 * step)))


def _draw_noise(rng: np.random.Generator) -> Noise:
    level = int(rng.integers(1, _MAX_NOISE, endpoint=True)) / 255
    kind = _NOISES[rng.choice(len(_NOISES), p=_NOISE_SHARES)]
    if kind == "independent":
        return Noise(kind, level * np.eye(3))
    if kind == "grey":
        return Noise(kind, level * np.ones((1, 3)))
    # Always of the highest level, as published. The absolute values make all
    # correlations positive; of three channels, the matrix stays a covariance.
    variances, basis = rng.random(3), np.linalg.svd(rng.random((3, 3)))[0]
    covariance = np.abs(basis.T @ np.diag(variances) @ basis)
    values, vectors = np.linalg.eigh(covariance)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    return Noise(kind, _MAX_NOISE / 255 * root)


def _draw_quality(rng: np.random.Generator) -> int:
    return int(rng.integers(*_QUALITIES, endpoint=True))


def _choose_filter(rng: np.random.Generator) -> Filter:
    return _FILTERS[rng.integers(len(_FILTERS))]


def _apply_blur(x: FloatImage, blur: Blur) -> FloatImage:
    along, across = blur.variances
    if along == across:
        return filters.convolve_axes(x, filters.gaussian(blur.taps, along**0.5))
    kernel = filters.gaussian_2d(blur.taps, blur.variances, blur.angle)
    return filters.convolve(x, kernel)


def _shrink(x: FloatImage, how: Resize | Decimation) -> Float32[np.ndarray, "h2 w2 c"]:
    if isinstance(how, Resize):
        h, w = (max(1, int(n / how.factor)) for n in x.shape[:2])
        return filters.resize(x, (h, w), how.filter)
    # Shift it, so that the first pixel that is kept shows the middle of its block.
    place = np.arange(_DECIMATION_TAPS)
    profile = filters.gaussian(_DECIMATION_TAPS, how.sigma)
    profile = np.interp(place + (how.step - 1) / 2, place, profile)
    return filters.convolve_axes(x, profile / profile.sum(), how.step)


def _clip(x: FloatImage) -> FloatImage:
    return np.clip(x, 0, 1)


def _compress(x: FloatImage, quality: int) -> UInt8[np.ndarray, "h w c"]:
    """Returns an image after JPEG, with colours at half the resolution, as usual."""
    pixels = np.round(_clip(x) * 255).astype(np.uint8)
    is_grey = pixels.shape[2] == 1
    file = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if is_grey else pixels)
    image.save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as image:
        return np.asarray(image).reshape(pixels.shape)
