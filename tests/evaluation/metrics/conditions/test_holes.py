"""Filled holes, and the pixels around them."""

import numpy as np
import pytest
from scipy import ndimage

from simple_diffusion.evaluation.metrics.conditions import holes


def images_and_hole(seed=0, n=4, size=(9, 13), share=0.7):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *size, 3), np.uint8)
    return images, rng.random((n, *size)) < share


@pytest.mark.parametrize("share", [0.1, 0.7, 0.97])
def test_holes_are_filled_by_a_pixel_at_the_least_distance(share):
    images, hole = images_and_hole(share=share)
    # Colours that say where they are from.
    rows, columns = np.indices(images.shape[1:3])
    images = np.stack([rows, columns, rows], -1).astype(np.uint8)[None].repeat(4, 0)
    filled = holes.fill_nearest(images, hole).astype(int)
    for k in range(4):
        from_row, from_column = filled[k, ..., 0], filled[k, ..., 1]
        assert not hole[k][from_row, from_column].any()
        distance = np.hypot(from_row - rows, from_column - columns)
        expected = ndimage.distance_transform_edt(hole[k])
        np.testing.assert_allclose(distance, expected)


def test_known_pixels_stay_and_an_image_without_any_is_black():
    images, hole = images_and_hole()
    hole[1] = True
    filled = holes.fill_nearest(images, hole)
    np.testing.assert_array_equal(filled[~hole], images[~hole])
    assert not filled[1].any()


def test_the_composite_has_the_image_in_the_hole_alone():
    images, hole = images_and_hole()
    others = 255 - images
    composed = holes.compose(images, others, hole)
    np.testing.assert_array_equal(composed[hole], images[hole])
    np.testing.assert_array_equal(composed[~hole], others[~hole])


def test_a_known_pixel_is_unchanged_if_all_its_channels_are():
    images, hole = images_and_hole(n=3)
    originals = images.copy()
    assert (holes.unchanged_share(images, originals, hole) == 1).all()
    images[hole] ^= 1  # in the hole anything goes
    y, x = np.argwhere(~hole[1])[0]
    images[1, y, x, 2] ^= 1
    hole[2] = True
    found = holes.unchanged_share(images, originals, hole)
    assert found[0] == 1 and np.isnan(found[2])
    assert found[1] == pytest.approx(1 - 1 / (~hole[1]).sum())
