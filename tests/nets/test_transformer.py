import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.nets import position, transformer
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.nets.position import Region
from simple_diffusion.nets.transformer import Block, Mlp, SelfAttention, Trunk
from tests.nets import small

STYLE = Style(qk_norm="layer", position="learned")
X = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
EMB = jax.random.normal(jax.random.key(1), (2, 6))
DEPTH = 2


def trunk(**fields) -> Trunk:
    level = Level(8, DEPTH, "transformer", heads=2)
    return Trunk(level, DEPTH, STYLE, (3, 4), **fields)


def value_and_gradients(module, params, *args):
    @jax.jit
    @jax.value_and_grad
    def run(params):
        return jnp.sum(jnp.sin(module.apply({"params": params}, *args)))

    return run(params)


def assert_close(got, want, tolerance: float):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance),
        got,
        want,
    )


@pytest.fixture(scope="module")
def reference():
    params = small.lively(trunk(), X, EMB)
    return params, value_and_gradients(trunk(), params, X, EMB)


def test_a_trunk_is_its_blocks_in_a_row(reference):
    params = reference[0]
    kernel = params["blocks"]["mlp"]["dense_1"]["kernel"]
    assert kernel.shape == (DEPTH, 8, 32)
    block = Block(2, STYLE, extent=(3, 4))
    h = X
    step = jax.jit(block.apply)
    for k in range(DEPTH):
        one = jax.tree.map(lambda v, k=k: v[k], params["blocks"])
        h = step({"params": one}, h, EMB)
    got = jax.jit(trunk().apply)({"params": params}, X, EMB)
    np.testing.assert_allclose(got, h, atol=1e-5)


def test_unrolled_and_rolled_trunks_agree_in_value_and_gradients(reference):
    params, want = reference
    got = value_and_gradients(trunk(unroll=DEPTH), params, X, EMB)
    assert_close(got, want, 1e-4)  # float32 sums in another order


@pytest.mark.parametrize(
    ("policy", "unroll"),
    [("full", 1), ("dots", DEPTH), ("dots_no_batch", 1)],
)
def test_remat_changes_neither_value_nor_gradients(reference, policy, unroll):
    params, want = reference
    module = trunk(remat=policy, unroll=unroll)
    got = value_and_gradients(module, params, X, EMB)
    assert_close(got, want, 1e-4)


def saved(policy: str | None) -> int:
    """Returns how many numbers the forward pass keeps for the backward pass."""
    module = trunk(remat=policy)
    params = small.shapes(module, X, EMB)

    def residuals(params):
        return jax.vjp(lambda p: module.apply({"params": p}, X, EMB), params)[1]

    return sum(v.size for v in jax.tree.leaves(jax.eval_shape(residuals, params)))


def test_remat_policies_keep_less_the_stricter_they_are():
    counts = [saved(policy) for policy in ("full", "dots_no_batch", "dots", None)]
    assert counts == sorted(counts) and len(set(counts)) == 4


def test_attention_without_positions_moves_with_its_tokens():
    attention = SelfAttention(2, Style(), "layer")
    params = {"params": small.lively(attention, X)}
    mixed = X[:, ::-1][:, :, ::-1]
    want = attention.apply(params, X)[:, ::-1][:, :, ::-1]
    np.testing.assert_allclose(attention.apply(params, mixed), want, atol=1e-5)


def test_attention_with_rotary_positions_does_not():
    attention = SelfAttention(2, Style(position="rope"), "layer")
    params = {"params": small.lively(attention, X)}
    mixed = X[:, ::-1][:, :, ::-1]
    want = attention.apply(params, X)[:, ::-1][:, :, ::-1]
    assert not np.allclose(attention.apply(params, mixed), want, atol=1e-2)


