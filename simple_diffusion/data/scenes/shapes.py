"""Signed-distance primitives of a picture, and how much of each pixel they cover.

A picture is a fixed number of slots, painted back to front. Each holds one primitive:
a shape, a vertical gradient of colour, an opacity, a depth and a texture, all in scene
units. The unit square of scene units is the largest centred square of the full image
(y down, x right). Beyond it the background continues, so shapes keep their proportions
at any aspect ratio.

Anti-aliasing: the coverage of a pixel is a ramp of the signed distance, one pixel wide,
which is exactly the covered area for a straight edge along an axis, and nearly so for
any other. A texture is a sum of plane waves, each multiplied by its mean over a pixel.
So a picture rendered large and reduced by area is, nearly, the picture rendered small.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int8

# Kinds of primitive, and what the numbers of `geometry` are.
EMPTY = 0
FILL = 1  # everywhere
BAND = 2  # y: everything below it
ELLIPSE = 3  # centre y, centre x, radius y, radius x, angle (clockwise, radians)
GLOW = 4  # as ELLIPSE, fading smoothly from the centre to nothing at its edge
CRESCENT = 5  # as ELLIPSE, and a shift: less the same disc moved right and a bit up
QUAD = 6  # y0, y1, left and right x at y0, left and right x at y1
QUAD_SIDE = 7  # QUAD with x and y exchanged
ROUND_BOX = 8  # centre y, centre x, half height, half width, radius of the corners

NUMBERS = 6  # in a geometry
TEXTURES = 3  # different ones in a picture
WAVES = 6  # plane waves in a texture
FAR = 1e3  # where an edge is never reached, in scene units

# Anything fainter paints but hides nothing: highlights, shadows, reflections.
OPAQUE = 0.5

XArray = Any  # an array of `xp`: numpy.ndarray or jax.Array


@dataclasses.dataclass(frozen=True)
class Primitives:
    """The slots of b pictures, back to front; all lengths in scene units.

    kind: which shape; the slots from the first EMPTY one on are not used.
    category, instance: what it shows, and the number of the object that it is part of,
      from 1; 0 for what is not an object, such as the sky.
    texture: 0 for none, or 1 + the number of one of the picture's textures.
    geometry: the numbers of its kind.
    colour: red, green, blue in [0, 1] at the upper and at the lower end of the span.
    span: y of these two ends; the shape's own highest and lowest where they are equal.
    opacity: 0 for a primitive that this picture does not have.
    depth: at the upper and at the lower end of the span; 0 is nearest, 1 the sky.
    waves: amplitude, angular wave numbers along y and x, phase of each plane wave.
    """

    kind: Int8[np.ndarray, "b s"]
    category: Int8[np.ndarray, "b s"]
    instance: Int8[np.ndarray, "b s"]
    texture: Int8[np.ndarray, "b s"]
    geometry: Float32[np.ndarray, "b s g"]
    colour: Float32[np.ndarray, "b s 2 3"]
    span: Float32[np.ndarray, "b s 2"]
    opacity: Float32[np.ndarray, "b s"]
    depth: Float32[np.ndarray, "b s 2"]
    waves: Float32[np.ndarray, "b t k 4"]

    def __getitem__(self, rows: Any) -> "Primitives":
        """Returns the pictures of these rows (a slice or an array of row numbers)."""
        fields = dataclasses.fields(self)
        return Primitives(**{f.name: getattr(self, f.name)[rows] for f in fields})


class Grid(NamedTuple):
    """Pixel centres and pixel width in scene units; n is b, or 1 if all are alike."""

    y: Float32[np.ndarray, "n h 1"]
    x: Float32[np.ndarray, "n 1 w"]
    pixel: Float32[np.ndarray, "n 1 1"]

    def of(self, rows: Int[np.ndarray, "m"]) -> "Grid":
        """Returns the pixels of these pictures."""
        return self if len(self.y) == 1 else Grid(*(v[rows] for v in self))


def bounds(
    kind: Int8[np.ndarray, "b s"], geometry: Float32[np.ndarray, "b s g"]
) -> Float32[np.ndarray, "b s 4"]:
    """Returns (y0, x0, y1, x1) around each shape, in scene units."""
    out = np.empty((*kind.shape, 4), np.float32)
    out[:] = -FAR, -FAR, FAR, FAR
    out[..., 0] = np.where(kind == BAND, geometry[..., 0], out[..., 0])
    where = (kind >= ELLIPSE) & (kind <= CRESCENT)
    y, x, ry, rx, angle, _ = geometry[where].T
    cos, sin = np.cos(angle), np.sin(angle)
    high, wide = np.hypot(ry * cos, rx * sin), np.hypot(rx * cos, ry * sin)
    out[where] = np.stack([y - high, x - wide, y + high, x + wide], -1)
    # The two circles of a crescent meet at its tips, `half` to either side of the axis.
    where = kind == CRESCENT
    y, x, r, _, _, shift = geometry[where].T
    half = np.sqrt(r**2 - shift**2 * (10 / 36))
    tip = y - shift / 6 - half * (3 / np.sqrt(10))
    top = np.where(shift < 0.6 * r, tip, y - r)
    right = x + shift / 2 + half / np.sqrt(10)
    out[where] = np.stack([top, x - r, y + r, right], -1)
    where = (kind == QUAD) | (kind == QUAD_SIDE)
    y0, y1, left, right, left_end, right_end = geometry[where].T
    low, high = np.minimum(left, left_end), np.maximum(right, right_end)
    box = np.stack([y0, low, y1, high], -1)
    side = np.stack([low, y0, high, y1], -1)
    out[where] = np.where((kind[where] == QUAD_SIDE)[:, None], side, box)
    where = kind == ROUND_BOX
    y, x, ry, rx, _, _ = geometry[where].T
    out[where] = np.stack([y - ry, x - rx, y + ry, x + rx], -1)
    return out


def scene_frame(
    height: int, width: int, window: Float[np.ndarray, "n 4"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 2"]]:
    """Returns the pixel width and the corner (y, x) of the window, in scene units."""
    y0, x0, y1, x1 = window.T
    if np.any(y1 <= y0) or np.any(x1 <= x0):
        raise ValueError(
            f"window={window.tolist()} must be (y0, x0, y1, x1) with y0 < y1, x0 < x1"
        )
    tall, wide = height / (y1 - y0), width / (x1 - x0)  # the full image in pixels
    side = np.minimum(tall, wide)
    corner = np.stack([(y0 - 0.5) * tall, (x0 - 0.5) * wide], -1) / side[:, None] + 0.5
    return 1.0 / side, corner


def make_grid(height: int, width: int, window: Any) -> Grid:
    """Returns the pixels of a window of the full image.

    Args:
      height: rows of the window in pixels.
      width: columns of the window in pixels; pixels are square.
      window: (y0, x0, y1, x1) in units of the full image: four numbers, or [b, 4].
    """
    window = np.atleast_2d(np.asarray(window, np.float64))
    pixel, corner = scene_frame(height, width, window)
    y = corner[:, :1] + (np.arange(height) + 0.5) * pixel[:, None]
    x = corner[:, 1:] + (np.arange(width) + 0.5) * pixel[:, None]
    parts = y[:, :, None], x[:, None, :], pixel[:, None, None]
    return Grid(*(v.astype(np.float32) for v in parts))


def unit(v: XArray, xp: Any) -> XArray:
    """Returns v clipped to [0, 1]."""
    return xp.minimum(xp.maximum(v, 0.0), 1.0)  # several times faster than clip


def _ellipse_terms(
    geometry: Float32[np.ndarray, "m g"], pixel: Float32[np.ndarray, "m"]
) -> list[Float32[np.ndarray, "m"]]:
    """Terms of the distance, to first order (q - 1) / |grad q|, to ellipses, in pixels.

    q = a dx^2 + 2 b dx dy + c dy^2 is 1 on the outline; a second form of this kind is
    (pixel grad q)^2. The ramp of this distance covers pi (r^2 + pixel^2 / 6) in all for
    a disc of radius r, so r^2 is reduced by pixel^2 / 6 to cover the true area. What is
    much smaller than a pixel is drawn larger and fainter.
    """
    y, x, true_ry, true_rx, angle, shift = geometry.T
    ry, rx = np.maximum(true_ry, 0.6 * pixel), np.maximum(true_rx, 0.6 * pixel)
    strength = true_ry * true_rx / (ry * rx)
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = rx**-2, ry**-2

    def rotate(u: Any, v: Any) -> list[Any]:
        """The form u dx'^2 + v dy'^2 of the ellipse's own axes, in dx and dy."""
        mixed = 2 * (u - v) * cos * sin
        return [u * cos**2 + v * sin**2, mixed, u * sin**2 + v * cos**2]

    outline = rotate(u, v)
    steepness = rotate((2 * pixel * u) ** 2, (2 * pixel * v) ** 2)
    level = 1.0 - pixel * pixel / (6.0 * ry * rx)
    return [y, x, *outline, *steepness, level, strength, shift]


