"""Small versions of images, from which a network learns super-resolution."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from simple_diffusion.data.conditioning import bsr_light

DEGRADATIONS = ("bicubic", "area", "bsr_light")


def degrade(
    image: UInt8[np.ndarray, "h w c"], factor: int, kind: str, rng: np.random.Generator
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Returns an image that is smaller by a factor.

    Args:
      image: of 1 (grey), 3 (RGB) or 4 channels (RGB with transparency; colours that it
        hides take no part in the mean with their neighbours).
      factor: a divisor of height and width.
      kind: "bicubic", which widens as the factor grows, so that fine waves vanish;
        "area", the mean of factor x factor pixels; "bsr_light", see bsr_light.py.
      rng: the random numbers; the first two kinds use none.

    Raises:
      ValueError: the factor does not divide the size, or the kind has no result for
        this number of channels.
    """
    h, w, c = image.shape
    check(kind, factor, c, (h, w))
    if kind == "bsr_light":
        plan = bsr_light.draw_plan(factor, rng)
        return bsr_light.apply_plan(image, plan, rng)
    pillow = Image.fromarray(image[:, :, 0] if c == 1 else image)
    # Both of Pillow's functions weight colours by transparency on their own.
    if kind == "area":
        small = pillow.reduce(factor)
    else:
        small = pillow.resize((w // factor, h // factor), Image.Resampling.BICUBIC)
    return np.asarray(small).reshape(h // factor, w // factor, c)


def check(
    kind: str, factor: int, channels: int, size: tuple[int, int] | None = None
) -> None:
    """Checks the arguments of `degrade`; the message names their config keys.

    Args:
      kind: of degradation.
      factor: by which images shrink.
      channels: of the images.
      size: height and width of the images; None if it is not known yet.

    Raises:
      ValueError: they are wrong.
    """
    key = "conditions.low_resolution"
    if kind not in DEGRADATIONS:
        raise ValueError(
            f"{key}.degradation={kind!r} must be one of {', '.join(DEGRADATIONS)}"
        )
    if factor < 1:
        raise ValueError(f"{key}.factor={factor} must be at least 1")
    if size is not None and (size[0] % factor or size[1] % factor):
        raise ValueError(
            f"{key}.factor={factor} must divide the height and width of the images, "
            f"{size[0]}x{size[1]}"
        )
    if channels not in (1, 3, 4):
        raise ValueError(f"images must have 1, 3 or 4 channels, got {channels}")
    if kind == "bsr_light" and channels == 4:
        raise ValueError(
            f"{key}.degradation=bsr_light compresses with JPEG, which has no "
            "transparency: use bicubic, area or data.channels=3"
        )
