import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets import position
from tests.vectors import vector


def test_centres_of_another_grid_cover_the_same_extent():
    coarse = position.centres(4, 4)
    fine = position.centres(8, 4)
    np.testing.assert_allclose(coarse, [0.5, 1.5, 2.5, 3.5])
    # Two fine cells make one coarse cell, so the mean of their centres is its centre.
    np.testing.assert_allclose(fine.reshape(4, 2).mean(-1), coarse)


def test_sincos_tells_rows_in_one_half_and_columns_in_the_other():
    table = position.sincos_2d(position.centres(3, 3), position.centres(5, 5), 16)
    assert table.shape == (3, 5, 16)
    np.testing.assert_allclose(table[..., :8], table[:, :1, :8] + 0 * table[..., :8])
    np.testing.assert_allclose(table[..., 8:], table[:1, :, 8:] + 0 * table[..., 8:])
    flat = np.asarray(table).reshape(15, 16)
    assert len(np.unique(flat.round(5), axis=0)) == 15


def test_sincos_of_the_first_pair_is_the_sine_and_cosine_of_the_coordinate():
    rows = jnp.asarray([0.5, 1.5])
    table = position.sincos_2d(rows, rows, 8)
    np.testing.assert_allclose(table[:, 0, 0], np.sin([0.5, 1.5]), rtol=1e-6)
    np.testing.assert_allclose(table[:, 0, 2], np.cos([0.5, 1.5]), rtol=1e-6)
    np.testing.assert_allclose(table[:, 0, 1], np.sin([0.005, 0.015]), rtol=1e-6)


def rotated_products(shift_rows: float, shift_columns: float) -> np.ndarray:
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 3, 4, 2, 8))
    rows = position.centres(3, 3) + shift_rows
    columns = position.centres(4, 4) + shift_columns
    q, k = (position.rope_2d(v, rows, columns).reshape(12, 2, 8) for v in (q, k))
    return np.asarray(jnp.einsum("nkd,mkd->knm", q, k))


def test_rotary_products_depend_on_differences_of_position_only():
    moved = rotated_products(7.0, -2.5)
    np.testing.assert_allclose(moved, rotated_products(0.0, 0.0), atol=2e-5)


def test_rotary_embedding_keeps_lengths_and_the_origin():
    x = jax.random.normal(jax.random.key(1), (1, 2, 3, 2, 8))
    rows, columns = jnp.asarray([0.0, 9.0]), jnp.asarray([0.0, 4.0, 50.0])
    y = position.rope_2d(x, rows, columns)
    np.testing.assert_allclose(y[:, 0, 0], x[:, 0, 0])
    norms = [np.linalg.norm(v, axis=-1) for v in (x, y)]
    np.testing.assert_allclose(*norms, rtol=1e-5)
    assert not np.allclose(y[:, 1], x[:, 1])
    assert not np.allclose(y[:, :, 1], x[:, :, 1])


def test_rotary_embedding_turns_the_halves_by_their_own_axis():
    x = jnp.ones((1, 2, 2, 1, 8))
    y = position.rope_2d(x, jnp.asarray([0.0, 1.0]), jnp.asarray([0.0, 2.0]))
    np.testing.assert_allclose(y[0, :, 0, 0, 4:], 1.0)  # moving down: column half rests
    np.testing.assert_allclose(y[0, 0, :, 0, :4], 1.0)  # moving right: row half rests
    # The fastest pair turns by the coordinate itself: (1, 1) by one radian.
    want = [np.cos(1) - np.sin(1), np.cos(1) + np.sin(1)]
    np.testing.assert_allclose(y[0, 1, 0, 0, [0, 2]], want, rtol=1e-5)


def test_the_fastest_rotation_can_be_half_a_turn_per_token():
    x, place = jnp.ones((1, 4, 1, 1, 8)), jnp.arange(4.0)
    y = position.rope_2d(x, place, jnp.zeros(1), fastest=np.pi)
    np.testing.assert_allclose(y[0, :, 0, 0, 0], [1, -1, 1, -1], atol=1e-5)
    # The next pair is slower by the root of the base, here 100.
    angle = np.pi / 100 * np.arange(4)
    want = np.cos(angle) - np.sin(angle)
    np.testing.assert_allclose(y[0, :, 0, 0, 1], want, atol=1e-5)


@pytest.mark.parametrize("channels", [6, 2])
def test_widths_that_do_not_split_in_four_are_named(channels):
    place = position.centres(2, 2)
    with pytest.raises(ValueError, match=f"multiple of 4, not {channels}"):
        position.sincos_2d(place, place, channels)
    with pytest.raises(ValueError, match=f"multiple of 4, not {channels}"):
        position.rope_2d(jnp.ones((1, 2, 2, 1, channels)), place, place)


