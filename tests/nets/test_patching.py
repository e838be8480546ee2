import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from simple_diffusion.nets import patching, wavelets
from simple_diffusion.nets.layers import Style
from simple_diffusion.nets.patching import Head, Stem
from tests.nets import small

X = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))


@pytest.mark.parametrize(
    ("name", "factor"),
    [("none", 1), ("dwt_1", 2), ("haar_2", 4), ("conv_2", 2), ("conv_3", 3)],
)
def test_a_stem_and_a_head_lead_to_the_patches_and_back(name, factor):
    assert patching.parse(name).factor == factor
    x = X[:, :6, :6] if factor == 3 else X
    stem, head = Stem(8, name), Head(3, Style(), name)
    h = jax.eval_shape(lambda: stem.init_with_output(jax.random.key(0), x)[0])
    assert h.shape == (2, x.shape[1] // factor, x.shape[2] // factor, 8)
    features = jnp.ones(h.shape)
    y = jax.eval_shape(lambda: head.init_with_output(jax.random.key(0), features)[0])
    assert y.shape == x.shape and y.dtype == jnp.float32


@pytest.mark.parametrize(
    "name",
    ["none", "dwt_1", pytest.param("dwt_2", marks=pytest.mark.slow), "conv_2"],
)
def test_a_fresh_stem_ignores_a_joined_image_and_keeps_its_scale(name):
    stem = Stem(32, name, normalise_bands=True, joined=2)
    image = jax.random.normal(jax.random.key(1), (2, 8, 12, 2))
    params = stem.init(jax.random.key(2), jnp.concatenate([X, image], -1))
    apply = jax.jit(stem.apply)
    want = apply(params, jnp.concatenate([X, 0 * image], -1))
    np.testing.assert_array_equal(apply(params, jnp.concatenate([X, image], -1)), want)
    # LeCun's normal initializer for the channels of z_t alone.
    kernel = np.asarray(params["params"]["conv"]["kernel"])
    own = kernel.reshape(-1, 32)[kernel.reshape(-1, 32).any(-1)]
    assert len(own) * 5 == kernel.size // 32 * 3
    # At least 384 numbers: known to 4 %.
    np.testing.assert_allclose(own.std(), len(own) ** -0.5, rtol=0.15)
    # After an update of all rows the image matters.
    moved = jax.tree.map(lambda v: v + 0.1, params)
    other = apply(moved, jnp.concatenate([X, image], -1))
    assert np.abs(other - apply(moved, jnp.concatenate([X, 0 * image], -1))).max() > 0.1


@pytest.mark.parametrize("name", ["conv2", "conv_1", "dwt_0", "dwt", "fft_1", "dwt_-1"])
def test_an_unknown_patching_is_named(name):
    with pytest.raises(ValueError, match=f"patching='{name}' must be none, dwt_N"):
        patching.parse(name)


def test_a_conv_stem_is_a_strided_convolution():
    stem = Stem(5, "conv_2")
    params = small.lively(stem, X)
    kernel = params["conv"]["kernel"].reshape(2, 2, 3, 5)
    want = lax.conv_general_dilated(
        X, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    want = want + params["conv"]["bias"][None, None, None]
    np.testing.assert_allclose(stem.apply({"params": params}, X), want, atol=1e-5)


def test_a_conv_head_is_a_transposed_convolution():
    h = jax.random.normal(jax.random.key(1), (2, 3, 4, 8))
    head = Head(3, Style(), "conv_2")
    params = small.lively(head, h)
    params["conv"]["bias"] = jnp.zeros(12)
    y = head.apply({"params": params}, h)
    # The transposed convolution is the adjoint of the strided one: <Sx, a> = <x, Tᵀa>.
    kernel = params["conv"]["kernel"].T.reshape(2, 2, 3, 8)
    none = Head(8, Style(), "none")
    identity = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))
    features = none.apply(
        {"params": {**params, "conv": {"kernel": identity, "bias": jnp.zeros(8)}}}, h
    )
    x = jax.random.normal(jax.random.key(2), y.shape)
    strided = lax.conv_general_dilated(
        x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(jnp.vdot(strided, features), jnp.vdot(x, y), rtol=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("name", ["dwt_1", "dwt_2", "haar_1"])
def test_what_the_stem_does_to_the_bands_the_head_undoes(name, normalise):
    """With identity convolutions the pair is the identity, whatever the scaling."""
    levels, kind = patching.parse(name).levels, "haar" if "haar" in name else "legall"
    channels = 3 * 4**levels
    identity = jnp.zeros((3, 3, channels, channels)).at[1, 1].set(jnp.eye(channels))
    conv = {"kernel": identity, "bias": jnp.zeros(channels)}
    stem = Stem(channels, name, normalise)
    bands = stem.apply({"params": {"conv": conv}}, X)
    want = wavelets.dwt2(X, levels, kind)
    if normalise:
        want = want / wavelets.noise_std(3, levels, kind)[None, None, None]
    np.testing.assert_allclose(bands, want, atol=1e-5)

    # A head whose kernel is zero sets every band to its bias.
    head = Head(3, Style(), name, normalise)
    h = jnp.ones((2, 2, 3, 8))
    level = jax.random.normal(jax.random.key(4), (channels,))
    kernel = jnp.zeros((3, 3, 8, channels))
    norm = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    params = {"norm": norm, "conv": {"kernel": kernel, "bias": level}}
    y = head.apply({"params": params}, h)
    back = stem.apply({"params": {"conv": conv}}, y)
    want = np.broadcast_to(level, back.shape)
    np.testing.assert_allclose(back, want, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "got"),
    [((8, 12), "8x12; nearest is 16x16"), ((0, 40), "0x40; nearest is 16x48")],
)
def test_sizes_that_do_not_divide_are_named_with_the_multiple(size, got):
    message = f"multiples of 16, got {got} .patching='dwt_1', 4 levels"
    with pytest.raises(ValueError, match=message):
        patching.check_size(size, "dwt_1", 4)
    patching.check_size((32, 48), "dwt_1", 4)


def test_the_grid_of_a_level_is_the_image_over_patch_and_level():
    assert patching.grid_size((512, 256), "dwt_2", 3) == (16, 8)
