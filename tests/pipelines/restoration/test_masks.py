"""Hole masks: their forms, their sizes, and masks of one colour."""

import numpy as np
import pytest

from simple_diffusion.core import images
from simple_diffusion.pipelines.restoration import masks


def picture(size, hole=(slice(0), slice(0))):
    mask = np.zeros((*size, 1), np.uint8)
    mask[hole] = 255
    return mask


LEFT = slice(None), slice(0, 12)


@pytest.mark.parametrize("size", [(24, 48), (12, 24), (8, 16)])
def test_with_a_size_a_mask_of_any_size_is_resized_like_its_image(size):
    h, w = size
    mask = picture(size, (slice(None), slice(w // 2)))
    got = masks.fit_hole(mask, "m.png", "a", (8, 16), (24, 48), is_resized=True)
    assert ((got[..., 0] == 1) == (np.arange(16) < 8)).all()


def test_a_mask_is_cropped_to_the_part_that_its_image_is_cropped_to():
    mask = picture((10, 30), (slice(None), slice(10, 15)))  # left half of the middle
    got = masks.fit_hole(mask, "m.png", "a", (8, 8), (40, 120), is_resized=True)
    assert ((got[..., 0] == 1) == (np.arange(8) < 4)).all()


@pytest.mark.parametrize(
    "is_resized, says", [(False, "a has 8x8; with restore.size"), (True, "one ratio")]
)
def test_a_mask_of_another_shape_is_an_error(is_resized, says):
    mask = picture((16, 24), LEFT)
    stored = (24, 24) if is_resized else (8, 8)
    with pytest.raises(ValueError, match=f"m.png has 16x24 pixels, .*{says}"):
        masks.fit_hole(mask, "m.png", "a", (8, 8), stored, is_resized)


def test_a_mask_of_one_colour_is_an_error_with_the_reason():
    black, white = picture((8, 8)), picture((8, 8), (slice(None), slice(None)))
    how = "m.png", "a", (8, 8), (8, 8), False
    with pytest.raises(ValueError, match="hole_mask: m.png is all black, .*to fill"):
        masks.fit_hole(black, *how)
    with pytest.raises(ValueError, match="hole_mask: m.png is all white, .*is known"):
        masks.fit_hole(white, *how)


def test_a_hole_that_is_lost_in_resizing_is_an_error_that_says_so():
    mask = picture((64, 64), (slice(1), slice(1)))
    with pytest.raises(ValueError, match="m.png, resized to 8x8, is all black"):
        masks.fit_hole(mask, "m.png", "a", (8, 8), (64, 64), is_resized=True)


@pytest.mark.parametrize(
    "text, says",
    [
        ("box:8x8", "hole_mask=box:8x8 in a is all white"),
        ("random:0.001", "hole_mask=random:0.001 in a is all black"),
        ("random:1", "hole_mask=random:1 must be random:SHARE"),
        ("random:some", "hole_mask=random:some must be random:SHARE"),
        ("box:8", "hole_mask=box='8' must be HxW"),
        (
            "/missing",
            "hole_mask=/missing does not exist; it must be an image, a folder",
        ),
    ],
)
def test_a_mask_that_cannot_be_used_names_the_key(text, says):
    with pytest.raises(ValueError, match=f"restore.{says}"):
        masks.load_hole_mask(text, "a", (8, 8), (8, 8), 0, False)


def test_a_mask_file_is_found_in_a_folder_and_by_its_path(tmp_path):
    images.write_png(tmp_path / "a.png", picture((8, 16), LEFT))
    for text in (tmp_path, tmp_path / "a.png"):
        got = masks.load_hole_mask(str(text), "a", (8, 16), (8, 16), 0, False)
        assert ((got[..., 0] == 1) == (np.arange(16) < 12)).all()
