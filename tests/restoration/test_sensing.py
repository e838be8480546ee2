import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from simple_diffusion.restoration import sensing


def random(*shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def rows(ratio: float, seed: int, make=sensing.hadamard) -> np.ndarray:
    """Returns the matrix [m, 32] of Hadamard sensing of 4x8 pixels of one channel."""
    pixels = jnp.eye(32).reshape(32, 4, 8, 1)
    return np.asarray(make((4, 8), ratio, seed).forward(pixels))[..., 0].T


@pytest.mark.parametrize("make", [sensing.hadamard, sensing.group_means])
def test_all_hadamard_rows_are_those_of_scipy_after_a_permutation(make):
    orders = []
    for seed in (0, 1):
        # The transform is its own inverse up to 32: what is left is the permutation, of
        # the coefficients or of the pixels.
        full = scipy.linalg.hadamard(32) / np.sqrt(32)
        matrix = rows(1.0, seed, make)
        order = matrix @ full if make is sensing.hadamard else full @ matrix
        np.testing.assert_allclose(order, order.round(), atol=1e-5)
        order = order.round().astype(int)
        assert set(np.unique(order)) == {0, 1}
        assert (order.sum(0) == 1).all() and (order.sum(1) == 1).all()
        orders.append(order)
    assert (orders[0] != orders[1]).any() and (orders[0] != np.eye(32)).any()


@pytest.mark.parametrize("make", [sensing.hadamard, sensing.group_means])
def test_a_seed_and_a_ratio_take_the_first_rows_of_always_the_same_matrix(make):
    some = rows(0.3, 5, make)
    assert some.shape == (10, 32)  # 9.6 rounded
    np.testing.assert_array_equal(some, rows(1.0, 5, make)[:10])


def projector(make, ratio: float) -> np.ndarray:
    """Returns A⁺ A [256, 256] for images of 16x16."""
    pixels = jnp.eye(256).reshape(256, 16, 16, 1)
    operator = make((16, 16), ratio, 0)
    return np.asarray(operator.pinv(operator.forward(pixels))).reshape(256, 256)


def test_hadamard_rows_mix_all_pixels_and_group_means_only_those_of_a_group():
    mixed = np.abs(projector(sensing.hadamard, 1 / 4)) > 1e-5
    # 64 random signs cancel for some pairs of pixels: one in ten by the binomial.
    assert np.median(mixed.sum(1)) > 200
    for ratio, pixels in ((1 / 4, 4), (1 / 16, 16)):
        alone = projector(sensing.group_means, ratio)
        # The projector onto means of disjoint groups: 1/4 between any of 4 pixels.
        np.testing.assert_allclose(alone[np.abs(alone) > 1e-5], 1 / pixels, atol=1e-5)
        assert (np.count_nonzero(np.abs(alone) > 1e-5, axis=1) == pixels).all()


def test_hadamard_takes_its_rows_from_all_over_the_transform():
    # As published: coefficients are permuted, and the first of them are kept.
    full = scipy.linalg.hadamard(32) / np.sqrt(32)
    taken = np.abs(rows(0.5, 0) @ full).argmax(1)
    assert len(set(taken)) == 16 and taken.max() >= 16 and set(taken) != {*range(16)}


def test_the_first_group_mean_is_the_mean_of_the_image():
    x = random(2, 8, 8, 3)
    y = sensing.group_means((8, 8), 0.1, seed=0).forward(x)
    expected = np.asarray(x).mean((1, 2)) * 8  # norm 1: the sum by the root of 64
    np.testing.assert_allclose(y[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda size, ratio: sensing.hadamard(size, ratio, 0),
        lambda size, ratio: sensing.group_means(size, ratio, 0),
        lambda size, ratio: sensing.blocks(size, ratio, 0, side=8),
    ],
    ids=["hadamard", "group_means", "blocks"],
)
def test_the_ratio_is_that_of_numbers_to_pixels(make):
    x = random(1, 16, 32, 3)
    for ratio in (0.25, 0.5, 1.0):
        assert make((16, 32), ratio).forward(x).size == ratio * x.size
    # However little is asked for, something is measured.
    assert make((16, 32), 1e-6).forward(x).size > 0
    # All is measured: nothing is left to guess.
    whole = make((16, 32), 1.0)
    np.testing.assert_allclose(whole.pinv(whole.forward(x)), x, atol=1e-5)


def test_every_block_is_measured_alone_and_by_the_same_rows():
    operator = sensing.blocks((8, 16), 0.5, seed=0, side=8)
    x = random(1, 8, 16, 3)
    y = operator.forward(x)
    assert y.shape == (1, 1, 2, 32, 3)
    swapped = operator.forward(jnp.concatenate([x[:, :, 8:], x[:, :, :8]], axis=2))
    np.testing.assert_allclose(swapped, y[:, :, ::-1], atol=1e-5)


def test_blocks_have_32_pixels_a_side_by_default_and_a_matrix_for_each_seed():
    x = random(1, 32, 64, 1)
    y = [sensing.blocks((32, 64), 0.01, seed).forward(x) for seed in (0, 1)]
    assert y[0].shape == (1, 1, 2, 10, 1)
    assert (np.abs(y[0] - y[1]) > 1e-3).any()


def test_channels_are_measured_alike():
    grey = jnp.broadcast_to(random(1, 8, 8, 1), (1, 8, 8, 3))
    for operator in (
        sensing.hadamard((8, 8), 0.5, 0),
        sensing.blocks((8, 8), 0.5, 0, side=4),
    ):
        y = operator.forward(grey)
        np.testing.assert_allclose(y, np.broadcast_to(y[..., :1], y.shape), atol=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 1.5, -0.1, float("nan")])
