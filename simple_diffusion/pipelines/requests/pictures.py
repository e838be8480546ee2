"""Conditions as pictures, shown beside the samples."""

import colorsys

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from simple_diffusion.core import images
from simple_diffusion.core.types import Request

Size = tuple[int, int]
Pictures = UInt8[np.ndarray, "n h w 3"]
_GREY = 128  # where nothing is known
_GOLDEN = 0.618034  # hues of neighbouring classes differ much


def draw_conditions(request: Request, size: Size) -> Pictures | None:
    """Returns what a request shows as one picture for each image, as far as it can.

    Several conditions with pictures are side by side. None without any.

    Args:
      request: on the host.
      size: height and width of the pictures.
    """
    fields = {name: np.asarray(value) for name, value in request.fields.items()}
    found = []
    if "layout.boxes" in fields:
        boxes, category = fields["layout.boxes"], fields["layout.category"]
        found.append(_draw_boxes(boxes, category, fields["layout.present"], size))
    if "semantic" in fields:
        found.append(_colour(fields["semantic"]))
    if "low_resolution.image" in fields:
        found.append(_to_picture(fields["low_resolution.image"]))
    if "inpainting.image" in fields:
        known = fields["inpainting.mask"][..., None] < 0.5
        picture = _to_picture(fields["inpainting.image"])
        found.append(np.where(known, picture, np.uint8(_GREY)))
    if "image" in fields:
        found.append(_to_picture(fields["image"]))
    return np.concatenate(found, axis=2) if found else None


def join(conditions: Pictures | None, samples: np.ndarray) -> np.ndarray:
    """Returns each sample to the right of its condition; samples alone without any."""
    if conditions is None:
        return samples
    return np.concatenate([conditions, _to_colours(samples)], axis=2)


def _to_picture(x: Float[np.ndarray, "n h w c"]) -> Pictures:
    return _to_colours(np.asarray(images.to_uint8(x)))


def _to_colours(pixels: UInt8[np.ndarray, "n h w c"]) -> Pictures:
    channels = pixels.shape[-1]
    if channels == 4:
        return np.asarray(images.to_rgb(pixels))
    return pixels if channels == 3 else pixels[..., :1].repeat(3, axis=-1)


def _palette(number: int) -> tuple[int, ...]:
    """Returns the colour of a class, RGB."""
    # Lighter and darker in turn, so that classes with near hues differ as well.
    value, saturation = (0.95, 0.6) if number % 2 else (0.75, 0.8)
    rgb = colorsys.hsv_to_rgb(number * _GOLDEN % 1.0, saturation, value)
    return tuple(round(255 * v) for v in rgb)


def _colour(ids: Int[np.ndarray, "n h w"]) -> Pictures:
    palette = np.array([_palette(k) for k in range(int(ids.max(initial=0)) + 1)])
    colours = palette[np.maximum(ids, 0)]
    return np.where(ids[..., None] < 0, _GREY, colours).astype(np.uint8)


def _draw_boxes(
    boxes: Float[np.ndarray, "n k 4"],
    category: Int[np.ndarray, "n k"],
    present: np.ndarray,
    size: Size,
) -> Pictures:
    height, width = size
    scale = max(1, 64 // min(size))  # lines of one pixel would hide small boxes
    units = np.array([height, width, height, width]) * scale
    found = []
    for row in range(len(boxes)):
        picture = Image.new("RGB", (width * scale, height * scale), (_GREY,) * 3)
        draw = ImageDraw.Draw(picture)
        for k in np.flatnonzero(present[row]):
            top, left, bottom, right = np.rint(boxes[row, k] * units).astype(int)
            # The last row and column of a rectangle are painted, too.
            corners = (left, top, max(left, right - 1), max(top, bottom - 1))
            colour = _palette(int(category[row, k]))
            draw.rectangle(corners, outline=colour, width=scale)
        found.append(np.asarray(picture.resize((width, height), Image.Resampling.BOX)))
    return np.stack(found)
