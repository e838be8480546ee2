import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.data.scenes import scenes, shapes

N = len(scenes.CLASS_NAMES)


@pytest.fixture(scope="module")
def some():
    """Two scenes of every class."""
    return scenes.describe(11, np.arange(2 * N))


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_large_render_reduced_by_area_is_nearly_the_small_render(some, size):
    small = scenes.render(some, size, size).astype(np.float32)
    large = scenes.render(some, 4 * size, 4 * size).astype(np.float32)
    reduced = large.reshape(len(some), size, 4, size, 4, 3).mean((2, 4))
    error = np.abs(small - reduced)
    # Shapes are blended one by one, so where two edges share a pixel their coverage is
    # taken to be independent; such pixels are the fewer, the larger the picture.
    assert error.mean() < 30 / size
    assert (error > 12).mean() < 0.6 / size
    # Without anti-aliasing, one sample per pixel, it would be several times as much.
    aliased = np.abs(large[:, 2::4, 2::4] - reduced)
    assert error.mean() < 0.35 * aliased.mean()


@pytest.mark.parametrize("shape", [(48, 48), (24, 72), (72, 24)])
def test_the_crop_of_the_whole_render_is_the_render_of_the_window(some, shape):
    h, w = shape
    whole = scenes.render(some, h, w)
    window = np.array([4 / h, 7 / w, 20 / h, 23 / w])
    part = scenes.render(some, 16, 16, window)
    # Pixel centres differ in their last bits.
    assert difference(part, whole[:, 4:20, 7:23]).max() <= 1
    slot = scenes.semantic_map(some, 16, 16, window)
    agree = slot == scenes.semantic_map(some, h, w)[:, 4:20, 7:23]
    assert agree.mean() > 0.999


def test_every_example_may_have_its_own_window(some):
    starts = np.random.default_rng(0).uniform(0, 0.5, (len(some), 2))
    windows = np.concatenate([starts, starts + 0.4], 1)
    together = scenes.render(some, 16, 16, windows)
    for k in (0, 5, len(some) - 1):
        alone = scenes.render(some[k : k + 1], 16, 16, windows[k])
        np.testing.assert_array_equal(together[k], alone[0])


def test_a_scene_looks_the_same_in_any_batch(some):
    together = scenes.render(some, 32, 32)
    rows = np.random.default_rng(0).permutation(len(some))[:7]
    np.testing.assert_array_equal(scenes.render(some[rows], 32, 32), together[rows])


def test_shapes_keep_their_proportions_in_wide_and_tall_images(some):
    square = scenes.render(some, 32, 32)
    wide, tall = scenes.render(some, 32, 80), scenes.render(some, 80, 32)
    assert difference(wide[:, :, 24:56], square).max() <= 1
    assert difference(tall[:, 24:56], square).max() <= 1


@pytest.mark.parametrize("size", [12, 32, 48])
def test_painting_only_where_a_primitive_may_be_loses_nothing(size):
    class EveryPixel:
        """NumPy, but not known to the renderer, which then paints every pixel."""

        def __getattr__(self, name):
            return getattr(np, name)

    few = scenes.describe(1, np.arange(20 * N))
    everywhere = scenes.render(few, size, size, xp=EveryPixel())
    np.testing.assert_array_equal(scenes.render(few, size, size), everywhere)


def test_numpy_and_jax_paint_the_same(some):
    few, shape = some[:N], (20, 44)
    ours, theirs = scenes.render(few, *shape), scenes.render(few, *shape, xp=jnp)
    assert difference(ours, theirs).max() <= 1
    np.testing.assert_allclose(
        scenes.depth_map(few, *shape),
        scenes.depth_map(few, *shape, xp=jnp),
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        scenes.semantic_map(few, *shape), scenes.semantic_map(few, *shape, xp=jnp)
    )


def test_what_is_painted_later_is_nearer(some):
    """Painting back to front shows the same as asking each pixel for the nearest."""
    p, size = some.primitives, 40
    depth = scenes.depth_map(some, size, size)
    grid = shapes.make_grid(size, size, (0, 0, 1, 1))
    terms = shapes.coverage_terms(p.kind, p.geometry, grid.pixel)
    own = shapes.bounds(p.kind, p.geometry)[..., ::2]
    span = np.where(p.span[..., :1] == p.span[..., 1:], own, p.span)
    for k in range(len(some)):
        nearest = np.full((size, size), np.inf)
        for s in range(np.count_nonzero(p.kind[k])):
            if p.opacity[k, s] <= shapes.OPAQUE:
                continue
            cover = shapes.coverage(int(p.kind[k, s]), terms[k : k + 1, s], grid, np)
            here = True if cover is None else np.broadcast_to(cover[0], (size, size))
            t = np.clip(
                (grid.y[0] - span[k, s, 0]) / (span[k, s, 1] - span[k, s, 0]), 0, 1
            )
            far = p.depth[k, s, 0] + t * (p.depth[k, s, 1] - p.depth[k, s, 0])
            hit = np.where(np.asarray(here) >= 0.5, far, np.inf)
            nearest = np.minimum(nearest, hit)
        np.testing.assert_allclose(depth[k], nearest, atol=1e-5)


def test_depth_is_one_in_the_sky_and_less_on_the_ground(some):
    depth, seen = (f(some, 40, 40) for f in (scenes.depth_map, scenes.semantic_map))
    sky, ground = (scenes.CATEGORY_NAMES.index(name) for name in ("sky", "ground"))
    assert (depth[seen == sky] == 1).all()
    assert (depth[seen == ground] < 0.96).all()
    assert depth.min() >= 0


def test_a_faint_primitive_hides_nothing(some):
    faint = (some.primitives.opacity > 0) & (some.primitives.opacity <= shapes.OPAQUE)
    assert faint.any()
    without = dataclasses.replace(
        some,
        primitives=dataclasses.replace(
            some.primitives, opacity=np.where(faint, 0, some.primitives.opacity)
        ),
    )
    np.testing.assert_array_equal(
        scenes.semantic_map(some, 32, 32), scenes.semantic_map(without, 32, 32)
    )
    assert (
        difference(scenes.render(some, 32, 32), scenes.render(without, 32, 32))
        .any((1, 2, 3))
        .sum()
        > N
    )
