import numpy as np
import pytest

from simple_diffusion.data import order, transforms


def noise(h, w):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


def square(image, position=0, *, resolution, **options):
    size = resolution, resolution
    return transforms.fitted(image, order.generator(0, position), size=size, **options)


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


def test_random_crops_reach_every_place_equally_often():
    image = np.zeros((4, 8, 3), np.uint8)
    image[..., 0] = np.arange(8)
    places = [
        square(image, k, resolution=4, place="random")[0, 0, 0] for k in range(2000)
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
