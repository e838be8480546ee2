"""Painting with signed-distance primitives at any resolution, in NumPy or JAX.

A picture is a fixed number of slots, painted back to front. Each holds one primitive:
a shape, a vertical gradient of colour, an opacity, a depth and a texture, all in scene
units. The unit square of scene units is the largest centred square of the whole image
(y down, x right); beyond it the background simply goes on, so shapes keep their
proportions whatever the aspect ratio is.

Anti-aliasing: the coverage of a pixel is a ramp of the signed distance, one pixel wide,
which is exactly the covered area for a straight edge along an axis, and nearly so for
any other. A texture is a sum of plane waves, each multiplied by the mean of its kind
over one pixel. So a picture rendered large and reduced by area is, nearly, the picture
rendered small.

Pictures that share their row of `kind` are painted together, whatever their sizes and
colours; that is what makes small pictures cheap.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int8, Shaped

# Kinds of primitive, and what the numbers of `shape` are.
EMPTY = 0
FILL = 1  # everywhere
BAND = 2  # y0: everything below y0
ELLIPSE = 3  # cy, cx, then the forms of `ellipse_form`
GLOW = 4  # as ELLIPSE, fading smoothly from the centre to nothing at its edge
QUAD = 5  # y0, y1, left x at y0, slope, right x at y0, slope, cosines of both sides
QUAD_SIDE = 6  # QUAD with x and y exchanged
ROUND_BOX = 7  # cy, cx, half height and half width without the corners, corner radius
CRESCENT = 8  # ELLIPSE without the disc that is its shape shifted by shape[8:10]

SHAPE_SIZE = 10
WAVES = 6  # plane waves in a texture
FAR = 1e3  # an edge that is never reached, in scene units

# Anything fainter paints but hides nothing: highlights, glows, reflections.
OPAQUE = 0.5

XArray = Any  # an array of `xp`: numpy.ndarray or jax.Array


@dataclasses.dataclass(frozen=True)
class Primitives:
    """The slots of b pictures, back to front; all lengths in scene units.

    kind: which shape; EMPTY for an unused slot.
    category, instance: what it shows, and the number of the object that it is part of,
      from 1; 0 for what is not an object, such as the sky.
    shape: the numbers of its kind.
    bounds: (y0, x0, y1, x1) around the shape.
    colour: red, green, blue in [0, 1] at the upper and at the lower end of the span.
    span: y of these two ends.
    opacity: 0 for a primitive that this picture does not have.
    depth: at the upper and at the lower end of the span; 0 is nearest, 1 the sky.
    waves: amplitude, angular wave numbers along y and x, phase of each plane wave.
    """

    kind: Int8[np.ndarray, "b s"]
    category: Int8[np.ndarray, "b s"]
    instance: Int8[np.ndarray, "b s"]
    shape: Float32[np.ndarray, "b s p"]
    bounds: Float32[np.ndarray, "b s 4"]
    colour: Float32[np.ndarray, "b s 2 3"]
    span: Float32[np.ndarray, "b s 2"]
    opacity: Float32[np.ndarray, "b s"]
    depth: Float32[np.ndarray, "b s 2"]
    waves: Float32[np.ndarray, "b s k 4"]

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


def ellipse_form(ry: Any, rx: Any, angle: Any = 0.0) -> tuple[Any, ...]:
    """Returns six coefficients of an ellipse turned clockwise by `angle` radians.

    (a, b, c) gives q = a dx^2 + 2 b dx dy + c dy^2, which is 1 on the outline, and the
    other three give in the same way a quarter of the squared gradient of q.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    forms = ()
    for u, v in ((rx**-2, ry**-2), (rx**-4, ry**-4)):
        forms += (
            u * cos**2 + v * sin**2,
            (u - v) * cos * sin,
            u * sin**2 + v * cos**2,
        )
    return forms


