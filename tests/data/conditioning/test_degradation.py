"""Small versions of images, against closed forms."""

import numpy as np
import pytest

from simple_diffusion.data.conditioning import degradation
from simple_diffusion.data.scenes import scenes_source


def noise(h, w, c=3):
    return np.random.default_rng(0).integers(0, 256, (h, w, c), dtype=np.uint8)


def degrade(image, factor, kind, seed=0):
    return degradation.degrade(image, factor, kind, np.random.default_rng(seed))


def keys_matrix(length, factor):
    """Keys' cubic with a = -1/2, stretched by the factor, as a matrix."""
    place = (np.arange(length // factor) + 0.5) * factor - 0.5
    v = np.abs(np.arange(length)[None] - place[:, None]) / factor
    near = 1.5 * v**3 - 2.5 * v**2 + 1
    far = -0.5 * v**3 + 2.5 * v**2 - 4 * v + 2
    weight = np.where(v < 1, near, np.where(v < 2, far, 0))
    return weight / weight.sum(1, keepdims=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_bicubic_is_the_cubic_that_widens_with_the_factor(channels, factor):
    image = noise(24 * 2, 24 * 3, channels)
    rows, columns = (keys_matrix(n, factor) for n in image.shape[:2])
    expected = np.einsum("iy,jx,yxc->ijc", rows, columns, image.astype(float))
    # Pillow rounds after each of its two passes.
    error = np.abs(degrade(image, factor, "bicubic") - np.clip(expected, 0, 255))
    assert error.max() < 1.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_area_is_the_mean_of_the_pixels_that_become_one(channels, factor):
    image = noise(48, 72, channels)
    h, w = 48 // factor, 72 // factor
    means = image.reshape(h, factor, w, factor, channels).mean((1, 3))
    # Rounded once; Pillow divides by 9 by a multiplication that is a little too small.
    assert np.abs(degrade(image, factor, "area") - means).max() < 0.6


@pytest.mark.parametrize("kind", ["bicubic", "area"])
def test_a_factor_of_1_changes_nothing(kind):
    image = noise(9, 14)
    assert (degrade(image, 1, kind) == image).all()


@pytest.mark.parametrize("kind", ["bicubic", "area"])
def test_colours_that_transparency_hides_take_no_part(kind):
    image = np.zeros((16, 16, 4), np.uint8)
    image[:, :6] = 255, 0, 0, 0
    image[:, 6:] = 0, 0, 255, 255
    small = degrade(image, 4, kind)
    assert small.shape == (4, 4, 4)
    assert (small[..., 0] == 0).all()
    seen = small[..., 3] > 0
    assert (small[seen][:, 2] == 255).all()
    # The second column is half hidden; a cubic counts its middle more.
    assert np.abs(small[:, 1, 3].astype(int) - 127.5).max() < 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", degradation.DEGRADATIONS)
def test_a_small_scene_is_nearest_to_its_own_scene(kind, channels):
    source = scenes_source.ScenesSource(length=20, channels=channels)
    images = source.read_batch(np.arange(12), (64, 96)).image
    means = images.reshape(12, 16, 4, 24, 4, channels).mean((2, 4))
    for k, image in enumerate(images):
        small = degrade(image, 4, kind, seed=k)
        error = np.sqrt(np.mean((small - means) ** 2, axis=(1, 2, 3)))
        assert error.argmin() == k
        assert kind == "bsr_light" or error[k] < 4


def test_only_bsr_light_depends_on_the_random_numbers():
    image = noise(32, 32)
    for kind in degradation.DEGRADATIONS:
        same, other = degrade(image, 4, kind), degrade(image, 4, kind, seed=1)
        assert (degrade(image, 4, kind) == same).all()
        assert (same == other).all() == (kind != "bsr_light")


@pytest.mark.parametrize(
    ("shape", "factor", "kind", "problem"),
    [
        ((8, 12, 3), 3, "area", "low_resolution.factor=3 must divide .* 8x12"),
        ((8, 12, 3), 0, "area", "low_resolution.factor=0 must be at least 1"),
        ((8, 12, 2), 2, "area", "1, 3 or 4 channels, got 2"),
        ((8, 12, 4), 2, "bsr_light", "no transparency"),
        ((8, 12, 3), 2, "lanczos", "'lanczos' must be one of bicubic, area, bsr_light"),
    ],
)
def test_what_has_no_result_is_an_error(shape, factor, kind, problem):
    image, rng = np.zeros(shape, np.uint8), np.random.default_rng(0)
    with pytest.raises(ValueError, match=problem):
        degradation.check(kind, factor, shape[2], shape[:2])
    if kind in degradation.DEGRADATIONS:
        with pytest.raises(ValueError, match=problem):
            degradation.degrade(image, factor, kind, rng)
