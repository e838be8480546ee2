"""Random holes for the training of in-painting: thick strokes, boxes, half images.

Strokes and boxes are those of LaMa (arXiv 2109.07161, section 2.3), whose networks
learn from wide holes to continue what is far away. Sizes there are in pixels of images
of 256x256; here they grow with the image, so that the share that a hole covers does not
depend on the resolution. Half images teach to continue an image beyond its edge.

Two things differ from what was published. Strokes run in all directions (there, each
one has four, to the left or to the right); and a hole that leaves nearly nothing of the
image is drawn again.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

# How often each kind is drawn. Strokes and boxes equally often, as in LaMa.
SHARES: Mapping[str, float] = {"strokes": 0.4, "boxes": 0.4, "half": 0.2}
# Of the image. With less of it known there is nothing to continue.
MAX_COVERED = 0.95

_UNIT = 256  # the side of the images for which the lengths below are, in pixels
_STROKES, _SEGMENTS = (1, 5), (1, 5)
_LENGTHS, _WIDTHS = (10, 210), (5, 105)
_BOXES, _SIDES, _MARGIN = (1, 4), (30, 150), 10
_HALF_SHARES = 0.25, 0.75
_MIN_WIDTH = 1.5  # in pixels: wide enough for the centre of a pixel, wherever it lies
_ATTEMPTS = 100

Mask = UInt8[np.ndarray, "h w"]
Size = tuple[int, int]


class Segment(NamedTuple):
    """A part of a stroke, with round ends.

    start, end: (y, x) in pixels; integers are the centres of pixels.
    width: in pixels.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    width: float


def draw_hole_mask(
    size: Size, rng: np.random.Generator, kinds: Mapping[str, float] = SHARES
) -> Mask:
    """Returns a mask that is 1 in the hole and 0 elsewhere; neither is empty.

    Args:
      size: height and width, each at least 2 pixels.
      rng: the random numbers.
      kinds: how often each kind is drawn, in any unit: "strokes", one to five thick
        polygonal lines; "boxes", one to four of them; "half", all of the image on one
        side of a horizontal or vertical line, a half of it on average.

    Raises:
      ValueError: the size is too small, a kind is unknown, or no share is above 0.
    """
    if min(size) < 2:
        raise ValueError(
            f"a hole needs images of at least 2x2 pixels, got {size[0]}x{size[1]}"
        )
    check_shares(kinds)
    names, shares = list(kinds), np.array([*kinds.values()], float)
    draw = _DRAW[names[rng.choice(len(names), p=shares / shares.sum())]]
    for _ in range(_ATTEMPTS):
        mask = draw(size, rng)
        if mask.mean() <= MAX_COVERED:
            return mask
    return _draw_half(size, rng)  # of very small images, when nothing else fits


def check_shares(kinds: Mapping[str, float]) -> None:
    """Checks how often each kind of hole is drawn.

    Raises:
      ValueError: a kind is unknown, a share is negative, or none is above 0.
    """
    key = f"conditions.inpainting.holes={dict(kinds)}"
    if unknown := sorted(kinds.keys() - _DRAW.keys()):
        raise ValueError(
            f"{key}: {', '.join(unknown)} is no kind of hole; there are "
            f"{', '.join(_DRAW)}"
        )
    if not all(0 <= v < math.inf for v in kinds.values()) or not sum(kinds.values()):
        raise ValueError(f"{key}: shares must be at least 0, and one must be above 0")


def choose_segments(size: Size, rng: np.random.Generator) -> list[Segment]:
    """Returns the segments of all strokes of a mask.

    Args:
      size: height and width of the mask.
      rng: the random numbers.
    """
    strokes = range(rng.integers(*_STROKES, endpoint=True))
    return [segment for _ in strokes for segment in _choose_stroke(size, rng)]


def paint(segments: Iterable[Segment], size: Size) -> Mask:
    """Returns a mask that is 1 within half a width of any of the segments."""
    # Pillow's edges are up to two pixels off. So of a small mask a larger one is
    # painted, of which only some pixels are kept: those in the middle, so the scale is
    # odd.
    scale = math.ceil(1 / _find_unit(size)) | 1
    image = Image.new("L", (size[1] * scale, size[0] * scale))
    draw = ImageDraw.Draw(image)
    for start, end, width in segments:
        y0, x0, y1, x1 = ((v + 0.5) * scale - 0.5 for v in (*start, *end))
        r = scale * width / 2 - 0.5  # Pillow's shapes reach that far beyond their edges
        for y, x in ((y0, x0), (y1, x1)):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=1)
        distance = math.hypot(y1 - y0, x1 - x0)
        if distance > 0:
            # Not a line of Pillow's: its width is an integer, and not the same in
            # all directions.
            y, x = r * (x1 - x0) / distance, -r * (y1 - y0) / distance
            corners = [(x0 + x, y0 + y), (x1 + x, y1 + y), (x1 - x, y1 - y)]
            draw.polygon([*corners, (x0 - x, y0 - y)], fill=1)
    return np.array(image)[scale // 2 :: scale, scale // 2 :: scale]


def _choose_stroke(size: Size, rng: np.random.Generator) -> list[Segment]:
    unit = _find_unit(size)
    # All segments point to one side, or the line would often return to where it was.
    side = rng.uniform(0, 2 * math.pi)
    y, x = (float(rng.uniform(0, n - 1)) for n in size)
    segments = []
    for _ in range(rng.integers(*_SEGMENTS, endpoint=True)):
        angle = side + rng.uniform(-0.5, 0.5) * math.pi
        length, width = unit * rng.uniform(*_LENGTHS), unit * rng.uniform(*_WIDTHS)
        end = (
            min(max(y + length * math.sin(angle), 0.0), size[0] - 1.0),
            min(max(x + length * math.cos(angle), 0.0), size[1] - 1.0),
        )
        segments.append(Segment((y, x), end, max(width, _MIN_WIDTH)))
        y, x = end
    return segments


def _draw_strokes(size: Size, rng: np.random.Generator) -> Mask:
    return paint(choose_segments(size, rng), size)


def _draw_boxes(size: Size, rng: np.random.Generator) -> Mask:
    unit = _find_unit(size)
    mask = np.zeros(size, np.uint8)
    for _ in range(rng.integers(*_BOXES, endpoint=True)):
        rows, columns = (_draw_interval(length, unit, rng) for length in size)
        mask[rows, columns] = 1
    return mask


def _draw_interval(length: int, unit: float, rng: np.random.Generator) -> slice:
    """Returns where a box lies along an axis: not quite at its ends."""
    margin = min(round(_MARGIN * unit), (length - 1) // 2)
    room = length - 2 * margin
    side = min(max(round(unit * rng.uniform(*_SIDES)), 1), room)
    start = margin + int(rng.integers(room - side, endpoint=True))
    return slice(start, start + side)


def _draw_half(size: Size, rng: np.random.Generator) -> Mask:
    axis, is_first = rng.integers(2, size=2)
    length = size[axis]
    place = min(max(round(length * rng.uniform(*_HALF_SHARES)), 1), length - 1)
    mask = np.zeros(size, np.uint8)
    side = slice(place) if is_first else slice(place, None)
    mask[(side, slice(None)) if axis == 0 else (slice(None), side)] = 1
    return mask


def _find_unit(size: Size) -> float:
    """Returns by how much larger an image is than those the lengths are meant for."""
    return math.sqrt(size[0] * size[1]) / _UNIT


_DRAW: dict[str, Callable[[Size, np.random.Generator], Mask]] = {
    "strokes": _draw_strokes,
    "boxes": _draw_boxes,
    "half": _draw_half,
}
