"""Samples that are reduced again."""

import numpy as np
import pytest
from PIL import Image
from skimage import data, measure

from simple_diffusion.evaluation.metrics.conditions import low_resolution


def photographs(n=3, side=64):
    photograph = data.astronaut()[100:]
    return np.stack([photograph[40 * k :][:side, :side] for k in range(n)])


def test_area_is_the_mean_of_blocks():
    images = photographs()
    found = low_resolution.reduce_images(images, (16, 16))
    expected = measure.block_reduce(images.astype(float), (1, 4, 4, 1), np.mean)
    # Pillow rounds after each of the two axes.
    assert np.abs(found - expected).max() <= 1.0


def test_bicubic_is_that_of_pillow_and_antialiased():
    images = photographs()
    found = low_resolution.reduce_images(images, (16, 24), "bicubic")
    expected = Image.fromarray(images[1]).resize((24, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found[1], np.asarray(expected))
    checkers = np.indices((32, 32)).sum(0)[None, ..., None] % 2 * 255
    grey = low_resolution.reduce_images(checkers.astype(np.uint8), (8, 8), "bicubic")
    assert np.abs(grey.astype(int) - 127.5).max() < 4


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_are_resized_apart(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, channels), np.uint8)
    every = low_resolution.enlarge(images, (16, 24))
    assert every.shape == (2, 16, 24, channels)
    for k in range(channels):
        alone = low_resolution.enlarge(images[..., k : k + 1], (16, 24))
        np.testing.assert_array_equal(every[..., k : k + 1], alone)


@pytest.mark.parametrize("rule", ["area", "bicubic"])
def test_originals_are_consistent_and_a_shift_of_levels_is_the_error(rule):
    images = photographs()[..., :1] // 2
    small = low_resolution.reduce_images(images, (16, 16), rule)
    mean, most = low_resolution.compare(images, small, rule)
    assert not mean.any() and not most.any()
    # Weights sum to 1, so a constant passes through any filter.
    mean, most = low_resolution.compare(images + np.uint8(7), small, rule)
    np.testing.assert_allclose(mean, 7, atol=0.1)
    assert (most <= 8).all() and (most >= 7).all()


def test_the_largest_error_is_that_of_a_single_pixel():
    small = np.full((2, 4, 4, 1), 100, np.uint8)
    images = small.repeat(2, 1).repeat(2, 2)
    images[1, 2:4, 2:4] = 140
    mean, most = low_resolution.compare(images, small)
    np.testing.assert_array_equal(most, [0, 40])
    np.testing.assert_array_equal(mean, [0, 40 / 16])


def test_an_unknown_rule_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="rule='box' must be one of area, bicubic"):
        low_resolution.reduce_images(photographs(), (16, 16), "box")
