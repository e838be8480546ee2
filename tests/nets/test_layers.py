import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from simple_diffusion.nets import layers
from simple_diffusion.nets.layers import Level, Norm, ResBlock, Style
from tests.nets import small

NORMS = ("group", "layer", "rms")


def random(*shape: int, key: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


def normalised(kind: str, x: np.ndarray, groups: int) -> np.ndarray:
    """The norms in float64, as they are defined."""
    x = np.asarray(x, np.float64)
    b, h, w, c = x.shape
    if kind == "group":
        x = x.reshape(b, h, w, groups, c // groups)
        axes = (1, 2, 4)
    else:
        axes = (-1,)
    mean = 0 if kind == "rms" else x.mean(axes, keepdims=True)
    x = (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + 1e-6)
    return x.reshape(b, h, w, c)


@pytest.mark.parametrize("kind", NORMS)
def test_norms_agree_with_their_definition(kind):
    x = 3 * random(2, 4, 5, 24) + 2
    norm = Norm(kind)
    params = small.lively(norm, x)
    by_hand = small.host(params)
    want = normalised(kind, np.asarray(x), groups=6) * by_hand["scale"]
    want = want + by_hand.get("bias", 0)
    np.testing.assert_allclose(norm.apply({"params": params}, x), want, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_film_inside_a_norm_equals_film_after_it(kind):
    x, scale, shift = random(2, 4, 4, 8), random(2, 8, key=1), random(2, 8, key=2)
    norm = Norm(kind)
    params = {"params": small.lively(norm, x)}
    after = norm.apply(params, x) * (1 + scale[:, None, None]) + shift[:, None, None]
    inside = norm.apply(params, x, (scale, shift))
    np.testing.assert_allclose(inside, after, atol=1e-5)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_norms_of_a_constant_map_are_finite_with_finite_gradients(kind):
    x = jnp.full((1, 4, 4, 8), 3.0)
    norm = Norm(kind)
    params = {"params": small.lively(norm, x)}

    def total(x):
        return jnp.sum(norm.apply(params, x) ** 2)

    # The mean of squares less the square of the mean may round to below zero.
    assert np.isfinite(jax.grad(total)(x)).all()


def test_norms_of_bfloat16_have_their_statistics_in_float32():
    # 4096 values: a sum in bfloat16 would stop growing at a few hundred.
    x = (1 + 0.5 * random(1, 32, 32, 4)).astype(jnp.bfloat16)
    norm = Norm("group", dtype=jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    out = norm.apply(params, x)
    assert out.dtype == jnp.bfloat16
    want = normalised("group", np.asarray(x, np.float64), groups=1)
    np.testing.assert_allclose(out.astype(jnp.float32), want, atol=0.02)


def test_rms_norm_and_the_norm_of_a_transformer_have_no_bias():
    x = random(1, 2, 2, 8)
    assert set(small.shapes(Norm("rms"), x)) == {"scale"}
    assert set(small.shapes(Norm("layer", use_bias=False), x)) == {"scale"}


@pytest.mark.parametrize(
    ("channels", "groups"), [(2048, 32), (128, 32), (96, 24), (48, 12), (8, 2), (3, 1)]
)
def test_groups_are_at_most_32_and_of_at_least_four_channels(channels, groups):
    assert layers._groups(channels) == groups


def block(style: Style, channels: int = 8, skip: int | None = None):
    """Returns a residual block, its inputs, and lively parameters."""
    args = (random(2, 4, 4, 8), random(2, 6, key=1))
    if skip is not None:
        args = (*args, random(2, 4, 4, skip, key=2))
    module = ResBlock(channels, style)
    return module, args, small.lively(module, *args)


def at_rest(params: dict) -> dict:
    """The parameters with the last convolution as in a fresh block."""
    zero = jax.tree.map(jnp.zeros_like, params["conv_2"])
    return {**params, "conv_2": zero}


def test_a_fresh_block_is_the_identity():
    module, args, params = block(Style())
    y = module.apply({"params": at_rest(params)}, *args)
    np.testing.assert_array_equal(y, args[0])
    init = module.init(jax.random.key(0), *args)["params"]
    assert not init["conv_2"]["kernel"].any()
    assert not init["film"]["dense"]["kernel"].any()


def test_a_skip_is_added_to_the_normalised_input_only():
    module, args, params = block(Style(skip="add_sqrt2"), skip=8)
    y = module.apply({"params": at_rest(params)}, *args)
    np.testing.assert_array_equal(y, args[0])  # the shortcut does not carry the skip
    same = {**params, "norm_skip": params["norm_1"]}
    x, emb = args[:2]
    twice = module.apply({"params": same}, x, emb, x)
    # (n + n) / √2 is √2 n, which is a block without skip whose norm is √2 as strong.
    alone = {k: v for k, v in params.items() if k != "norm_skip"}
    alone["norm_1"] = jax.tree.map(lambda v: v * np.sqrt(2), params["norm_1"])
    np.testing.assert_allclose(
        twice, module.apply({"params": alone}, x, emb), atol=1e-5
    )


def test_plain_skips_are_added_and_concatenated_ones_joined():
    module, args, params = block(Style(skip="add"), skip=8)
    y = module.apply({"params": at_rest(params)}, *args)
    np.testing.assert_allclose(y, args[0] + args[2], atol=1e-6)
    module, args, params = block(Style(skip="concat"), skip=4)
    y = module.apply({"params": at_rest(params)}, *args)
    joined = np.concatenate([args[0], args[2]], axis=-1)
    shortcut = small.host(params["shortcut"])
    want = joined @ shortcut["kernel"] + shortcut["bias"]
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_the_exact_gelu_and_its_tanh_form_have_their_own_names():
    x = np.linspace(-6, 6, 1001)

    def activate(name):
        return np.asarray(layers.ACTIVATIONS[name](jnp.asarray(x, jnp.float32)))

    exact = x * scipy.special.ndtr(x)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    approximate = 0.5 * x * (1 + np.tanh(inner))
    # Rounding of float32; the two differ by 4.7e-4.
    np.testing.assert_allclose(activate("gelu_exact"), exact, atol=2e-6)
    np.testing.assert_allclose(activate("gelu_tanh"), approximate, atol=2e-6)
    np.testing.assert_allclose(np.abs(exact - approximate).max(), 4.7e-4, rtol=0.02)
    # Configs of earlier versions keep what they were trained with.
    np.testing.assert_array_equal(activate("gelu"), activate("gelu_tanh"))


def test_a_block_is_its_formula():
    module, (x, emb), params = block(Style(activation="gelu"))
    p = small.host(params)
    film = np.asarray(emb) @ p["film"]["dense"]["kernel"] + p["film"]["dense"]["bias"]
    scale, shift = np.split(np.asarray(film)[:, None, None], 2, axis=-1)

    def conv(name, h):
        return nn.Conv(8, (3, 3)).apply({"params": p[name]}, jnp.asarray(h, "float32"))

    def norm(name, h):
        return (
            normalised("group", np.asarray(h), 2) * p[name]["scale"] + p[name]["bias"]
        )

    h = conv("conv_1", nn.gelu(norm("norm_1", x)))
    h = conv("conv_2", nn.gelu(norm("norm_2", h) * (1 + scale) + shift))
    np.testing.assert_allclose(
        module.apply({"params": params}, x, emb), x + h, atol=1e-4
    )


def test_up_after_down_is_one_linear_map_of_block_means():
    x = random(1, 4, 4, 3)
    down, up = layers.Down(2), layers.Up(3)
    h = down.apply({"params": small.lively(down, x)}, x)
    y = up.apply({"params": small.lively(up, h)}, h)
    assert h.shape == (1, 2, 2, 2) and y.shape == x.shape
    blocks = np.asarray(y).reshape(1, 2, 2, 2, 2, 3)
    np.testing.assert_array_equal(blocks, blocks[:, :, :1, :, :1] + 0 * blocks)


def test_choices_are_checked_where_the_table_is_made(unchecked):
    with pytest.raises(ValueError, match=r"kind='dense' must be one of \('conv', 'tr"):
        Level(8, 1, kind="dense")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="film='late' must be one of"):
        Style(film="late")  # pyright: ignore[reportArgumentType]


def test_an_unknown_remat_policy_is_named():
    with pytest.raises(ValueError, match="remat='everything' must be one of"):
        layers.remat(ResBlock, "everything")
