"""Cells of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.evaluation.networks.predictors import pyramid


@pytest.mark.parametrize("size, cell", [((8, 12), 2), ((7, 9), 3), ((5, 4), 1)])
def test_pixels_become_cells_and_cells_become_pixels(size, cell):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    cells = pyramid.to_cells(x, cell)
    assert cells.shape == (
        2,
        -(-size[0] // cell),
        -(-size[1] // cell),
        3 * cell**2,
    )
    np.testing.assert_array_equal(pyramid.to_pixels(cells, cell, size), x)


def test_images_have_about_as_many_cells_at_every_size():
    sizes = ((16, 16), (32, 48), (64, 64), (70, 128))
    assert [pyramid.cell_size(size) for size in sizes] == [1, 1, 2, 2]


def test_centres_of_cells_are_means_of_the_centres_of_their_pixels():
    y, x = pyramid.cell_centres((3, 4), 2, (6, 8))
    pixels = (np.arange(6) + 0.5) / 6, (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(y, pixels[0].reshape(3, 2).mean(1), rtol=1e-6)
    np.testing.assert_allclose(x, pixels[1].reshape(4, 2).mean(1), rtol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
def test_each_cell_has_features_whatever_the_size(size):
    net = pyramid.Pyramid(2, widths=(8, 8, 8))
    x = jnp.zeros((2, *size, 3))
    shape = jax.eval_shape(net.init_with_output, jax.random.key(0), x)[0].shape
    assert shape == (2, -(-size[0] // 2), -(-size[1] // 2), 8)