def attention_by_hand(params, x, rows=None, columns=None, cosine=False):
    """One head of attention in float64 from the definition, positions and norms on.

    The coordinates of rows and columns are by default those of a full image of 3x4.
    With `cosine` the logits are the cosines of queries and keys times a scale.
    """
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    n = np.asarray(x, np.float64)
    n = n / np.sqrt((n**2).mean(-1, keepdims=True) + 1e-6) * p["norm"]["scale"]
    qkv = np.einsum("bhwc,cksd->sbhwkd", n, p["qkv"]["kernel"])
    q, k, v = qkv + p["qkv"]["bias"].swapaxes(0, 1)[:, None, None, None]

    def rms(y, name):
        if cosine:
            return y / np.linalg.norm(y, axis=-1, keepdims=True)
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * p[name]["scale"]

    if rows is None:
        rows, columns = position.centres(3, 3), position.centres(4, 4)
    q, k = (
        np.asarray(
            position.rope_2d(jnp.asarray(rms(y, name), jnp.float32), rows, columns)
        )
        for y, name in ((q, "norm_q"), (k, "norm_k"))
    )
    scale = p["qk_scale"] if cosine else 1 / np.sqrt(q.shape[-1])
    logits = scale * np.einsum("bhwkd,bijkd->bkhwij", q, k)
    weights = np.exp(logits)
    weights /= weights.sum((-2, -1), keepdims=True)
    out = np.einsum("bkhwij,bijkd->bhwkd", weights, v).reshape(x.shape)
    return np.asarray(x) + out @ p["out"]["kernel"] + p["out"]["bias"]


def test_attention_is_its_formula():
    attention = SelfAttention(2, Style(qk_norm="rms", position="rope"), "rms")
    params = small.lively(attention, X)
    got = attention.apply({"params": params}, X)
    np.testing.assert_allclose(got, attention_by_hand(params, X), atol=1e-4)


def test_attention_by_cosines_is_its_formula_and_starts_at_the_scale_of_its_tokens():
    style = Style(qk_norm="l2", position="rope", rope_fastest=2.0)
    attention = SelfAttention(2, style, "rms")
    params = small.lively(attention, X) | {"qk_scale": jnp.float32(3.0)}
    got = attention.apply({"params": params}, X)
    # Twice as fast is the same as twice as far.
    rows, columns = 2 * position.centres(3, 3), 2 * position.centres(4, 4)
    want = attention_by_hand(params, X, rows, columns, cosine=True)
    np.testing.assert_allclose(got, want, atol=1e-4)
    start = attention.init(jax.random.key(0), X)["params"]
    assert "norm_q" not in start and "norm_k" not in start
    # log2(L² - L) of 3 x 4 tokens.
    np.testing.assert_allclose(start["qk_scale"], np.log2(12 * 11), rtol=1e-6)
    alone = attention.init(jax.random.key(0), X[:, :1, :1])["params"]
    assert np.isfinite(alone["qk_scale"])


def test_queries_of_zero_have_a_gradient_with_cosines():
    attention = SelfAttention(2, Style(qk_norm="l2"), "rms")
    params = small.lively(attention, X)
    params["qkv"] = jax.tree.map(jnp.zeros_like, params["qkv"])
    slope = jax.grad(lambda x: attention.apply({"params": params}, x).sum())(X)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("extent", [(6, 10), None])
def test_rotary_positions_of_a_patch_are_its_places_in_the_training_grid(extent):
    attention = SelfAttention(
        2, Style(qk_norm="rms", position="rope"), "rms", extent=extent
    )
    box = np.array([[0, 0, 1, 1], [0.5, 0.25, 0.75, 1]], np.float32)
    region = Region(jnp.asarray(box), jnp.array([[12.0, 16.0]]), (6, 8))
    # Of the 3x4 tokens, in units of the full image; and its size in tokens.
    corner, size = box[:, :2], box[:, 2:] - box[:, :2]
    rows = corner[:, :1] + size[:, :1] * (np.arange(3) + 0.5) / 3
    columns = corner[:, 1:] + size[:, 1:] * (np.arange(4) + 0.5) / 4
    tokens = np.array([extent or (3, 4)]) / (1 if extent else size)
    rows, columns = (
        jnp.asarray(v * tokens[:, axis, None], jnp.float32)
        for axis, v in enumerate((rows, columns))
    )
    params = small.lively(attention, X, region)
    got = attention.apply({"params": params}, X, region)
    want = attention_by_hand(params, X, rows, columns)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_rotary_positions_of_the_training_grid_are_stretched_over_other_grids():
    """A map of 2x2 equal tokens per training token attends as the coarse map does.

    Up to the place of each token within its cell: at the coarse cell's centre the mean
    of the four places.
    """
    coarse = SelfAttention(1, Style(position="rope"), "layer", extent=(2, 2))
    x = X[:, :2, :2]
    params = {"params": small.lively(coarse, x)}
    fine = jnp.repeat(jnp.repeat(x, 8, axis=1), 8, axis=2)
    free = SelfAttention(1, Style(position="rope"), "layer")
    want = coarse.apply(params, x)
    got, wrong = (
        jax.jit(m.apply)(params, fine).reshape(2, 2, 8, 2, 8, 8).mean((2, 4))
        for m in (coarse, free)
    )
    assert np.abs(got - want).max() < 0.5 * np.abs(wrong - want).max()