def test_a_ratio_outside_its_range_is_an_error(ratio):
    message = rf"restore\.ratio={ratio} must lie in \(0, 1\]"
    with pytest.raises(ValueError, match=message):
        sensing.hadamard((8, 8), ratio, 0)
    with pytest.raises(ValueError, match=message):
        sensing.blocks((8, 8), ratio, 0, side=4)


def test_hadamard_of_another_size_than_powers_of_two_is_an_error():
    message = r"has 24x31 pixels; the nearest size is 32x32 \(restore\.size\)"
    with pytest.raises(ValueError, match=message):
        sensing.hadamard((24, 31), 0.5, 0)


def test_blocks_that_do_not_tile_the_image_are_an_error():
    message = (
        r"restore\.block_side=32 does not divide the image's 48x65 pixels; the nearest"
        r" size is 32x64 \(restore\.size\)"
    )
    with pytest.raises(ValueError, match=message):
        sensing.blocks((48, 65), 0.5, 0)
    with pytest.raises(ValueError, match=r"restore\.block_side=32 is larger than"):
        sensing.blocks((16, 64), 0.5, 0)


def test_a_random_matrix_is_a_function_of_its_draw_and_not_of_the_library():
    draw = np.random.default_rng(3).standard_normal((16, 16))
    # Of all factors Q R only one has a positive diagonal in R: Cholesky's.
    r = np.linalg.cholesky(draw.T @ draw).T
    expected = draw @ np.linalg.inv(r)
    np.testing.assert_allclose(sensing._orthogonal(16, 3), expected, atol=1e-8)


def test_operators_of_one_size_share_their_matrices_and_cannot_change_them():
    assert sensing._orthogonal(16, 3) is sensing._orthogonal(16, 3)
    for array in (sensing._orthogonal(16, 3), sensing._permutation(16, 3)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_block_too_large_to_make_its_matrix_is_refused():
    with pytest.raises(ValueError, match="restore.block_side=128 must be at most 64"):
        sensing.blocks((128, 128), 0.5, 0, 128)
