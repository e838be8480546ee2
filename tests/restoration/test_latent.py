import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.restoration import latent
from tests.vectors import vector

ROWS = vector("restoration.latent_mask_ranges")


def known(pixels, side=512):
    """A mask with a square hole."""
    mask = np.ones((1, side, side, 1), np.float32)
    mask[:, slice(*pixels), slice(*pixels)] = 0
    return jnp.asarray(mask)


def hole(cells):
    """Returns the half-open range of the hole along both axes."""
    missing = np.asarray(cells)[0, :, :, 0] == 0
    rows, columns = (np.flatnonzero(missing.any(axis)) for axis in (1, 0))
    assert missing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    np.testing.assert_array_equal(rows, columns)
    return [rows[0], rows[-1] + 1]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: str(r["hole_px"]))
def test_the_hole_in_cells_is_that_of_the_geometry(row):
    mask = known(row["pixels"])
    none = dict(dilate_low=0, dilate_high=0)
    assert hole(latent.known_cells(mask, 8, **none)) == row["nearest"]
    touched = latent.known_cells(mask, 8, mode="block_max", **none)
    assert hole(touched) == row["any_pixel_touched"]
    assert hole(latent.known_cells(mask, 8)) == row["nearest_plus_2"]


def test_the_hole_grows_on_the_side_that_is_asked_for():
    mask = known((16, 24), 64)
    low = latent.known_cells(mask, 8, dilate_low=1, dilate_high=0)
    high = latent.known_cells(mask, 8, dilate_low=0, dilate_high=2)
    assert hole(low) == [1, 3]
    assert hole(high) == [2, 5]


def test_a_hole_at_the_border_stays_inside():
    grown = latent.known_cells(known((0, 8), 32), 8, dilate_low=2, dilate_high=1)
    assert hole(grown) == [0, 2]


def test_in_pixels_without_growth_the_mask_is_itself():
    mask = known((3, 7), 16)
    cells = latent.known_cells(mask, 1, dilate_low=0, dilate_high=0)
    np.testing.assert_array_equal(cells, mask)


def test_pasting_keeps_the_bits_of_known_pixels():
    rng = np.random.default_rng(0)
    image, original = jnp.asarray(rng.normal(size=(2, 1, 16, 16, 3)), jnp.float32)
    mask = known((3, 7), 16)
    pasted = np.asarray(latent.paste(image, original, mask))
    inside = np.broadcast_to(np.asarray(mask) == 0, pasted.shape)
    np.testing.assert_array_equal(pasted[~inside], np.asarray(original)[~inside])
    np.testing.assert_array_equal(pasted[inside], np.asarray(image)[inside])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(factor=7), "restore.size=14x14"),
        (dict(mode="mean"), "restore.mask_mode='mean'.*nearest, block_max"),
        (dict(dilate_low=-1), "restore.dilate=.*must not be negative"),
    ],
)
def test_what_cannot_be_names_its_key(changes, match):
    with pytest.raises(ValueError, match=match):
        latent.known_cells(known((4, 8), 16), **{"factor": 8, **changes})
