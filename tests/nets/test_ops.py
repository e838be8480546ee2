import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from skimage.measure import block_reduce

from simple_diffusion.nets import ops


def qkv(tokens: int = 6, others: int = 5, heads: int = 2, width: int = 4):
    keys = jax.random.split(jax.random.key(0), 3)
    counts = (tokens, others, others)
    return tuple(
        jax.random.normal(key, (2, n, heads, width))
        for key, n in zip(keys, counts, strict=True)
    )


def by_hand(q, k, v) -> np.ndarray:
    """Attention in float64, written out."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bnkd,bmkd->bknm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits)
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bknm,bmkd->bnkd", weights, v)


@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_attention_is_softmax_of_scaled_products(implementation):
    out = ops.attention(*qkv(), implementation)
    np.testing.assert_allclose(out, by_hand(*qkv()), atol=1e-6)


def test_attention_in_bfloat16_has_its_softmax_in_float32():
    # Logits near 300 with differences near 1: in bfloat16 they would all be equal.
    q, k, v = qkv(4, 4, 1, 8)
    q, k = 0 * q + 10.0, 0 * k + 10.0
    k = k.at[:, :, :, 0].add(jnp.arange(4.0)[None, :, None] * 0.25)
    out = ops.attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), "xla")
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out, by_hand(q, k, v), atol=0.03)


def test_a_function_replaces_the_implementation():
    q, k, v = qkv()
    np.testing.assert_array_equal(ops.attention(q, k, v, lambda q, k, v: q + 1), q + 1)


def test_keys_beyond_the_length_of_an_example_do_not_count():
    q, k, v = qkv()
    out = ops.attention(q, k, v, "xla", jnp.asarray([2, 5]))
    for example, n in ((0, 2), (1, 5)):
        part = slice(example, example + 1)
        want = by_hand(q[part], k[part, :n], v[part, :n])
        np.testing.assert_allclose(out[part], want, atol=1e-6)


def test_an_unknown_implementation_is_named(unchecked):
    with pytest.raises(ValueError, match="attention='fast' must be"):
        ops.attention(*qkv(), "fast")


class Card:
    def __init__(self, compute_capability: str):
        self.compute_capability = compute_capability


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "chosen"),
    [
        ("9.0", jnp.bfloat16, 64, "cudnn"),
        ("8.0", jnp.float16, 128, "cudnn"),
        ("7.5", jnp.bfloat16, 64, "xla"),
        ("gfx90a", jnp.bfloat16, 64, "xla"),
        ("9.0", jnp.float32, 64, "xla"),
        ("9.0", jnp.bfloat16, 512, "xla"),
        ("9.0", jnp.bfloat16, 36, "xla"),
    ],
)
def test_gpus_get_flash_where_card_type_and_width_allow(
    monkeypatch, capability, dtype, width, chosen
):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Card(capability)])
    asked = []
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, *_, **k: asked.append(k) or q
    )
    q, k, v = (x.astype(dtype) for x in qkv(width=width))
    ops.attention(q, k, v)
    assert asked == [{"implementation": chosen}]
    lengths = jnp.asarray([3, 5])
    ops.attention(q, k, v, lengths=lengths)
    assert asked[1] == {"implementation": chosen, "key_value_seq_lengths": lengths}


@pytest.mark.parametrize(
    ("tokens", "width", "devices", "flash"),
    [
        (256, 64, 1, True),
        (128, 256, 1, True),
        (256, 192, 1, False),
        (64, 64, 1, False),
        (256, 64, 8, False),
    ],
)
def test_tpus_get_flash_where_the_blocks_fit_and_the_split_is_known(
    monkeypatch, tokens, width, devices, flash
):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(ops, "_flash_tpu", lambda q, k, v: q * jnp.nan)
    with jax.debug_nans(False):
        out = ops.attention(*qkv(tokens, tokens, 1, width))
    assert bool(jnp.isnan(out).all()) == flash


def test_the_tpu_kernel_computes_attention_and_is_split_by_the_ambient_mesh():
    pltpu = pytest.importorskip("jax.experimental.pallas.tpu")
    q, k, v = (jnp.tile(x, (2, 1, 1, 1)) for x in qkv(128, 128, 2, 8))
    expected = ops.attention(q, k, v, "xla")
    flash = jax.jit(lambda q, k, v: ops.attention(q, k, v, "flash_tpu"))
    with pltpu.force_tpu_interpret_mode():
        np.testing.assert_allclose(flash(q, k, v), expected, atol=2e-5)
        mesh = jax.make_mesh(
            (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
        )
        with jax.set_mesh(mesh):
            split = jax.jit(lambda q, k, v: ops.attention(q, k, v, "flash_tpu"))
            np.testing.assert_allclose(split(q, k, v), expected, atol=2e-5)


def test_the_tpu_kernel_leaves_out_keys_beyond_the_length():
    pltpu = pytest.importorskip("jax.experimental.pallas.tpu")
    q, k, v = qkv(128, 5, 2, 8)
    lengths = jnp.asarray([2, 5])
    expected = ops.attention(q, k, v, "xla", lengths)
    flash = jax.jit(lambda *args: ops.attention(*args[:3], "flash_tpu", args[3]))
    with pltpu.force_tpu_interpret_mode():
        np.testing.assert_allclose(flash(q, k, v, lengths), expected, atol=2e-5)


def test_pooling_is_the_mean_of_blocks():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    expected = block_reduce(np.asarray(x), (1, 2, 2, 1), np.mean)
    np.testing.assert_allclose(ops.average_pool(x), expected, atol=1e-6)


def test_pooling_undoes_enlarging():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    up = ops.upsample_nearest(x)
    np.testing.assert_array_equal(up, np.asarray(x).repeat(2, 1).repeat(2, 2))
    np.testing.assert_allclose(ops.average_pool(up), x, rtol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_depth_to_space_undoes_space_to_depth(block):
    x = jax.random.normal(jax.random.key(0), (2, 2 * block, 3 * block, 4))
    packed = ops.space_to_depth(x, block)
    assert packed.shape == (2, 2, 3, 4 * block**2)
    np.testing.assert_array_equal(ops.depth_to_space(packed, block), x)
    corner = np.asarray(x[:, :block, :block]).reshape(2, -1)
    np.testing.assert_array_equal(packed[:, 0, 0], corner)
