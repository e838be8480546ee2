"""Each rule beside the library that it is named after."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simple_diffusion.evaluation.networks import resizing
from tests.evaluation.networks import make_resizing_fixture as fixture

SIZES = [(32, 32), (64, 64), (128, 128), (256, 256), (512, 512), (300, 217), (5, 598)]
BY_PYTORCH = Path(__file__).with_name("resizing_fixture.npz")


def noise(h, w, c=3):
    return np.random.default_rng(h).integers(0, 256, (1, h, w, c), np.uint8)


def resize(images, size, rule):
    return np.asarray(resizing.resize(jnp.asarray(images), size, rule))


@pytest.mark.parametrize("size", SIZES)
def test_tf1_bilinear_is_that_of_tensorflow(size):
    images = noise(*size)
    expected = tf.compat.v1.image.resize_bilinear(images, (299, 299)).numpy()
    # Rounding in float32, of values up to 255.
    found = resize(images, (299, 299), "tf1_bilinear")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_clean_bicubic_is_that_of_pillow_on_floats(size):
    images = noise(*size)
    channels = [
        np.asarray(Image.fromarray(c).resize((299, 299), Image.Resampling.BICUBIC))
        for c in np.moveaxis(images[0].astype(np.float32), -1, 0)
    ]
    expected = np.stack(channels, -1).clip(0, 255)
    found = resize(images, (299, 299), "clean_bicubic")[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    assert not np.array_equal(found, found.round())


@pytest.mark.parametrize("rule, old, new", fixture.CASES)
def test_rules_of_pytorch_are_those_of_pytorch(rule, old, new):
    with np.load(BY_PYTORCH) as file:
        expected = file[f"{rule} {old} {new}"]
    found = resize(fixture.image(old), new, rule)
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    # PyTorch has positions in float32: up to 3e-5 of a pixel off, between values that
    # are up to 255 apart.
    np.testing.assert_allclose(found[0, ..., 0], expected, rtol=0, atol=5e-3)


def test_only_clean_bicubic_stays_between_0_and_255():
    edge = np.zeros((1, 8, 8, 3), np.uint8)
    edge[:, 4:] = 255
    beyond = resize(edge, (32, 32), "torch_bicubic")
    assert beyond.min() < -1 and beyond.max() > 256
    found = resize(edge, (32, 32), "clean_bicubic")
    np.testing.assert_allclose(found, beyond.clip(0, 255), atol=1e-3)


@pytest.mark.parametrize("rule", resizing.RULES)
def test_images_of_the_right_size_stay_as_they_are(rule):
    images = noise(13, 17)
    np.testing.assert_array_equal(resize(images, (13, 17), rule), images)


@pytest.mark.parametrize("rule", resizing.RULES)
def test_constant_images_stay_constant(rule):
    images = np.full((1, 7, 40, 3), 93, np.uint8)
    np.testing.assert_allclose(resize(images, (19, 11), rule), 93, rtol=1e-6)


@pytest.mark.parametrize("rule", resizing.RULES)
def test_grey_images_are_repeated(rule):
    grey = noise(9, 8, 1)
    expected = resize(np.repeat(grey, 3, -1), (11, 12), rule)
    np.testing.assert_allclose(resize(grey, (11, 12), rule), expected, atol=1e-4)


@pytest.mark.parametrize("rule", resizing.RULES)
def test_an_image_does_not_depend_on_its_batch(rule):
    images = np.concatenate([noise(20, 24), noise(20, 24)[:, ::-1]])
    alone = [resize(images[k : k + 1], (32, 16), rule)[0] for k in range(2)]
    jitted = jax.jit(lambda x: resizing.resize(x, (32, 16), rule))(images)
    np.testing.assert_allclose(jitted, alone, atol=1e-4)


def test_other_channels_and_rules_are_refused():
    with pytest.raises(ValueError, match="RGB or grey images, got 4 channels"):
        resize(noise(8, 8, 4), (9, 9), "tf1_bilinear")
    with pytest.raises(ValueError, match="no rule 'area'.*known are tf1_bilinear"):
        resize(noise(8, 8), (9, 9), "area")
