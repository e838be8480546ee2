import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks import scene_counter, scene_figures
from simple_diffusion.data.scenes import scenes

SIDE, COUNT = 40, 144  # more pictures than features


def real(first=0, height=SIDE, width=SIDE):
    described = scenes.describe(3, np.arange(first, first + COUNT), split="holdout")
    return scenes.render(described, height, width), described


def shrunk(images, side):
    return np.clip(scene_counter.resized(images, side, side), 0, 255).astype(np.uint8)


def blurred(images, side):
    """Pictures that were reduced to `side` pixels and enlarged again."""
    n = images.shape[1]
    small = [Image.fromarray(i).resize((side, side)) for i in images]
    return np.stack([np.asarray(i.resize((n, n))) for i in small])


def test_resizing_keeps_constants_and_ramps():
    ramp = np.broadcast_to(np.arange(8.0)[None, :, None, None], (1, 8, 6, 1))
    got = scene_counter.resized(ramp, 4, 3)
    np.testing.assert_allclose(got[0, 1:-1, 0, 0], [2.5, 4.5], atol=1e-5)
    assert scene_counter.resized(np.full((1, 5, 7, 3), 9.0), 11, 3) == pytest.approx(9)


def test_the_distance_grows_with_every_fault():
    there, _ = real()
    floor = scene_figures.frechet(real(COUNT)[0], there)
    noise = np.random.default_rng(0).normal(size=there.shape)

    def noisy(sigma):
        return np.clip(there + sigma * noise, 0, 255).astype(np.uint8)

    def tiled(n):
        return np.tile(shrunk(there, SIDE // n), (1, n, n, 1))

    for worse in (
        [blurred(there, side) for side in (32, 20, 10)],
        [noisy(sigma) for sigma in (5, 15, 30)],
        [tiled(n) for n in (2, 4)],
    ):
        distances = [scene_figures.frechet(v, there) for v in worse]
        assert sorted(distances) == distances
        assert distances[-1] > floor


def test_detail_that_is_missing_at_the_border_shows_there_alone():
    there, _ = real()
    edge = SIDE // 8
    faded = blurred(there, 8)
    faded[:, edge:-edge, edge:-edge] = there[:, edge:-edge, edge:-edge]
    assert scene_figures._detail(faded, there, inside=False) > 0.2
    assert scene_figures._detail(faded, there, inside=True) < 0.02


def test_the_distance_of_sorted_sets_is_that_of_a_shift():
    a = np.linspace(0, 1, 50)
    assert scene_figures._transport(a + 0.3, a[::-1]) == pytest.approx(0.3)


def test_a_count_is_the_sum_of_a_density_whatever_the_shape():
    params = scene_counter.Counter().init(jax.random.key(0), jnp.zeros((1, 48, 48, 3)))
    images, described = real(height=32, width=64)
    found = scene_counter.estimate(params, images, described.label)
    assert found.shape == (COUNT, 3) and np.isfinite(found).all()
    assert (found[:, 0] > 0).all()


@pytest.mark.slow
def test_the_counter_counts_and_sees_planted_faults():
    params = scene_counter.cached(None)
    there, described = real()
    found = scene_counter.estimate(params, there, described.label)
    assert (np.round(found[:, 0]) == described.count).mean() > 0.7
    half = shrunk(there, SIDE // 2)
    tiled = scene_counter.estimate(params, np.tile(half, (1, 2, 2, 1)), described.label)
    assert tiled[:, 0].sum() / found[:, 0].sum() == pytest.approx(4, rel=0.2)
    shrink = np.exp((tiled - found)[:, 1:].mean())
    assert shrink == pytest.approx(0.5, rel=0.2)


def test_training_the_counter_is_deterministic():
    a, b = (jax.tree.leaves(scene_counter.train(steps=2)) for _ in range(2))
    start = scene_counter.Counter().init(jax.random.key(0), jnp.zeros((1, 48, 48, 3)))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(a) == len(jax.tree.leaves(start))
