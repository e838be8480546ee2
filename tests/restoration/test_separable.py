import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from simple_diffusion.restoration import operators, separable
from tests.vectors import vector

UNIFORM = separable.uniform_kernel(9)
SKEWED = np.array([0.5, 0.3, 0.1, 0.06, 0.04])


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def singulars(operator: operators.LinearOperator) -> np.ndarray:
    assert operator.spectrum is not None
    return np.asarray(operator.spectrum.singulars)


@pytest.mark.parametrize("row", vector("restoration.bicubic_singular_values"))
def test_bicubic_has_the_singular_values_of_its_vector(row):
    n, factor = row["n"], row["factor"]
    s = singulars(separable.bicubic((n, n), factor))
    kept = s[s > 0]
    assert kept.size == (n // factor) ** 2
    np.testing.assert_allclose(kept.max(), row["s_max"] ** 2, rtol=1e-6)
    np.testing.assert_allclose(kept.min(), row["min_outer_product"], rtol=1e-6)
    np.testing.assert_allclose(kept.min(), row["s_min"] ** 2, rtol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_agrees_with_pillow_away_from_the_border(factor):
    h, w = 10 * factor, 12 * factor
    x = random(h, w)
    y = separable.bicubic((h, w), factor).forward(jnp.asarray(x)[None, ..., None])
    small = Image.fromarray(x).resize((12, 10), Image.Resampling.BICUBIC)
    # Pillow leaves out what lies beyond the border: two pixels of the result from it.
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(y[0, ..., 0][inner], np.asarray(small)[inner], atol=1e-5)


def test_bicubic_keeps_a_constant_up_to_the_border():
    y = separable.bicubic((8, 24), 4).forward(jnp.full((1, 8, 24, 1), 0.7))
    np.testing.assert_allclose(y, 0.7, atol=1e-6)


@pytest.mark.parametrize(
    "kernel_y, kernel_x",
    [(SKEWED, UNIFORM), (separable.gaussian_kernel(2.0, 15), SKEWED)],
)
def test_blur_agrees_with_scipy_up_to_the_border(kernel_y, kernel_x):
    x = random(2, 8, 20, 3)
    operator = separable.blur((8, 20), kernel_y, kernel_x, threshold=0.0)
    expected = scipy.ndimage.correlate1d(x, kernel_y, axis=1, mode="reflect")
    expected = scipy.ndimage.correlate1d(expected, kernel_x, axis=2, mode="reflect")
    # A share below 1e-6 of a frequency is taken for lost; float32 adds as much.
    np.testing.assert_allclose(operator.forward(jnp.asarray(x)), expected, atol=1e-5)


KERNELS = {
    "uniform_9": UNIFORM,
    "gauss5_sigma10": separable.gaussian_kernel(10.0, 5),
    "aniso_axis_sigma20_9": separable.gaussian_kernel(20.0, 9),
    "aniso_axis_sigma1_9": separable.gaussian_kernel(1.0, 9),
}


@pytest.mark.parametrize("row", vector("restoration.deblur_lost_tap"))
def test_a_blur_keeps_a_constant_and_the_published_one_darkens_it(row):
    kernel = KERNELS[row["kernel"]]
    white = jnp.ones((1, 24, 24, 1))
    ours = separable.blur((24, 24), kernel, kernel).forward(white)
    np.testing.assert_allclose(ours, 1.0, atol=1e-5)
    published = separable.blur((24, 24), kernel, kernel, threshold=0.0, compat=True)
    y = np.asarray(published.forward(white))[0, ..., 0]
    np.testing.assert_allclose(y[8:16, 8:16], row["dc_gain_if_both_axes"], atol=1e-5)
    # Black beyond the border: at the corner some taps more are lost in both axes.
    assert y[0, 0] < 0.75 * row["dc_gain_if_both_axes"]


def along_an_axis(n: int, kernel: np.ndarray, published: bool) -> np.ndarray:
    """Returns the matrix of a blur, written down tap by tap."""
    matrix = np.zeros((n, n))
    half = len(kernel) // 2
    for i in range(n):
        for t in range(-half, half + (0 if published else 1)):
            j = i + t
            if not 0 <= j < n:
                if published:
                    continue
                j = -1 - j if j < 0 else 2 * n - 1 - j
            matrix[i, j] += kernel[t + half]
    return matrix


@pytest.mark.parametrize("compat", [False, True])
def test_the_threshold_is_a_share_of_the_largest_and_absolute_as_published(compat):
    kernels, size, threshold = (UNIFORM, SKEWED), (8, 16), 0.2
    axes = [along_an_axis(n, k, compat) for n, k in zip(size, kernels, strict=True)]
    u, s, vt = np.linalg.svd(np.kron(*axes))
    limit = threshold * (1.0 if compat else s[0])
    # The two readings differ here.
    assert np.count_nonzero(s >= threshold) != np.count_nonzero(s >= threshold * s[0])
    expected = u @ np.diag(np.where(s >= limit, s, 0)) @ vt
    operator = separable.blur(size, *kernels, threshold=threshold, compat=compat)
    pixels = jnp.eye(8 * 16).reshape(-1, 8, 16, 1)
    forward = np.asarray(operator.forward(pixels)).reshape(128, 128).T
    np.testing.assert_allclose(forward, expected, atol=1e-6)
    assert np.count_nonzero(singulars(operator)) == np.count_nonzero(s >= limit)


def test_at_a_usual_size_float32_projects_onto_what_was_measured():
    kernel = separable.gaussian_kernel(10.0, 5)
    operator = separable.blur((64, 48), kernel, kernel)
    y = operator.forward(jnp.asarray(random(1, 64, 48, 3)))
    x = jnp.ones((1, 64, 48, 3))
    once = x - operator.pinv(operator.forward(x) - y)
    twice = once - operator.pinv(operator.forward(once) - y)
    # Rounding of 1e-7 or so, times 1/s = 33.
    np.testing.assert_allclose(operator.forward(once), y, atol=5e-6)
    np.testing.assert_allclose(twice, once, atol=5e-5)


def test_kernels_are_symmetric_means():
    for kernel in KERNELS.values():
        np.testing.assert_allclose(kernel.sum(), 1.0, rtol=1e-12)
        np.testing.assert_array_equal(kernel, kernel[::-1])
    bell = separable.gaussian_kernel(2.0, 5)
    np.testing.assert_allclose(bell[2] / bell[0], np.exp(0.5), rtol=1e-12)


@pytest.mark.parametrize(
    "taps, message",
    [
        (4, r"restore\.blur_taps=4 must be odd"),
        (0, r"restore\.blur_taps=0 must be odd"),
        (
            19,
            r"restore\.blur_taps=19 reach further beyond the border than the image's"
            r" 8x16 pixels; at most 17 \(restore\.size\)",
        ),
    ],
)
def test_kernels_that_do_not_fit_are_errors(taps, message):
    kernel = separable.uniform_kernel(taps)
    with pytest.raises(ValueError, match=message):
        separable.blur((8, 16), kernel, UNIFORM)
    with pytest.raises(ValueError, match=message):
        separable.blur((8, 16), UNIFORM, kernel)


def test_the_longest_kernel_still_mirrors_once():
    kernel = separable.uniform_kernel(17)
    y = separable.blur((8, 8), kernel, kernel).forward(jnp.ones((1, 8, 8, 1)))
    np.testing.assert_allclose(y, 1.0, atol=1e-6)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_outside_its_range_is_an_error(threshold):
    message = rf"restore\.blur_threshold={threshold} must lie in \[0, 1\)"
    with pytest.raises(ValueError, match=message):
        separable.blur((8, 8), UNIFORM, UNIFORM, threshold)


def test_a_bell_without_width_is_an_error():
    with pytest.raises(ValueError, match=r"restore\.blur_sigma=0\.0 must be more than"):
        separable.gaussian_kernel(0.0, 5)


def test_a_side_too_long_to_decompose_is_refused():
    with pytest.raises(ValueError, match="8x8192 pixels.*at most 4096"):
        separable.bicubic((8, 8192), 2)
    with pytest.raises(ValueError, match="8192x8 pixels.*at most 4096"):
        separable.blur((8192, 8), *(separable.uniform_kernel(3),) * 2)
