import numpy as np
import pytest
from skimage import data, metrics

from simple_diffusion.evaluation.metrics import similarity


def pair(h, w, c, n=3):
    """Images with structure, and the same with more and more noise."""
    rng = np.random.default_rng(0)
    photograph = data.astronaut()[:h, :w, :c]
    originals = np.stack([np.roll(photograph, 7 * k, 1) for k in range(n)])
    strength = np.geomspace(3, 90, n)[:, None, None, None]
    noisy = originals + strength * rng.normal(size=originals.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), originals


@pytest.mark.parametrize("shape", [(64, 64, 3), (40, 57, 1), (11, 30, 3)])
def test_both_agree_with_scikit_image(shape):
    # Its mean, too, leaves out the five pixels at each border.
    images, originals = pair(*shape)
    expected = [
        metrics.structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=-1,
        )
        for a, b in zip(images, originals, strict=True)
    ]
    # Both are in float64, where a variance is a difference of numbers up to 255^2.
    found = similarity.ssim(images, originals)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.dtype == np.float64
    expected = [
        metrics.peak_signal_noise_ratio(b, a, data_range=255)
        for a, b in zip(images, originals, strict=True)
    ]
    np.testing.assert_allclose(similarity.psnr(images, originals), expected, rtol=1e-12)


def test_equal_images_are_infinitely_and_wholly_alike():
    _, images = pair(20, 20, 3)
    assert np.isposinf(similarity.psnr(images, images)).all()
    assert (similarity.ssim(images, images) == 1).all()


@pytest.mark.parametrize("function", [similarity.psnr, similarity.ssim])
def test_both_are_symmetric_and_fall_with_noise(function):
    images, originals = pair(48, 32, 3)
    there, back = function(images, originals), function(originals, images)
    np.testing.assert_array_equal(there, back)
    assert (np.diff(there) < 0).all()


def test_psnr_of_a_constant_error_is_the_closed_form():
    # 255 - 0 would be 1 in uint8 arithmetic.
    originals = np.zeros((2, 5, 7, 3), np.uint8)
    images = originals + np.array([255, 51], np.uint8)[:, None, None, None]
    expected = [0, 20 * np.log10(5)]
    np.testing.assert_allclose(similarity.psnr(images, originals), expected, atol=1e-12)


def test_ssim_of_constant_images_is_its_luminance_term():
    a, b, c1 = 100.0, 180.0, 2.55**2
    images = np.full((1, 16, 12, 3), a, np.uint8)
    originals = np.full((1, 16, 12, 3), b, np.uint8)
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    # No variance, up to rounding of 180^2.
    assert similarity.ssim(images, originals) == pytest.approx(expected, rel=1e-10)


def test_ssim_of_an_image_of_one_window_is_the_formula_itself():
    # Five pixels at each border are the centre of none.
    _, originals = pair(11, 11, 1, n=1)
    images = originals.copy()
    images[:, 0, 0] ^= 255
    weight = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weight = np.outer(weight, weight) / weight.sum() ** 2
    x, y = images[0, ..., 0].astype(float), originals[0, ..., 0].astype(float)
    mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
    dx, dy = x - mean_x, y - mean_y
    c1, c2 = 2.55**2, 7.65**2
    covariance, variances = (weight * dx * dy).sum(), (weight * (dx**2 + dy**2)).sum()
    expected = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    expected *= (2 * covariance + c2) / (variances + c2)
    assert expected < 1
    assert similarity.ssim(images, originals) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 10, 64, 3), (1, 64, 10, 3)])
def test_an_image_smaller_than_the_window_is_an_error(shape):
    images = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=f"11x11 pixels, got {shape[1]}x{shape[2]}"):
        similarity.ssim(images, images)


def test_no_images_have_no_values():
    images = np.zeros((0, 16, 16, 3), np.uint8)
    assert similarity.psnr(images, images).shape == (0,)
    assert similarity.ssim(images, images).shape == (0,)


def test_both_can_be_restricted_to_a_hole_as_scikit_image_would():
    images, originals = pair(48, 40, 3)
    hole = np.zeros((3, 48, 40), bool)
    hole[0, 10:20, 3:30], hole[1, :30] = True, True
    found = similarity.psnr(images, originals, hole)
    expected = [
        metrics.peak_signal_noise_ratio(b[k], a[k], data_range=255)
        for a, b, k in zip(images[:2], originals[:2], hole[:2], strict=True)
    ]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-12)
    ssim = similarity.ssim(images, originals, hole)
    for k in range(2):
        _, full = metrics.structural_similarity(
            images[k],
            originals[k],
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=-1,
            full=True,
        )
        inside = hole[k].copy()
        inside[:5] = inside[-5:] = inside[:, :5] = inside[:, -5:] = False
        np.testing.assert_allclose(ssim[k], full[inside].mean(), rtol=1e-9)
    # The last image has no hole.
    assert np.isnan(found[2]) and np.isnan(ssim[2])


def test_where_all_pixels_count_the_values_are_those_of_the_images():
    images, originals = pair(20, 24, 3)
    every = np.ones((3, 20, 24), bool)
    for function in (similarity.psnr, similarity.ssim):
        expected = function(images, originals)
        np.testing.assert_allclose(
            function(images, originals, every), expected, rtol=1e-12
        )
