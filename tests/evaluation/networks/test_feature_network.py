import jax.numpy as jnp
import numpy as np

from simple_diffusion.evaluation.networks import feature_network


def thumbnail(images):
    network = feature_network.thumbnail()
    return network.apply(network.params, images).features


def test_the_thumbnail_of_a_constant_image_is_that_constant():
    images = jnp.full((2, 32, 48, 3), 51, jnp.uint8)
    np.testing.assert_allclose(thumbnail(images), 0.2, rtol=1e-5)


def test_a_thumbnail_has_the_same_size_for_every_image():
    for h, w in [(8, 8), (32, 32), (40, 24)]:
        assert thumbnail(jnp.zeros((1, h, w, 3), jnp.uint8)).shape == (1, 192)


def test_the_thumbnail_sees_layout():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, :16] = 255
    turned = image[:, ::-1].copy()
    found = thumbnail(jnp.asarray(image)), thumbnail(jnp.asarray(turned))
    assert not np.allclose(*found)
