import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.measure import block_reduce

from simple_diffusion.nets.conditioning import maps, specs
from tests.nets import small

KEPT = jnp.zeros(2, bool)
FIRST = jnp.asarray([True, False])
IMAGE = jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
MASK = jnp.zeros((2, 4, 4)).at[:, :, 2:].set(1.0)


def test_a_semantic_map_is_a_table_averaged_over_the_cells_of_the_input():
    module = maps.SemanticMap(specs.SemanticMap(classes=5))
    ids = jax.random.randint(jax.random.key(1), (2, 8, 8), 0, 5)
    params = small.lively(module, ids, KEPT, (8, 8))
    table = np.asarray(params["kernel"])
    for size, factor in ((8, 1), (2, 4)):
        got = module.apply({"params": params}, ids[..., None], KEPT, (size, size))
        want = block_reduce(table[ids], (1, factor, factor, 1), np.mean)
        np.testing.assert_allclose(got, want, atol=1e-6)
    with pytest.raises(ValueError, match="'semantic' is 8x8, .* input's 8x4"):
        module.apply({"params": params}, ids, KEPT, (8, 4))


def test_a_dropped_semantic_map_and_pixels_without_a_class_are_zero():
    module = maps.SemanticMap(specs.SemanticMap(classes=5))
    ids = jnp.full((2, 2, 2), 3).at[1, 0, 0].set(255)
    params = {"params": small.lively(module, ids, KEPT, (2, 2))}
    is_zero = ~np.asarray(module.apply(params, ids, FIRST, (2, 2))).any(-1)
    assert is_zero[0].all() and is_zero[1, 0, 0] and is_zero[1].sum() == 1


def test_what_is_in_the_hole_has_no_influence():
    spec = specs.Inpainting(channels=2)
    got = maps.erase_hole(spec, IMAGE, MASK, KEPT)
    np.testing.assert_array_equal(got[..., 2], MASK)
    np.testing.assert_array_equal(got[:, :, :2, :2], IMAGE[:, :, :2])
    assert not got[:, :, 2:, :2].any()
    # Latent images are erased before they are encoded.
    latent = specs.Inpainting(channels=2, erase=False)
    kept = maps.erase_hole(latent, IMAGE, MASK[..., None], KEPT)
    np.testing.assert_array_equal(kept[..., :2], IMAGE)


def test_dropped_inpainting_is_a_hole_everywhere():
    got = maps.erase_hole(specs.Inpainting(channels=2), IMAGE, MASK, FIRST)
    want = jnp.broadcast_to(jnp.asarray([[0.0, 0.0, 1.0]]), (4, 4, 3))
    np.testing.assert_array_equal(got[0], want)
    np.testing.assert_array_equal(got[1, ..., 2], MASK[1])


def test_a_map_has_a_channel_that_tells_zero_from_nothing():
    spec = specs.Map(channels=2)
    got = maps.select_map(spec, IMAGE.at[1].set(0.0), FIRST)
    assert not got[0].any()
    np.testing.assert_array_equal(got[1, 0, 0], [0, 0, 1])


def test_a_low_resolution_image_comes_with_the_level_of_its_noise():
    module = maps.LowResolution(specs.LowResolution(2, sinusoid_channels=8), 6)
    level = jnp.asarray([1.0, jnp.inf])
    params = {"params": small.lively(module, IMAGE, level, KEPT)}
    image, vector = module.apply(params, IMAGE, level, FIRST)
    np.testing.assert_array_equal(image, IMAGE.at[0].set(0.0))
    assert vector.shape == (2, 6) and np.isfinite(vector).all()
    # The level of a dropped image has no influence, that of another one has.
    other = module.apply(params, IMAGE, level - 3.0, FIRST)[1]
    np.testing.assert_array_equal(other[0], vector[0])
    changed = module.apply(params, IMAGE, jnp.asarray([1.0, 2.0]), FIRST)[1]
    assert np.abs(changed[1] - vector[1]).max() > 1e-3


def test_wrong_channels_and_sizes_are_named(unchecked):
    with pytest.raises(ValueError, match="'image' has 2 channels, .* built for 1"):
        maps.select_map(specs.Map(channels=1), IMAGE, KEPT)
    with pytest.raises(ValueError, match="mask of 4x2 and an image of 4x4"):
        maps.erase_hole(specs.Inpainting(2), IMAGE, MASK[:, :, :2], KEPT)
