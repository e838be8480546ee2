"""Painting primitives at any resolution, in NumPy or JAX.

Pictures that share their row of `kind` are painted together, whatever their sizes and
colours, and each primitive only where it may be: that makes small pictures cheap.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8

from simple_diffusion.data.scenes import shapes
from simple_diffusion.data.scenes.shapes import Grid, Primitives, XArray


def _gradient(
    ends: Float32[np.ndarray, "n s 2 c"],
    span: Float32[np.ndarray, "n s 2"],
    y: Float32[np.ndarray, "m h 1"],
) -> Float32[np.ndarray, "n s c h"]:
    """Values that go linearly from one end of each slot's span to the other."""
    start, length = span[:, :, :1], span[:, :, 1:] - span[:, :, :1]
    t = shapes.unit((y.swapaxes(1, 2) - start) / length, np)  # [n, s, h]
    upper, lower = ends[:, :, 0, :, None], ends[:, :, 1, :, None]
    return upper + (lower - upper) * t[:, :, None]


class Group(NamedTuple):
    """Pictures whose slots have the same kinds, and what painting needs of them."""

    primitives: Primitives
    grid: Grid
    terms: Float32[np.ndarray, "n s c"]
    bounds: Float32[np.ndarray, "n s 4"]

    @property
    def span(self) -> Float32[np.ndarray, "n s 2"]:
        """The spans, with the shape's own where none is given."""
        span = self.primitives.span
        own = span[..., :1] == span[..., 1:]
        return np.where(own, self.bounds[..., ::2], span)


def _groups(
    primitives: Primitives, grid: Grid
) -> Iterator[tuple[Int[np.ndarray, "n"], Group]]:
    """Yields the row numbers and the pictures of each group, without unused slots."""
    p = primitives
    terms = shapes.coverage_terms(p.kind, p.geometry, grid.pixel)
    around = shapes.bounds(p.kind, p.geometry)
    as_bytes = np.ascontiguousarray(p.kind).view(f"V{p.kind.shape[1]}")[:, 0]
    inverse = np.unique(as_bytes, return_inverse=True)[1]
    order = np.argsort(inverse, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1):
        used = np.count_nonzero(p.kind[rows[0]])
        fields = {f.name: getattr(p, f.name) for f in dataclasses.fields(p)}
        of_slots = {
            name: v[rows] if name == "waves" else v[rows, :used]
            for name, v in fields.items()
        }
        yield (
            rows,
            Group(
                Primitives(**of_slots),
                grid.of(rows),
                terms[rows, :used],
                around[rows, :used],
            ),
        )


def _regions(group: Group, xp: Any) -> list[tuple[slice, slice] | None]:
    """The rows and columns that each slot may touch in any picture; None for none.

    JAX compiles anew for every shape, so there the region is always the full picture.
    """
    grid, absent = group.grid, group.primitives.opacity <= 0
    h, w = grid.y.shape[1], grid.x.shape[2]
    if xp is not np:
        everything = slice(0, h), slice(0, w)
        is_absent = np.all(absent, axis=0).tolist()
        return [None if nowhere else everything for nowhere in is_absent]
    first_pixel = np.stack([grid.y[:, 0, 0], grid.x[:, 0, 0]] * 2, -1)[:, None]
    at = (group.bounds - first_pixel) / grid.pixel  # in pixels
    margin = 0.5  # a shape smaller than a pixel is drawn larger
    hidden = absent[:, :, None]
    first = np.where(hidden, shapes.FAR, np.floor(at[:, :, :2] - margin)).min(0)
    last = np.where(hidden, -shapes.FAR, np.ceil(at[:, :, 2:] + margin) + 1).max(0)
    ends = np.concatenate([first, last], 1)
    ends = np.minimum(np.maximum(ends, 0), (h, w, h, w)).astype(int).tolist()
    return [
        (slice(r0, r1), slice(c0, c1)) if r0 < r1 and c0 < c1 else None
        for r0, c0, r1, c1 in ends
    ]


