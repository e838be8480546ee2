import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.nets import ops
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.nets.transformer import (
    Context,
    CrossAttention,
    Trunk,
    pack_tokens,
)
from tests.nets import small

X = jax.random.normal(jax.random.key(0), (2, 2, 3, 8))
TOKENS = jax.random.normal(jax.random.key(1), (2, 5, 6))
MASK = jnp.asarray([[True, True, False, True, False], [False] * 5])
CONTEXT = pack_tokens(TOKENS, MASK)


def layer(**style) -> CrossAttention:
    return CrossAttention(2, Style(**style), "layer")


def attend(module: CrossAttention, context: Context) -> np.ndarray:
    params = small.lively(module, X, context)
    return np.asarray(module.apply({"params": params}, X, context))


def test_it_is_attention_to_the_null_token_and_to_the_tokens_that_count():
    module = layer()
    params = small.lively(module, X, CONTEXT)
    got = module.apply({"params": params}, X, CONTEXT)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), small.host(params))
    x = np.asarray(X, np.float64).reshape(2, 6, 8)
    y = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    y = y * p["norm"]["scale"] + p["norm"]["bias"]
    for example, mask in enumerate(np.asarray(MASK)):
        q = np.einsum("nc,chd->nhd", y[example], p["q"]["kernel"]) + p["q"]["bias"]
        tokens = np.asarray(TOKENS[example], np.float64)[mask]
        kv = np.einsum("mc,chjd->mhjd", tokens, p["kv"]["kernel"]) + p["kv"]["bias"]
        k, v = np.moveaxis(np.concatenate([p["null"][None], kv]), 2, 0)
        logits = np.einsum("nhd,mhd->hnm", q, k) / 2.0  # √4 features per head
        weights = np.exp(logits)
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hnm,mhd->nhd", weights, v).reshape(6, 8)
        want = x[example] + out @ p["out"]["kernel"] + p["out"]["bias"]
        np.testing.assert_allclose(got[example].reshape(6, 8), want, atol=1e-4)


def test_a_fresh_layer_changes_nothing():
    module = layer()
    out, _ = module.init_with_output(jax.random.key(0), X, CONTEXT)
    np.testing.assert_array_equal(out, X)


@pytest.mark.parametrize("qk_norm", ["layer", "rms", "l2"])
def test_padding_and_the_order_of_tokens_change_nothing(qk_norm):
    module = layer(qk_norm=qk_norm)
    params = {"params": small.lively(module, X, CONTEXT)}
    apply = jax.jit(module.apply)
    want = apply(params, X, CONTEXT)
    mixed = np.asarray([3, 4, 0, 2, 1])
    mask = jnp.pad(MASK[:, mixed], ((0, 0), (0, 2)))
    tokens = jnp.pad(TOKENS[:, mixed], ((0, 0), (0, 2), (0, 0)), constant_values=9.0)
    got = apply(params, X, pack_tokens(tokens, mask))
    np.testing.assert_allclose(got, want, atol=1e-5)  # sums in another order
    assert not np.allclose(apply(params, X, pack_tokens(-TOKENS, MASK)), want)


def test_a_nan_in_the_padding_reaches_neither_output_nor_gradients():
    module = layer()
    params = small.lively(module, X, CONTEXT)

    @jax.jit
    @jax.grad
    def gradient(params, tokens):
        return jnp.sum(module.apply({"params": params}, X, pack_tokens(tokens, MASK)))

    with jax.debug_nans(False):
        bad = jnp.where(MASK[..., None], TOKENS, jnp.nan)
        got, want = (gradient(params, tokens) for tokens in (bad, TOKENS))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_without_tokens_every_pixel_gets_the_null_value():
    change = attend(layer(), CONTEXT)[1] - X[1]
    assert np.isfinite(change).all() and np.abs(change).max() > 0.1
    np.testing.assert_allclose(
        change, np.broadcast_to(change[0, 0], change.shape), 1e-4
    )


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads=3 must divide channels=8"):
        small.shapes(CrossAttention(3, Style()), X, CONTEXT)


def test_packing_moves_tokens_that_count_to_the_front():
    context = pack_tokens(TOKENS, MASK)
    np.testing.assert_array_equal(context.lengths, [3, 0])
    np.testing.assert_array_equal(context.tokens[0, :3], TOKENS[0, [0, 1, 3]])
    assert not context.tokens[0, 3:].any() and not context.tokens[1].any()


def trunk(**fields) -> Trunk:
    style = Style(qk_norm="layer")
    return Trunk(Level(8, 2, "transformer", heads=2), 2, style, (2, 3), **fields)


@pytest.mark.slow
def test_a_scanned_a_rematerialised_and_an_unrolled_trunk_agree():
    inputs = X, jnp.ones((2, 4)), None, CONTEXT
    params = small.lively(trunk(), *inputs)
    assert params["blocks"]["cross_attention"]["kv"]["kernel"].shape == (2, 6, 2, 2, 4)

    def gradients(module):
        def loss(params):
            return jnp.sum(jnp.sin(module.apply({"params": params}, *inputs)))

        return jax.jit(jax.grad(loss))(params)

    want = gradients(trunk())
    norms = jax.tree.map(lambda g: np.abs(g).max(), want)
    assert min(jax.tree.leaves(norms)) > 0
    for module in (trunk(unroll=2), trunk(remat="full")):
        jax.tree.map(
            # float32 sums in another order
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
            gradients(module),
            want,
        )


def test_a_function_for_self_attention_is_not_asked_about_tokens():
    def refuse(q, k, v):
        raise AssertionError

    want, got = attend(layer(), CONTEXT), attend(layer(attention=refuse), CONTEXT)
    np.testing.assert_array_equal(got, want)
    assert ops.attention(X, X, X, lambda q, k, v: q) is X