def test_a_resized_table_interpolates_between_cell_centres():
    rows = np.arange(4.0, dtype=np.float32)
    table = jnp.asarray(np.broadcast_to(rows[:, None, None], (4, 3, 2)))
    assert position.resize_table(table, (4, 3)) is table
    fine = np.asarray(position.resize_table(table, (8, 3)))
    # Away from the ends a ramp stays a ramp: the centre of fine cell i is i/2 - 1/4.
    np.testing.assert_allclose(fine[1:-1, 0, 0], np.arange(1, 7) / 2 - 0.25, atol=1e-6)
    # Without antialiasing every second cell centre of a half-size grid is a midpoint.
    half = np.asarray(position.resize_table(table, (2, 3)))
    np.testing.assert_allclose(half[:, 0, 0], [0.5, 2.5], atol=1e-6)


def placed(box, size):
    return position.region_of(Conditioning(box=jnp.asarray(box)), len(box), size)


def full_box(n):
    return jnp.tile(jnp.array([[0.0, 0.0, 1.0, 1.0]]), (n, 1))


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (8, 4)])
def test_the_grid_of_a_patch_is_the_crop_of_the_full_grid(corner):
    y, x = corner
    rows, columns = position.grid(full_box(1), (16, 12))
    box = jnp.array([[y / 16, x / 12, (y + 8) / 16, (x + 4) / 12]])
    patch_rows, patch_columns = position.grid(box, (8, 4))
    np.testing.assert_allclose(patch_rows, rows[:, y : y + 8], atol=1e-6)
    np.testing.assert_allclose(patch_columns, columns[:, x : x + 4], atol=1e-6)


def test_the_pooled_grid_is_the_coarse_grid():
    box = jnp.array([[0.1, 0.2, 0.7, 0.9]])
    fine, coarse = position.grid(box, (8, 12)), position.grid(box, (4, 6))
    for a, b in zip(fine, coarse, strict=True):
        np.testing.assert_allclose(a.reshape(1, -1, 2).mean(-1), b, atol=1e-6)


@pytest.mark.parametrize(("n", "name"), [(4, "R4"), (2, "R2")])
def test_coordinates_are_those_of_pixel_centres(n, name):
    rows, _ = position.fourier(placed(full_box(1), (n, n)), (n, n), 1)
    np.testing.assert_allclose(
        rows[0, :, 0], vector("anyres.pixel_centre")[name], atol=1e-6
    )


@pytest.mark.parametrize("row", vector("anyres.fourier_fade"))
def test_bands_that_would_alias_are_faded_out(row):
    side, bands = row["R"] // 2 ** row["level"], 8
    rows, columns = position.fourier(
        placed(full_box(1), (row["R"], row["R"])), (side, side), bands
    )
    g = 2 * (np.arange(side) + 0.5) / side - 1
    weights = np.array(row["weights"])
    angle = np.pi * 2.0 ** np.arange(bands) * g[:, None]
    want = np.concatenate(
        [g[:, None], np.sin(angle) * weights, np.cos(angle) * weights], axis=1
    )
    # The highest band turns a phase of 128 π: float32 leaves 1e-4 of it.
    np.testing.assert_allclose(rows[0], want, atol=2e-4)
    np.testing.assert_allclose(columns[0], want, atol=2e-4)


def test_features_of_a_patch_are_the_crop_of_those_of_the_full_image():
    rows, _ = position.fourier(placed(full_box(1), (16, 16)), (16, 16), 4)
    patch, _ = position.fourier(placed([[0.25, 0.0, 0.75, 1.0]], (8, 8)), (8, 8), 4)
    np.testing.assert_allclose(patch, rows[:, 4:12], atol=1e-5)


def test_the_full_size_follows_from_the_box_unless_it_is_given():
    box = jnp.array([[0.0, 0.0, 0.5, 1.0], [0.25, 0.5, 1.0, 0.75]])
    cond = Conditioning(box=box)
    np.testing.assert_allclose(
        position.region_of(cond, 2, (24, 8)).full_size, [[48, 8], [32, 32]], rtol=1e-6
    )
    cond = Conditioning(box=box, full_size=(48, 8))
    np.testing.assert_array_equal(
        position.region_of(cond, 2, (24, 8)).full_size, [[48, 8]]
    )
    alone = position.region_of(Conditioning(), 2, (24, 8))
    np.testing.assert_array_equal(alone.full_size, [[24, 8]])
    np.testing.assert_array_equal(alone.box, full_box(2))


def test_scale_is_zero_at_the_smallest_and_one_at_the_largest():
    sides = jnp.array([[32.0, 64], [128, 256]])
    np.testing.assert_allclose(
        position.Scale(32, 128)(sides), [[0, 0.5], [1, 1.5]], atol=1e-6
    )
    np.testing.assert_allclose(position.Scale(32)(sides), [[0, 1], [2, 3]], atol=1e-6)
    inverse = position.Scale(32, 128, "inverse")(sides)
    np.testing.assert_allclose(inverse, [[1, 0.5], [0.25, 0.125]], rtol=1e-6)
