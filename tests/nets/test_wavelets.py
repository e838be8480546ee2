import jax
import numpy as np
import pytest
import pywt

from simple_diffusion.nets import wavelets
from tests.vectors import vector

KINDS = ("legall", "haar")


def random(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def transform_1d(x: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Splits along the width alone: of a constant along the height, LL and HL."""
    image = np.broadcast_to(np.float32(x), (2, len(x)))[None, :, :, None]
    bands = np.asarray(wavelets.dwt2(jax.numpy.asarray(image)))
    return bands[0, 0, :, 0], bands[0, 0, :, 2]


def test_one_axis_agrees_with_the_lifting_steps_done_by_hand():
    expected = vector("wavelet.legall53_lifting_1d")
    s, d = transform_1d(expected["x"])
    np.testing.assert_array_equal(s, expected["s"])
    np.testing.assert_array_equal(d, expected["d"])


def test_bands_agree_with_the_two_dimensional_vector_in_value_and_order():
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1) ** 2 / 10
    bands = wavelets.dwt2(jax.numpy.asarray(x))
    expected = vector("wavelet.legall53_lifting_2d")
    for k, name in enumerate(("LL", "LH", "HL", "HH")):
        np.testing.assert_allclose(bands[0, ..., k], expected[name], atol=1e-5)


def test_haar_agrees_with_its_vector():
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    bands = np.asarray(wavelets.dwt2(jax.numpy.asarray(x), kind="haar"))
    expected = vector("wavelet.haar_2d")
    for k, name in enumerate(("cA", "cH", "cV", "cD")):
        want = np.broadcast_to(expected[name], (2, 2))
        np.testing.assert_allclose(bands[0, ..., k], want, atol=1e-6)


def test_haar_agrees_with_pywavelets():
    x = np.asarray(random(1, 12, 8, 1))
    bands = wavelets.dwt2(jax.numpy.asarray(x), kind="haar")
    low, (horizontal, vertical, diagonal) = pywt.dwt2(x[0, ..., 0], "haar")
    for k, want in enumerate((low, horizontal, vertical, diagonal)):
        np.testing.assert_allclose(bands[0, ..., k], want, atol=1e-6)


def test_legall_agrees_with_pywavelets_away_from_the_border():
    x = np.asarray(random(1, 24, 20, 1), np.float64)
    bands = np.asarray(wavelets.dwt2(jax.numpy.asarray(x, np.float32)))[0]
    low, (horizontal, vertical, diagonal) = pywt.dwt2(
        x[0, ..., 0], "bior2.2", mode="symmetric"
    )
    # PyWavelets' filters have unit norm in pairs (low √2 s, high -d/√2) and its
    # extension adds one coefficient at either end.
    scaled = (low / 2, -horizontal, -vertical, 2 * diagonal)
    for k, want in enumerate(scaled):
        inner = want[1:-1, 1:-1][2:-2, 2:-2]
        np.testing.assert_allclose(bands[2:-2, 2:-2, k], inner, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("h", "w", "levels"), [(2, 6, 1), (4, 12, 2), (16, 8, 3)])
def test_the_inverse_gives_the_image_back(kind, h, w, levels):
    x = random(2, h, w, 3)

    @jax.jit
    def there_and_back(x):
        bands = wavelets.dwt2(x, levels, kind)
        return bands, wavelets.idwt2(bands, levels, kind)

    bands, back = there_and_back(x)
    assert bands.shape == (2, h // 2**levels, w // 2**levels, 3 * 4**levels)
    # Sums of a few numbers of order one in float32, both ways.
    np.testing.assert_allclose(back, x, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [1, 2])
def test_any_bands_are_those_of_their_image(kind, levels):
    bands = random(1, 4, 6, 4**levels)
    back = jax.jit(
        lambda v: wavelets.dwt2(wavelets.idwt2(v, levels, kind), levels, kind)
    )
    np.testing.assert_allclose(back(bands), bands, atol=1e-5)


def test_a_constant_keeps_its_value_and_has_no_details():
    bands = jax.jit(lambda x: wavelets.dwt2(x, 2))(jax.numpy.full((1, 8, 8, 2), 0.75))
    np.testing.assert_array_equal(bands[..., :2], 0.75)
    np.testing.assert_array_equal(bands[..., 2:], 0.0)


def test_a_ramp_has_no_details_away_from_the_far_border():
    rows, columns = np.mgrid[:16, :12].astype(np.float32)
    ramp = (3 * rows - 2 * columns)[None, ..., None]
    bands = wavelets.dwt2(jax.numpy.asarray(ramp))
    np.testing.assert_array_equal(bands[:, :-1, :-1, 1:], 0.0)


def test_two_levels_fold_the_fine_bands_by_space_to_depth():
    shape = vector("wavelet.two_level_shape")
    x = random(1, 16, 16, 3)
    one_level = jax.jit(wavelets.dwt2)
    bands = jax.jit(lambda x: wavelets.dwt2(x, 2))(x)
    assert bands.shape[-1] == shape["output"][-1]
    once = one_level(x)
    coarse = one_level(once[..., :3])
    np.testing.assert_allclose(bands[..., :12], coarse, atol=1e-6)
    # The pixel (1, 0) of each 2x2 block of the fine details is its third quarter.
    fine = bands[..., 12:].reshape(1, 4, 4, 2, 2, 9)
    np.testing.assert_allclose(fine[..., 1, 0, :], once[:, 1::2, ::2, 3:], atol=1e-6)


def test_noise_std_agrees_with_the_derived_gains():
    gains = vector("wavelet.legall53_noise_gain")
    one = gains["dc_gain_1"]
    expected = [one["LL"], one["LH_HL"], one["LH_HL"], one["HH"]]
    np.testing.assert_allclose(wavelets.noise_std(1) ** 2, expected, rtol=1e-6)
    two = wavelets.noise_std(3, levels=2)
    assert two.shape == (48,)
    want = gains["two_level_LL_dc_gain_1"]
    np.testing.assert_allclose(two[:3] ** 2, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("levels", "kind"), [(1, "legall"), (2, "legall"), (2, "haar")]
)
def test_noise_std_is_that_of_transformed_noise(levels, kind):
    transform = jax.jit(lambda x: wavelets.dwt2(x, levels, kind))
    bands = transform(random(1, 512, 512, 1))[:, 4:-4, 4:-4]
    measured = np.std(bands, axis=(0, 1, 2))
    # 120² or more samples per band: the estimate is within 1 % or so.
    np.testing.assert_allclose(measured, wavelets.noise_std(1, levels, kind), rtol=0.03)