def _quad_terms(
    geometry: Float32[np.ndarray, "m g"], pixel: Float32[np.ndarray, "m"]
) -> list[Float32[np.ndarray, "m"]]:
    """Distances to the four sides, in pixels and plus a half, as t0 + ty y + tx x."""
    y0, y1, left, right, left_end, right_end = geometry.T
    terms = [0.5 - y0 / pixel, 0.5 + y1 / pixel]
    for start, end, sign in ((left, left_end, 1), (right, right_end, -1)):
        slope = (end - start) / (y1 - y0)
        k = sign / (pixel * np.sqrt(1.0 + slope * slope))  # the slanted side's normal
        terms += [0.5 - k * (start - slope * y0), -k * slope, k]
    return terms


def coverage_terms(
    kind: Int8[np.ndarray, "b s"],
    geometry: Float32[np.ndarray, "b s g"],
    pixel: Float32[np.ndarray, "n 1 1"],
) -> Float32[np.ndarray, "b s c"]:
    """Returns the numbers per primitive from which its coverage is computed."""
    width = np.broadcast_to(pixel[:, 0], kind.shape)
    out = np.zeros((*kind.shape, 11), np.float32)
    for where, terms in (
        ((kind >= ELLIPSE) & (kind <= CRESCENT), _ellipse_terms),
        ((kind == QUAD) | (kind == QUAD_SIDE), _quad_terms),
        ((kind == BAND) | (kind == ROUND_BOX), lambda geometry, _: list(geometry.T)),
    ):
        values = np.stack(terms(geometry[where], width[where]), -1)
        out[where, : values.shape[1]] = values
    return out


