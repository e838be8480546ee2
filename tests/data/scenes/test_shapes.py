import numpy as np
import pytest

from simple_diffusion.data.scenes import shapes

# One geometry of each kind, in scene units: not aligned with any pixel.
GEOMETRIES = {
    "band": (shapes.BAND, (0.403,)),
    "disc": (shapes.ELLIPSE, (0.47, 0.52, 0.31, 0.31)),
    "ellipse": (shapes.ELLIPSE, (0.5, 0.45, 0.12, 0.35)),
    "turned ellipse": (shapes.ELLIPSE, (0.5, 0.55, 0.11, 0.32, 0.7)),
    "crescent": (shapes.CRESCENT, (0.5, 0.5, 0.3, 0.3, 0.0, 0.15)),
    "box": (shapes.QUAD, (0.21, 0.78, 0.3, 0.61, 0.3, 0.61)),
    "thin box": (shapes.QUAD, (0.21, 0.78, 0.50, 0.515, 0.50, 0.515)),
    "triangle": (shapes.QUAD, (0.18, 0.83, 0.4, 0.4, 0.13, 0.9)),
    "triangle on its side": (shapes.QUAD_SIDE, (0.18, 0.83, 0.3, 0.8, 0.5, 0.5)),
    "round box": (shapes.ROUND_BOX, (0.5, 0.48, 0.33, 0.14, 0.1)),
}


def inside(kind, geometry, y, x):
    """Whether points are in a shape, straight from what its numbers mean."""
    if kind == shapes.BAND:
        return (y > geometry[0]) & (x == x)
    if kind in (shapes.ELLIPSE, shapes.CRESCENT):
        cy, cx, ry, rx, angle, shift = (*geometry, 0.0, 0.0)[:6]
        cos, sin = np.cos(angle), np.sin(angle)
        dy, dx = y - cy, x - cx
        along, across = cos * dx + sin * dy, cos * dy - sin * dx
        within = np.hypot(along / rx, across / ry) < 1
        if kind == shapes.ELLIPSE:
            return within
        return within & (np.hypot(dx - shift, dy + shift / 3) > rx)
    if kind == shapes.QUAD_SIDE:
        return inside(shapes.QUAD, geometry, x, y)
    if kind == shapes.QUAD:
        y0, y1, left, right, left_end, right_end = geometry
        t = (y - y0) / (y1 - y0)
        enough = x > left + t * (left_end - left)
        return (t > 0) & (t < 1) & enough & (x < right + t * (right_end - right))
    cy, cx, ry, rx, corner = geometry
    dy, dx = np.abs(y - cy) - (ry - corner), np.abs(x - cx) - (rx - corner)
    return np.hypot(np.maximum(dy, 0), np.maximum(dx, 0)) < corner


def covered(kind, geometry, size):
    padded = np.zeros((1, 1, shapes.NUMBERS), np.float32)
    padded[0, 0, : len(geometry)] = geometry
    grid = shapes.make_grid(size, size, (0, 0, 1, 1))
    kinds = np.full((1, 1), kind, np.int8)
    terms = shapes.coverage_terms(kinds, padded, grid.pixel)
    cover = shapes.coverage(kind, terms[:, 0], grid, np)
    return np.broadcast_to(cover, (1, size, size))[0], kinds, padded


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("size", [24, 64])
def test_coverage_is_the_part_of_the_pixel_inside_the_shape(name, size):
    kind, geometry = GEOMETRIES[name]
    fine = 24
    at = (np.arange(size * fine) + 0.5) / (size * fine)
    exact = inside(kind, geometry, at[:, None], at[None, :])
    exact = exact.reshape(size, fine, size, fine).mean((1, 3))
    cover, _, _ = covered(kind, geometry, size)
    # A ramp along a slanted edge differs by up to 0.1 from the area; tips and corners
    # of a shape by more, but there are few of them.
    assert np.abs(cover - exact).mean() < 0.004
    assert np.quantile(np.abs(cover - exact), 0.98) < 0.11
    assert cover.mean() == pytest.approx(exact.mean(), abs=0.003)


@pytest.mark.parametrize("radius_in_pixels", [0.2, 0.35, 0.6, 1.0, 2.5])
def test_a_disc_of_any_size_covers_its_area(radius_in_pixels):
    size = 16
    radius = radius_in_pixels / size
    totals = [
        covered(shapes.ELLIPSE, (y, x, radius, radius), size)[0].sum()
        for y in np.linspace(0.45, 0.55, 5)
        for x in np.linspace(0.45, 0.55, 5)
    ]
    # Over all positions in a pixel: a small disc between centres is seen too little.
    assert np.mean(totals) == pytest.approx(np.pi * radius_in_pixels**2, rel=0.03)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_bounds_are_around_the_shape_and_tight(name):
    kind, geometry = GEOMETRIES[name]
    size = 400
    at = (np.arange(size) + 0.5) / size
    rows, columns = np.nonzero(inside(kind, geometry, at[:, None], at[None, :]))
    _, kinds, padded = covered(kind, geometry, 8)
    y0, x0, y1, x1 = np.clip(shapes.bounds(kinds, padded)[0, 0], 0, 1) * size
    around = rows.min() - y0, columns.min() - x0, y1 - rows.max(), x1 - columns.max()
    assert min(around) > -1
    # A tip narrower than a pixel is missed by the points.
    assert max(around) < 0.03 * size


def test_a_texture_is_averaged_over_each_pixel():
    rng = np.random.default_rng(0)
    waves = np.zeros((1, shapes.WAVES, 4), np.float32)
    waves[0, :, 0] = 1.0
    waves[0, :, 1:3] = rng.uniform(-80, 80, (shapes.WAVES, 2))
    waves[0, :, 3] = rng.uniform(0, 6, shapes.WAVES)
    coarse = shapes.texture(waves, *shapes.make_grid(16, 16, (0, 0, 1, 1)), np)
    fine = shapes.texture(waves, *shapes.make_grid(256, 256, (0, 0, 1, 1)), np)
    mean = fine.reshape(1, 16, 16, 16, 16).mean((2, 4))
    np.testing.assert_allclose(coarse, mean, atol=1e-4)
    assert np.abs(coarse).max() > 0.1


def test_the_unit_square_is_the_centred_square_of_the_image():
    wide = shapes.make_grid(10, 30, (0, 0, 1, 1))
    assert wide.pixel[0, 0, 0] == pytest.approx(0.1)
    np.testing.assert_allclose(wide.y[0, [0, -1], 0], [0.05, 0.95], rtol=1e-6)
    np.testing.assert_allclose(wide.x[0, 0, [0, -1]], [-0.95, 1.95], rtol=1e-6)


@pytest.mark.parametrize("window", [(0, 0, 0, 1), (0.5, 0.2, 0.4, 1)])
def test_an_empty_window_is_an_error(window):
    with pytest.raises(ValueError, match="window="):
        shapes.make_grid(8, 8, window)
