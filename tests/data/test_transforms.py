import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simple_diffusion.data import order, transforms


def noise(h, w):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


def square(image, position=0, *, resolution, **options):
    size = resolution, resolution
    return transforms.crop_and_resize(
        image, order.make_generator(0, position), size=size, **options
    )


def test_area_is_the_mean_of_the_pixels_that_become_one():
    image = noise(24, 24)
    means = image.reshape(6, 4, 6, 4, 3).mean((1, 3))
    # Pillow rounds after each of its two passes.
    assert np.abs(square(image, resolution=6) - means).max() <= 1.01


@pytest.mark.parametrize("resize", ["area", "antialias"])
def test_waves_too_fine_for_the_result_vanish(resize):
    stripes = np.tile(np.array([0, 255], np.uint8)[:, None, None], (32, 64, 3))
    small = square(stripes, resolution=16, resize=resize)
    assert np.abs(small[2:-2].astype(int) - 127.5).max() < 3


@pytest.mark.parametrize("resize", ["area", "antialias"])
@pytest.mark.parametrize("side", [3, 40, 111])
def test_a_plain_image_stays_plain_at_any_size(resize, side):
    image = np.full((side, side, 3), (10, 128, 250), np.uint8)
    assert (square(image, resolution=40, resize=resize) == image[0, 0]).all()


def test_an_image_of_the_right_size_is_not_touched():
    image = noise(16, 16)
    assert (square(image, resolution=16) == image).all()


def test_a_central_crop_leaves_as_much_on_either_side():
    image = noise(8, 20)
    assert (square(image, resolution=8) == image[:, 6:14]).all()
    tall = image.transpose(1, 0, 2)
    assert (square(tall, resolution=8) == tall[6:14]).all()


@pytest.mark.parametrize("is_tall", [False, True])
def test_random_crops_reach_every_place_equally_often(is_tall):
    image = np.zeros((4, 8, 3), np.uint8)
    image[..., 0] = np.arange(8)
    image = image.transpose(1, 0, 2) if is_tall else image
    places = [
        square(image, k, resolution=4, crop="random")[0, 0, 0] for k in range(2000)
    ]
    counts = np.bincount(places)
    assert len(counts) == 5
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)


def test_half_of_the_images_are_mirrored_and_the_rest_are_not():
    image = noise(4, 4)
    mirrored = 0
    for k in range(400):
        result = square(image, k, resolution=4, flip=True)
        same = (result == image).all()
        assert same or (result == image[:, ::-1]).all()
        mirrored += not same
    assert abs(mirrored - 200) < 50


def test_an_image_of_extreme_aspect_is_never_enlarged_whole():
    thread = np.full((1, 100_000, 3), 9, np.uint8)
    assert (square(thread, resolution=64) == 9).all()


def test_the_largest_part_of_the_wanted_shape_is_kept():
    image = noise(8, 20)
    assert (fitted(image, (8, 12)) == image[:, 4:16]).all()
    ramp = np.arange(0, 240, 2, dtype=np.uint8)[None, :, None] * np.ones((60, 1, 3))
    wide = fitted(ramp.astype(np.uint8), (10, 40))  # its 30 middle rows, 3 to 1
    expected = 2 * (3 * np.arange(40) + 1)
    assert np.abs(wide[:, :, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("resize", ["area", "antialias"])
@pytest.mark.parametrize("size", [(6, 9), (40, 31)])
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_every_channel_is_resized_as_if_it_were_alone(channels, size, resize):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 20, channels), dtype=np.uint8)
    result = fitted(image, size, resize=resize)
    part = transforms.resample_array_crop(image, crop((1, 2, 21, 18), size, True))
    for k in range(channels):
        colour = np.repeat(image[:, :, k, None], 3, axis=2)
        expected = fitted(colour, size, resize=resize)
        assert (result[:, :, k, None] == expected).all()
        alone = transforms.resample_crop(
            Image.fromarray(colour), crop((1, 2, 21, 18), size, True)
        )
        assert (part[:, :, k, None] == alone).all()


def fitted(image, size, **options):
    return transforms.crop_and_resize(
        image, order.make_generator(0, 0), size=size, **options
    )


