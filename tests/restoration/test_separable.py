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
    axis = separable._blur_axis(24, tuple(kernel), compat=True)
    y = (axis.u * axis.s) @ axis.vt @ np.ones(24)
    gain = row["dc_gain_if_both_axes"] ** 0.5
    np.testing.assert_allclose(y[8:16], gain, atol=1e-5)
    # Black beyond the border: at the ends some taps more are lost.
    assert y[0] < 0.87 * gain


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


def test_the_threshold_is_a_share_of_the_largest_product():
    kernels, size, threshold = (UNIFORM, SKEWED), (8, 16), 0.2
    axes = [along_an_axis(n, k, False) for n, k in zip(size, kernels, strict=True)]
    u, s, vt = np.linalg.svd(np.kron(*axes))
    limit = threshold * s[0]
    expected = u @ np.diag(np.where(s >= limit, s, 0)) @ vt
    operator = separable.blur(size, *kernels, threshold=threshold)
    pixels = jnp.eye(8 * 16).reshape(-1, 8, 16, 1)
    forward = np.asarray(operator.forward(pixels)).reshape(128, 128).T
    np.testing.assert_allclose(forward, expected, atol=1e-6)
    assert np.count_nonzero(singulars(operator)) == np.count_nonzero(s >= limit)


def published(x, kernel_y, kernel_x, limit, invert=False):
    """The blur of DDNM's code, or its inverse, of [3, h, w] in float64, step by step.

    Coefficients and singular values are vectors of 3 h w numbers there. All products
    are sorted; the coefficients are ordered alike, and then by channel; but the values
    are the sorted list three times over.
    """
    axes = [
        along_an_axis(n, k, True)
        for n, k in zip(x.shape[1:], (kernel_y, kernel_x), strict=True)
    ]
    (u_y, s_y, vt_y), (u_x, s_x, vt_x) = map(np.linalg.svd, axes)
    s_y, s_x = (np.where(s < limit, 0, s) for s in (s_y, s_x))
    products = (s_y[:, None] * s_x[None]).reshape(-1)
    order = sorted(range(len(products)), key=lambda i: -products[i])
    values = np.concatenate([products[order]] * 3)
    if invert:
        values = np.array([1 / s if s else 0.0 for s in values])
        u_y, vt_y, u_x, vt_x = vt_y.T, u_y.T, vt_x.T, u_x.T
    coefficients = (vt_y @ x @ vt_x.T).reshape(3, -1)[:, order]
    vector = coefficients.T.reshape(-1) * values  # channels of one coefficient together
    back = np.zeros((3, len(products)))
    back[:, order] = vector.reshape(-1, 3).T
    return u_y @ back.reshape(x.shape) @ u_x.T


def test_the_published_blur_is_that_of_its_code_step_by_step():
    # Sides and kernels that give no two products alike, of which no order is defined.
    size, kernels = (7, 12), (separable.gaussian_kernel(1.0, 5), UNIFORM)
    x = np.random.default_rng(0).standard_normal((2, *size, 3))
    operator = separable.blur(size, *kernels, threshold=0.1, compat=True)
    y = np.asarray(operator.forward(jnp.asarray(x, jnp.float32)))
    back = np.asarray(operator.pinv(jnp.asarray(x, jnp.float32)))
    for k in range(2):
        first = x[k].transpose(2, 0, 1)
        wanted = published(first, *kernels, 0.1).transpose(1, 2, 0)
        np.testing.assert_allclose(y[k], wanted, atol=1e-5)
        wanted = published(first, *kernels, 0.1, invert=True).transpose(1, 2, 0)
        np.testing.assert_allclose(back[k], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kernels", "theirs", "ours"),
    [
        ((UNIFORM, UNIFORM), 729, 271),
        ((KERNELS["gauss5_sigma10"],) * 2, 900, 619),
        ((KERNELS["aniso_axis_sigma1_9"], KERNELS["aniso_axis_sigma20_9"]), 756, 479),
    ],
    ids=["uniform", "gaussian", "anisotropic"],
)
def test_the_published_threshold_of_each_axis_keeps_more(kernels, theirs, ours):
    # Counted with the code of DDNM at 32x32; ours is what one threshold of 0.03 for the
    # products keeps of the same singular values.
    kept = singulars(separable.blur((32, 32), *kernels, compat=True))
    assert np.count_nonzero(kept) == 3 * theirs
    axes = [separable._blur_axis(32, tuple(k), compat=True).s for k in kernels]
    assert np.count_nonzero(np.outer(*axes) >= 0.03) == ours


def test_the_published_blur_is_for_three_channels():
    operator = separable.blur((12, 12), UNIFORM, UNIFORM, compat=True)
    with pytest.raises(ValueError, match="for images of 3 channels, got 1"):
        operator.forward(jnp.ones((1, 12, 12, 1)))


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