def _form(dy: XArray, dx: XArray, a: XArray, b: XArray, c: XArray) -> XArray:
    value = a * dx * dx + c * dy * dy
    return value + (b * dy) * dx if b.any() else value


def _ellipse(terms: Any, y: XArray, x: XArray, xp: Any) -> XArray:
    cy, cx, a, b, c, a2, b2, c2, level, strength = terms[:10]
    dy, dx = y - cy, x - cx
    steepness = xp.sqrt(_form(dy, dx, a2, b2, c2) + 1e-12)
    ramp = 0.5 - (_form(dy, dx, a, b, c) - level) / steepness
    return unit(ramp, xp) * strength


def _quad(terms: Any, y: XArray, x: XArray, pixel: XArray, xp: Any) -> XArray:
    """The parts of a pixel inside either pair of opposite sides, multiplied."""
    upper, lower, left, left_y, left_x, right, right_y, right_x = terms[:8]
    rows = y / pixel
    inside_y = unit(upper + rows, xp) + unit(lower - rows, xp) - 1.0
    inside_left = unit((left + left_y * y) + left_x * x, xp)
    inside_right = unit((right + right_y * y) + right_x * x, xp)
    return xp.maximum(inside_left + inside_right - 1.0, 0.0) * inside_y


def _round_box(terms: Any, y: XArray, x: XArray, pixel: XArray, xp: Any) -> XArray:
    cy, cx, ry, rx, corner = terms[:5]
    dy, dx = xp.abs(y - cy) - (ry - corner), xp.abs(x - cx) - (rx - corner)
    out_y, out_x = xp.maximum(dy, 0.0), xp.maximum(dx, 0.0)
    outside = xp.sqrt(out_y * out_y + out_x * out_x)
    inside = xp.minimum(xp.maximum(dy, dx), 0.0)
    return unit((0.5 + corner / pixel) - (outside + inside) / pixel, xp)


def coverage(
    kind: int, terms: Float32[np.ndarray, "n c"], grid: Grid, xp: Any
) -> XArray | None:
    """Returns the covered part of each pixel, [n, h, w] or [n, h, 1]; None for all."""
    numbers = tuple(terms.T[:, :, None, None])  # each [n, 1, 1]
    y, x, pixel = grid
    if kind == FILL:
        return None
    if kind == BAND:
        return unit(0.5 + (y - numbers[0]) / pixel, xp)
    if kind == ELLIPSE:
        return _ellipse(numbers, y, x, xp)
    if kind == GLOW:
        cy, cx, a, b, c = numbers[:5]
        fade = xp.maximum(1.0 - _form(y - cy, x - cx, a, b, c), 0.0)
        return fade * fade
    if kind == CRESCENT:
        shift = numbers[10]
        disc = _ellipse(numbers, y, x, xp)
        return disc * (1.0 - _ellipse(numbers, y + shift / 3.0, x - shift, xp))
    if kind == QUAD:
        return _quad(numbers, y, x, pixel, xp)
    if kind == QUAD_SIDE:
        return _quad(numbers, x, y, pixel, xp)
    if kind == ROUND_BOX:
        return _round_box(numbers, y, x, pixel, xp)
    raise ValueError(f"kind={kind} is not a kind of primitive")


def texture(
    waves: Float32[np.ndarray, "n k 4"], y: XArray, x: XArray, pixel: XArray, xp: Any
) -> XArray:
    """The sum of plane waves [n, h, w], as one product of rows and columns.

    a sin(ky y + kx x + phase), averaged over a pixel, is that times the sinc of half a
    pixel's phase along each axis.
    """
    amplitude, ky, kx, phase = (waves[:, :, i, None] for i in range(4))  # [n, k, 1]
    amplitude = amplitude * np.sinc(ky * pixel / (2 * np.pi)).astype(np.float32)
    amplitude = amplitude * np.sinc(kx * pixel / (2 * np.pi)).astype(np.float32)
    rows = ky * y.swapaxes(1, 2) + phase  # [n, k, h]
    columns = kx * x  # [n, k, w]
    rows = xp.concatenate([amplitude * xp.sin(rows), amplitude * xp.cos(rows)], 1)
    columns = xp.concatenate([xp.cos(columns), xp.sin(columns)], 1)
    return xp.matmul(rows.swapaxes(1, 2), columns)