def resized(image, size, resize):
    """Returns a whole image resized by Pillow, rows first."""
    kind = Image.Resampling.BOX if resize == "area" else Image.Resampling.LANCZOS
    rows = Image.fromarray(image).resize((size[1], len(image)), kind)
    return np.asarray(rows.resize((size[1], size[0]), kind))


def crop(rectangle, size, mirrored=False, resize="antialias"):
    box = (0.0, 0.0, 1.0, 1.0)
    return transforms.Crop(rectangle, size, mirrored, resize, box, "")


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.integers(8, 60),
    st.integers(8, 60),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.booleans(),
    st.sampled_from(["area", "antialias"]),
)
def test_a_part_resampled_alone_is_that_part_of_the_whole_resampled(
    height, width, at, mirrored, resize
):
    h, w = (round(4 + v * (n - 4)) for v, n in zip(at, (height, width), strict=False))
    rows, columns = height / h, width / w
    y, x = round(at[2] * (h - 4)), round(at[3] * (w - 4))
    rectangle = y * rows, x * columns, (y + 4) * rows, (x + 4) * columns
    part = transforms.resample_crop(
        Image.fromarray(noise(height, width)),
        crop(rectangle, (4, 4), mirrored, resize),
    )
    whole = transforms.resample_crop(
        Image.fromarray(noise(height, width)),
        crop((0, 0, height, width), (h, w), resize=resize),
    )
    expected = whole[y : y + 4, x : x + 4].astype(int)
    expected = expected[:, ::-1] if mirrored else expected
    # One grey level where rounding a corner carries a sum across a half.
    assert np.abs(part - expected).max() <= 1
    # With areas, Pillow leaves it to rounding whose the pixels on their edges are.
    if max(rows, columns) < 2 * transforms.OVERSAMPLING and resize == "antialias":
        pillow = resized(noise(height, width), (h, w), resize).astype(int)
        assert np.abs(whole - pillow).max() <= 1


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("resize", ["area", "antialias"])
def test_a_part_is_exact_where_a_pixel_is_made_of_whole_pixels(factor, resize):
    image = Image.fromarray(noise(60, 48))
    whole = resized(noise(60, 48), (60 // factor, 48 // factor), resize)
    for y, x in ((0, 0), (3, 5), (60 // factor - 8, 48 // factor - 8)):
        rectangle = tuple(float(factor * v) for v in (y, x, y + 8, x + 8))
        part = transforms.resample_crop(image, crop(rectangle, (8, 8), resize=resize))
        assert (part == whole[y : y + 8, x : x + 8]).all()


def test_what_is_reduced_first_stays_close_to_the_filter_alone():
    smooth = Image.fromarray(noise(6, 6)).resize((240, 240), Image.Resampling.BICUBIC)
    expected = np.asarray(smooth.resize((20, 20), Image.Resampling.LANCZOS)).astype(int)
    part = transforms.resample_crop(smooth, crop((0, 0, 240, 240), (20, 20)))
    assert np.abs(part - expected).max() <= 2


def test_enlarging_neither_repeats_pixels_nor_rings():
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 200
    image = Image.fromarray(step)
    for resize in ("area", "antialias"):
        large = transforms.resample_crop(
            image, crop((0, 0, 8, 8), (64, 64), resize=resize)
        )
        assert (
            large == np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
        ).all()


def test_colours_that_transparency_hides_do_not_mix_with_others():
    image = np.zeros((8, 8, 4), np.uint8)
    image[:, :3] = (200, 40, 40, 255)  # the rest is transparent, and black
    chosen = transforms.choose_crop(8, 8, order.make_generator(0, 0), size=(2, 2))
    result = transforms.apply_crop(image, chosen, has_alpha=True)
    assert np.abs(result[:, 0].astype(int) - (200, 40, 40, 191)).max() <= 1
    assert (result[:, 1, 3] == 0).all()
    plain = transforms.apply_crop(image, chosen)
    assert plain[0, 0, 0] < 160  # the mean with black
    whole = transforms.choose_crop(8, 8, order.make_generator(0, 0), size=(8, 8))
    assert (transforms.apply_crop(image, whole, has_alpha=True) == image).all()