def test_heads_that_do_not_divide_the_width_are_named():
    attention = SelfAttention(3, Style(), "layer")
    with pytest.raises(ValueError, match="heads=3 must divide channels=8"):
        small.shapes(attention, X)


def mlp_by_hand(p, place: str) -> np.ndarray:
    p = jax.tree.map(np.asarray, p)
    x, emb = np.asarray(X), np.asarray(EMB)
    film = emb @ p["film"]["dense"]["kernel"] + p["film"]["dense"]["bias"]
    scale, shift = np.split(film[:, None, None], 2, axis=-1)
    mean = x.mean(-1, keepdims=True)
    h = (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["norm"]["scale"]
    if place == "input":
        h = h * (1 + scale) + shift
    h = h @ p["dense_1"]["kernel"] + p["dense_1"]["bias"]
    if place == "before_activation":
        h = h * (1 + scale) + shift
    h = h / (1 + np.exp(-h))
    if place == "hidden":
        h = h * (1 + scale) + shift
    return x + h @ p["dense_2"]["kernel"] + p["dense_2"]["bias"]


@pytest.mark.parametrize("place", ["hidden", "before_activation", "input"])
def test_the_mlp_is_its_formula_wherever_the_film_is(place):
    mlp = Mlp(Style(film=place))
    params = small.lively(mlp, X, EMB)
    got = mlp.apply({"params": params}, X, EMB)
    np.testing.assert_allclose(got, mlp_by_hand(params, place), atol=1e-4)


def test_without_film_the_embedding_does_not_enter():
    mlp = Mlp(Style(film="none"))
    params = {"params": small.lively(mlp, X, EMB)}
    assert "film" not in params["params"]
    np.testing.assert_array_equal(
        mlp.apply(params, X, EMB), mlp.apply(params, X, EMB + 1)
    )


def test_a_fresh_block_is_the_identity():
    block = Block(2, STYLE)
    params = block.init(jax.random.key(0), X, EMB)
    np.testing.assert_array_equal(block.apply(params, X, EMB), X)


def test_dropout_has_its_own_mask_in_every_block():
    """Two equal blocks differ from one of them applied twice with one mask."""
    level = Level(8, 2, "transformer", heads=2, dropout=0.5)
    module = Trunk(
        level, 2, dataclasses.replace(STYLE, film="none"), (3, 4), train=True
    )
    one = Trunk(level, 1, module.style, (3, 4), train=True)
    params = small.lively(module, X, EMB)
    same = jax.tree.map(lambda v: jnp.stack([v[0], v[0]]), params)
    first = jax.tree.map(lambda v: v[:1], params)
    rngs = {"dropout": jax.random.key(5)}
    twice = module.apply({"params": same}, X, EMB, rngs=rngs)
    once = one.apply({"params": first}, X, EMB, rngs=rngs)
    again = one.apply({"params": first}, once, EMB, rngs=rngs)
    assert not np.allclose(twice, again, atol=1e-3)


@pytest.mark.parametrize("kind", ["learned", "sincos"])
def test_position_tables_keep_their_places_on_a_finer_grid(kind):
    table = transformer.PositionTable(Style(position=kind), (4, 4))
    zero = jnp.zeros((1, 4, 4, 8))
    params = {"params": small.lively(table, zero)}
    if kind == "learned":  # as smooth as a trained one
        smooth = position.sincos_2d(position.centres(4, 4), position.centres(4, 4), 8)
        params = {"params": {"table": smooth}}
    coarse = table.apply(params, zero)
    fine = table.apply(params, jnp.zeros((1, 8, 8, 8)))
    means = np.asarray(fine).reshape(1, 4, 2, 4, 2, 8).mean((2, 4))
    # The mean of a sine over two points ±1/4 from the centre is cos(1/4) of it.
    np.testing.assert_allclose(means[:, 1:3, 1:3], coarse[:, 1:3, 1:3], atol=0.2)


def test_without_positions_nothing_is_added():
    table = transformer.PositionTable(Style(position="rope"), (3, 4))
    np.testing.assert_array_equal(table.apply({}, X), X)
