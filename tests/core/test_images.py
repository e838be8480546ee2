import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from simple_diffusion.core import images


def test_every_uint8_value_survives_the_round_trip():
    values = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(images.to_uint8(images.to_unit_range(values)), values)


def test_the_ends_of_the_range_are_minus_one_and_one():
    ends = images.to_unit_range(jnp.array([0, 255], jnp.uint8).reshape(1, 2, 1))
    np.testing.assert_array_equal(np.ravel(ends), [-1.0, 1.0])


def test_values_outside_the_range_are_clipped_and_do_not_wrap():
    x = jnp.array([-3.0, 3.0]).reshape(1, 2, 1)
    np.testing.assert_array_equal(np.ravel(images.to_uint8(x)), [0, 255])


def test_grid_holds_each_image_once_on_white():
    sheet = images.make_grid(np.zeros((3, 4, 5, 3), np.uint8), columns=2, pad=1)
    assert sheet.shape == (2 * 5 + 1, 2 * 6 + 1, 3)
    assert (sheet == 0).sum() == 3 * 4 * 5 * 3


def test_png_round_trip_in_colour_and_grey(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    images.write_png(tmp_path / "new" / "colour.png", colour)
    np.testing.assert_array_equal(
        images.read_png(tmp_path / "new" / "colour.png"), colour
    )
    images.write_png(tmp_path / "grey.png", colour[..., :1])
    np.testing.assert_array_equal(
        images.read_png(tmp_path / "grey.png"), colour[..., :1].repeat(3, -1)
    )
    assert not list(tmp_path.rglob("*.partial"))


def test_enlarge_repeats_pixels():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    large = images.enlarge(image, 2)
    np.testing.assert_array_equal(large[::2, ::2], image)
    np.testing.assert_array_equal(large[1::2, 1::2], image)


def test_any_image_as_rgb_is_what_pillow_shows_on_white():
    rgba = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 4), dtype=np.uint8)
    for each, found in zip(rgba, images.to_rgb(rgba), strict=True):
        white = Image.new("RGBA", (5, 6), "white")
        shown = Image.alpha_composite(white, Image.fromarray(each)).convert("RGB")
        # Pillow and this function round in different places.
        assert np.abs(np.asarray(shown).astype(int) - found).max() <= 1
    assert (images.to_rgb(jnp.asarray(rgba)) == images.to_rgb(rgba)).all()
    grey = rgba[..., :1]
    assert (images.to_rgb(grey) == grey).all() and images.to_rgb(grey).shape[-1] == 3
    with pytest.raises(ValueError, match="1, 3 or 4 channels, got 2"):
        images.to_rgb(rgba[..., :2])