def _visit(group: Group, xp: Any) -> Iterator[tuple[int, slice, slice, Grid, XArray]]:
    """Yields (slot, rows, columns, grid there, coverage there), back to front."""
    kinds = group.primitives.kind[0].tolist()
    y, x, pixel = group.grid
    for s, region in enumerate(_regions(group, xp)):
        if region is not None:
            rows, columns = region
            part = Grid(y[:, rows], x[:, :, columns], pixel)
            yield (
                s,
                rows,
                columns,
                part,
                shapes.coverage(kinds[s], group.terms[:, s], part, xp),
            )


def _paint(group: Group, xp: Any) -> UInt8[Any, "n h w 3"]:
    p, grid = group.primitives, group.grid
    canvas = xp.zeros((len(p.kind), 3, grid.y.shape[1], grid.x.shape[2]), np.float32)
    colours = _gradient(p.colour, group.span, grid.y)
    textures = p.texture[0].tolist()
    opacity = p.opacity[:, :, None, None]
    solid = (p.opacity == 1).all(0).tolist()
    for s, rows, columns, part, cover in _visit(group, xp):
        colour = colours[:, s, :, rows, None]
        if textures[s]:
            waves = p.waves[:, textures[s] - 1]
            colour = colour + shapes.texture(waves, *part, xp)[:, None]
        there = canvas[:, :, rows, columns]
        if cover is None and solid[s]:
            painted = xp.broadcast_to(colour, there.shape)
        else:
            alpha = opacity[:, s] if cover is None else cover * opacity[:, s]
            painted = there + alpha[:, None] * (colour - there)
        if xp is np:
            there[:] = painted  # a view of the canvas
        else:
            canvas = painted
    # A texture may go beyond the range of a colour.
    image = shapes.unit(canvas, xp) * 255.0 + 0.5
    return xp.moveaxis(image.astype(np.uint8), 1, -1)


def _look(group: Group, xp: Any) -> Float32[Any, "n 2 h w"]:
    """The slot seen at each pixel, and its depth there."""
    p, grid = group.primitives, group.grid
    seen = xp.zeros((2, len(p.kind), grid.y.shape[1], grid.x.shape[2]), np.float32)
    depths = _gradient(p.depth[..., None], group.span, grid.y)
    for s, rows, columns, _, cover in _visit(group, xp):
        opaque = p.opacity[:, s, None, None] > shapes.OPAQUE
        there = seen[:, :, rows, columns]
        depth = depths[:, s, 0, rows, None]
        value = xp.stack([np.full_like(depth, s), depth])
        visible = opaque if cover is None else (cover >= 0.5) & opaque
        changed = xp.where(visible[None], value, there)
        if xp is np:
            there[:] = changed
        else:
            seen = changed
    return xp.moveaxis(seen, 0, 1)


def _by_group(
    paint: Any, primitives: Primitives, height: int, width: int, window: Any, xp: Any
) -> Shaped[Any, "b ..."]:
    order, parts = [], []
    for rows, group in _groups(primitives, shapes.make_grid(height, width, window)):
        order.append(rows)
        parts.append(paint(group, xp))
    return xp.concatenate(parts)[np.argsort(np.concatenate(order))]


def render(
    primitives: Primitives, height: int, width: int, window: Any, xp: Any
) -> UInt8[Any, "b h w 3"]:
    """Returns the pictures; see `scenes.render` for the arguments."""
    return _by_group(_paint, primitives, height, width, window, xp)


def front(
    primitives: Primitives, height: int, width: int, window: Any, xp: Any
) -> tuple[Int[Any, "b h w"], Float32[Any, "b h w"]]:
    """Returns the slot seen at each pixel, and its depth there.

    A primitive is seen where it covers at least half the pixel, is opaque, and no later
    one is and does.
    """
    seen = _by_group(_look, primitives, height, width, window, xp)
    return seen[:, 0].astype(np.int32), seen[:, 1]