def scene_frame(
    height: int, width: int, window: Float[np.ndarray, "n 4"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 2"]]:
    """Returns the pixel width and the corner (y, x) of the window, in scene units."""
    y0, x0, y1, x1 = window.T
    if np.any(y1 <= y0) or np.any(x1 <= x0):
        raise ValueError(
            f"window={window.tolist()} must be (y0, x0, y1, x1) with y0 < y1, x0 < x1"
        )
    tall, wide = height / (y1 - y0), width / (x1 - x0)  # the whole image in pixels
    side = np.minimum(tall, wide)
    corner = np.stack([(y0 - 0.5) * tall, (x0 - 0.5) * wide], -1) / side[:, None] + 0.5
    return 1.0 / side, corner


def make_grid(height: int, width: int, window: Any) -> Grid:
    """Returns the pixels of a window of the whole image.

    Args:
      height: rows of the window in pixels.
      width: columns of the window in pixels; pixels are square.
      window: (y0, x0, y1, x1) in units of the whole image: four numbers, or [b, 4].
    """
    window = np.atleast_2d(np.asarray(window, np.float64))
    pixel, corner = scene_frame(height, width, window)
    y = corner[:, :1] + (np.arange(height) + 0.5) * pixel[:, None]
    x = corner[:, 1:] + (np.arange(width) + 0.5) * pixel[:, None]
    parts = y[:, :, None], x[:, None, :], pixel[:, None, None]
    return Grid(*(v.astype(np.float32) for v in parts))


def _unit(v: XArray, xp: Any) -> XArray:
    return xp.minimum(xp.maximum(v, 0.0), 1.0)  # several times faster than clip


def _form(dy: XArray, dx: XArray, a: XArray, b: XArray, c: XArray) -> XArray:
    value = a * dx * dx + c * dy * dy
    return value + (2.0 * b * dy) * dx if np.any(b) else value


def _ellipse(shape: XArray, y: XArray, x: XArray, pixel: XArray, xp: Any) -> XArray:
    """The distance to first order: (q - 1) / |grad q|.

    That ramp covers pi (r^2 + pixel^2 / 6) in all for a disc of radius r, so the radius
    is reduced to cover the true area; a disc too small for that is made fainter.
    """
    cy, cx, a, b, c, a2, b2, c2 = shape[:8]
    dy, dx = y - cy, x - cx
    excess = pixel * pixel / 6.0 * xp.sqrt(a * c - b * b)
    outline = xp.maximum(1.0 - excess, 0.0)
    steepness = xp.sqrt(_form(dy, dx, a2, b2, c2) + 1e-12)
    ramp = 0.5 - (_form(dy, dx, a, b, c) - outline) / (2.0 * pixel * steepness)
    return _unit(ramp, xp) * xp.minimum(1.0 / excess, 1.0)


def _quad(shape: XArray, y: XArray, x: XArray, pixel: XArray, xp: Any) -> XArray:
    """The parts of a pixel inside either pair of opposite sides, multiplied."""
    y0, y1, left, left_slope, right, right_slope, left_cos, right_cos = shape[:8]
    inside_y = (
        _unit(0.5 + (y - y0) / pixel, xp) + _unit(0.5 + (y1 - y) / pixel, xp) - 1.0
    )
    k, m = left_cos / pixel, right_cos / pixel
    inside_left = _unit((0.5 - k * (left + left_slope * (y - y0))) + k * x, xp)
    inside_right = _unit((0.5 + m * (right + right_slope * (y - y0))) - m * x, xp)
    return xp.maximum(inside_left + inside_right - 1.0, 0.0) * inside_y


def _round_box(shape: XArray, y: XArray, x: XArray, pixel: XArray, xp: Any) -> XArray:
    cy, cx, by, bx, radius = shape[:5]
    dy, dx = xp.abs(y - cy) - by, xp.abs(x - cx) - bx
    out_y, out_x = xp.maximum(dy, 0.0), xp.maximum(dx, 0.0)
    outside = xp.sqrt(out_y * out_y + out_x * out_x)
    inside = xp.minimum(xp.maximum(dy, dx), 0.0)
    return _unit(0.5 - (outside + inside - radius) / pixel, xp)


def coverage(
    kind: int, shape: Float32[np.ndarray, "n p"], grid: Grid, xp: Any = np
) -> XArray:
    """Returns how much of each pixel a primitive covers, broadcastable to [n, h, w]."""
    numbers = tuple(shape.T[:, :, None, None])  # each [n, 1, 1]
    y, x, pixel = grid
    if kind == FILL:
        return xp.ones_like(y)
    if kind == BAND:
        return _unit(0.5 + (y - numbers[0]) / pixel, xp)
    if kind == ELLIPSE:
        return _ellipse(numbers, y, x, pixel, xp)
    if kind == GLOW:
        cy, cx, a, b, c = numbers[:5]
        fade = xp.maximum(1.0 - _form(y - cy, x - cx, a, b, c), 0.0)
        return fade * fade
    if kind == QUAD:
        return _quad(numbers, y, x, pixel, xp)
    if kind == QUAD_SIDE:
        return _quad(numbers, x, y, pixel, xp)
    if kind == ROUND_BOX:
        return _round_box(numbers, y, x, pixel, xp)
    if kind == CRESCENT:
        bite = (numbers[0] + numbers[8], numbers[1] + numbers[9], *numbers[2:])
        disc = _ellipse(numbers, y, x, pixel, xp)
        return disc * (1.0 - _ellipse(bite, y, x, pixel, xp))
    raise ValueError(f"kind={kind} is not a kind of primitive")


def _texture(
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


def _groups(kind: Int8[np.ndarray, "b s"]) -> Iterator[Int[np.ndarray, "n"]]:
    """Yields the rows of the pictures that have the same kinds in all slots."""
    as_bytes = np.ascontiguousarray(kind).view(f"V{kind.shape[1]}")[:, 0]
    inverse = np.unique(as_bytes, return_inverse=True)[1]
    order = np.argsort(inverse, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)


def _gradient(
    ends: Float32[np.ndarray, "n s 2 c"],
    span: Float32[np.ndarray, "n s 2"],
    y: Float32[np.ndarray, "m h 1"],
) -> Float32[np.ndarray, "n s c h"]:
    """Values that go linearly from one end of each slot's span to the other."""
    start, length = span[:, :, :1], span[:, :, 1:] - span[:, :, :1]
    t = _unit((y.swapaxes(1, 2) - start) / length, np)  # [n, s, h]
    upper, lower = ends[:, :, 0, :, None], ends[:, :, 1, :, None]
    return upper + (lower - upper) * t[:, :, None]


def _regions(
    primitives: Primitives, grid: Grid, xp: Any
) -> list[tuple[slice, slice] | None]:
    """The rows and columns that each slot may touch in any of the pictures.

    JAX compiles every shape anew and so paints the whole picture every time.
    """
    h, w = grid.y.shape[1], grid.x.shape[2]
    hidden = (primitives.opacity <= 0).all(0) | (primitives.kind[0] == EMPTY)
    if xp is not np:
        return [None if gone else (slice(0, h), slice(0, w)) for gone in hidden]
    corner = np.stack([grid.y[:, 0, 0], grid.x[:, 0, 0]] * 2, -1)[:, None]
    at = (primitives.bounds - corner) / grid.pixel
    absent = (primitives.opacity <= 0)[:, :, None]
    first = np.where(absent, FAR, np.floor(at[:, :, :2])).min(0)
    last = np.where(absent, -FAR, np.ceil(at[:, :, 2:]) + 1).max(0)
    first, last = np.clip(first, 0, (h, w)), np.clip(last, 0, (h, w))
    empty = hidden | (last <= first).any(1)
    ends = np.concatenate([first, last], 1).astype(int).tolist()
    return [
        None if gone else (slice(r0, r1), slice(c0, c1))
        for gone, (r0, c0, r1, c1) in zip(empty.tolist(), ends, strict=True)
    ]


def _visit(
    primitives: Primitives, grid: Grid, xp: Any
) -> Iterator[tuple[int, slice, slice, Grid, XArray]]:
    """Yields (slot, rows, columns, grid there, coverage there), back to front."""
    kinds = primitives.kind[0].tolist()
    for s, region in enumerate(_regions(primitives, grid, xp)):
        if region is not None:
            rows, columns = region
            part = Grid(grid.y[:, rows], grid.x[:, :, columns], grid.pixel)
            cover = coverage(kinds[s], primitives.shape[:, s], part, xp)
            yield s, rows, columns, part, cover


def _paint(primitives: Primitives, grid: Grid, xp: Any) -> XArray:
    """Paints pictures of one group, [n, 3, h, w]."""
    shape = len(primitives.kind), 3, grid.y.shape[1], grid.x.shape[2]
    canvas = xp.zeros(shape, np.float32)
    colours = _gradient(primitives.colour, primitives.span, grid.y)
    textured = primitives.waves[:, :, :, 0].any((0, 2)).tolist()
    opacity = primitives.opacity[:, :, None, None]
    for s, rows, columns, part, cover in _visit(primitives, grid, xp):
        colour = colours[:, s, :, rows, None]
        if textured[s]:
            colour = colour + _texture(primitives.waves[:, s], *part, xp)[:, None]
        alpha = (cover * opacity[:, s])[:, None]
        there = canvas[:, :, rows, columns]
        painted = there + alpha * (colour - there)
        if xp is np:
            canvas[:, :, rows, columns] = painted
        else:
            canvas = painted
    return canvas


def _by_group(
    paint: Any, primitives: Primitives, grid: Grid, xp: Any
) -> Shaped[Any, "b ..."]:
    groups = list(_groups(primitives.kind))
    parts = [paint(primitives[rows], grid.of(rows), xp) for rows in groups]
    back = np.argsort(np.concatenate(groups))
    return xp.concatenate(parts)[back]


def render(
    primitives: Primitives, height: int, width: int, window: Any, xp: Any
) -> Float32[Any, "b h w 3"]:
    """Returns the pictures in [0, 1]."""
    grid = make_grid(height, width, window)
    canvas = _by_group(_paint, primitives, grid, xp)
    return _unit(xp.moveaxis(canvas, 1, -1), xp)


def front(
    primitives: Primitives, height: int, width: int, window: Any, xp: Any
) -> tuple[Int[Any, "b h w"], Float32[Any, "b h w"]]:
    """Returns the slot seen at each pixel, and its depth there.

    A primitive is seen where it covers at least half the pixel, is opaque, and nothing
    after it is.
    """

    def look(primitives: Primitives, grid: Grid, xp: Any) -> XArray:
        shape = len(primitives.kind), grid.y.shape[1], grid.x.shape[2]
        seen = xp.zeros((2, *shape), np.float32)
        depths = _gradient(primitives.depth[..., None], primitives.span, grid.y)
        for s, rows, columns, _, cover in _visit(primitives, grid, xp):
            opaque = primitives.opacity[:, s, None, None] > OPAQUE
            there = seen[:, :, rows, columns]
            slot = np.full_like(depths[:, s, 0, rows, None], s)
            value = xp.stack([slot, depths[:, s, 0, rows, None]])
            changed = xp.where(((cover >= 0.5) & opaque)[None], value, there)
            if xp is np:
                seen[:, :, rows, columns] = changed
            else:
                seen = changed
        return xp.moveaxis(seen, 0, 1)

    seen = _by_group(look, primitives, make_grid(height, width, window), xp)
    return seen[:, 0].astype(np.int32), seen[:, 1]
