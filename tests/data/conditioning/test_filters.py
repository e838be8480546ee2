"""Filters of images of floats, against SciPy, Pillow and closed forms."""

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from simple_diffusion.data.conditioning import filters

FILTERS = ("linear", "cubic", "area", "antialiased")


def noise(h, w, c=3):
    return np.random.default_rng(0).random((h, w, c), np.float32)


@pytest.mark.parametrize("size", [(7, 11), (20, 23), (41, 30), (1, 1)])
def test_linear_agrees_with_scipy(size):
    image = noise(20, 23)
    places = [
        (np.arange(m) + 0.5) * n / m - 0.5
        for n, m in zip(image.shape, size, strict=False)
    ]
    grid = np.meshgrid(*places, indexing="ij")
    found = filters.resize(image, size, "linear")
    for k in range(3):
        expected = scipy.ndimage.map_coordinates(
            image[:, :, k], grid, order=1, mode="nearest"
        )
        assert np.abs(found[:, :, k] - expected).max() < 1e-5


def test_cubic_halfway_between_pixels_has_the_weights_of_opencv():
    # Keys' formula with a = -0.75 at distances 0.5 and 1.5.
    weights = np.array([-3, 19, 19, -3]) / 32
    image = noise(12, 12)
    found = filters.resize(image, (6, 6), "cubic")
    expected = np.einsum("y,x,yxc->c", weights, weights, image[3:7, 5:9])
    assert np.abs(found[2, 3] - expected).max() < 1e-6


def test_area_is_the_mean_of_the_pixels_that_become_one():
    image = noise(12, 20)
    means = image.reshape(3, 4, 4, 5, 3).mean((1, 3))
    assert np.abs(filters.resize(image, (3, 4), "area") - means).max() < 1e-6


def test_area_counts_every_pixel_alike_when_sizes_do_not_divide():
    image = noise(23, 31)
    found = filters.resize(image, (9, 14), "area")
    assert np.abs(found.mean((0, 1)) - image.mean((0, 1))).max() < 1e-6


def test_antialiased_agrees_with_pillow_away_from_the_edges():
    image = noise(60, 90, 1)
    found = filters.resize(image, (17, 25), "antialiased")
    pillow = Image.fromarray(image[:, :, 0]).resize((25, 17), Image.Resampling.BICUBIC)
    assert np.abs(found[..., 0] - np.asarray(pillow))[2:-2, 2:-2].max() < 1e-5


@pytest.mark.parametrize(
    ("filter", "keeps"), [("linear", True), ("antialiased", False)]
)
def test_only_antialiasing_hides_waves_that_are_too_fine(filter, keeps):
    stripes = np.tile(np.array([0, 1], np.float32)[:, None, None], (33, 66, 3))
    small = filters.resize(stripes, (22, 22), filter)  # every third pixel
    assert (np.ptp(small[2:-2]) > 0.9) == keeps


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("size", [(5, 3), (16, 16), (40, 17)])
def test_a_plain_image_stays_plain(filter, size):
    plain = np.full((16, 16, 1), 0.3, np.float32)
    found = filters.resize(plain, size, filter)
    assert found.shape == (*size, 1) and found.dtype == np.float32
    assert np.abs(found - 0.3).max() < 1e-6


def test_the_variances_of_a_gaussian_are_those_asked_for():
    kernel = filters.gaussian_2d(61, (9.0, 4.0), 0.5)
    y, x = np.mgrid[:61, :61] - 30
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    expected = turn @ np.diag([9.0, 4.0]) @ turn.T
    found = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    assert np.abs(np.array(found) - expected).max() < 1e-6
    assert kernel.sum() == pytest.approx(1)


@pytest.mark.parametrize("taps", [6, 9])
def test_a_round_gaussian_is_a_product_of_two(taps):
    profile = filters.gaussian(taps, 1.3)
    kernel = filters.gaussian_2d(taps, (1.69, 1.69), 0.7)
    assert np.abs(kernel - np.outer(profile, profile)).max() < 1e-12


def test_a_gaussian_without_width_is_a_point_or_the_pixels_around_the_middle():
    assert filters.gaussian(5, 1e-9).tolist() == [0, 0, 1, 0, 0]
    assert filters.gaussian(4, 1e-9).tolist() == [0, 0.5, 0.5, 0]


@pytest.mark.parametrize("taps", [4, 5, 14, 25])
@pytest.mark.parametrize("size", [(20, 33), (9, 2)])
def test_convolutions_agree_with_scipy_also_beyond_the_edges(taps, size):
    image, rng = noise(*size), np.random.default_rng(taps)
    kernel = rng.random((taps, taps))
    kernel /= kernel.sum()
    expected = scipy.ndimage.convolve(image, kernel[:, :, None], mode="mirror")
    assert np.abs(filters.convolve(image, kernel) - expected).max() < 1e-5

    profile = rng.random(taps)
    profile /= profile.sum()
    outer = np.outer(profile, profile)[:, :, None]
    expected = scipy.ndimage.convolve(image, outer, mode="mirror")
    for step in (1, 3):
        found = filters.convolve_axes(image, profile, step)
        assert np.abs(found - expected[::step, ::step]).max() < 1e-5
