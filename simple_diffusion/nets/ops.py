"""Attention and resampling: parameter-free maths on feature maps."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

AttentionFn = Callable[[Array, Array, Array], Array]
Implementation = Literal["auto", "xla", "cudnn", "flash_tpu"]


def attention(
    q: Float[Array, "b n k d"],
    k: Float[Array, "b m k d"],
    v: Float[Array, "b m k d"],
    implementation: Implementation | AttentionFn = "auto",
    lengths: Int[Array, "b"] | None = None,
) -> Float[Array, "b n k d"]:
    """Returns softmax(q kᵀ / √d) v per head; logits and softmax are in float32.

    Args:
      q: queries of n tokens, k heads of d features.
      k: keys of m tokens.
      v: values of m tokens.
      implementation: "xla" runs everywhere. "cudnn" (NVIDIA, bfloat16 or float16) and
        "flash_tpu" never hold the [n, m] matrix in memory. "auto" chooses during
        tracing, by the default backend and the shapes; a program that is lowered for
        another platform needs "xla". A function (q, k, v) -> output replaces all of
        them where there are no lengths; with lengths it means "auto".
      lengths: keys of each example that count, at least 1; the later ones have no
        influence. None: all count. A length needs no matrix of biases, which the flash
        implementations would read and differentiate.

    Raises:
      ValueError: if the implementation is unknown.
    """
    if callable(implementation):
        if lengths is None:
            return implementation(q, k, v)
        implementation = "auto"
    if implementation == "auto":
        implementation = _choose(q, k)
    match implementation:
        case "xla" | "cudnn":
            options: dict[str, Any] = {}
            if lengths is not None:
                options["key_value_seq_lengths"] = lengths
            return jax.nn.dot_product_attention(
                q, k, v, implementation=implementation, **options
            )
        case "flash_tpu":
            if lengths is not None:
                return _flash_tpu_lengths(q, k, v, lengths)
            return _flash_tpu(q, k, v)
    raise ValueError(
        f"attention={implementation!r} must be auto, xla, cudnn, flash_tpu or callable"
    )


def _choose(q: Array, k: Array) -> Implementation:
    head_dim = q.shape[-1]
    match jax.default_backend():
        case "gpu":
            half = q.dtype in (jnp.bfloat16, jnp.float16)
            # 256 needs Hopper or newer; up to 128 works on every card with flash.
            if half and head_dim % 8 == 0 and head_dim <= 128 and _has_flash_gpu():
                return "cudnn"
        case "tpu":
            # The kernel works on blocks of 128 tokens and lanes of 128 features. The
            # partitioner cannot split it, so a program for many devices must state the
            # split by an ambient mesh (`jax.set_mesh`).
            tokens = q.shape[1] % 128 == 0 and k.shape[1] % 128 == 0
            features = head_dim <= 128 or head_dim % 128 == 0
            split = jax.device_count() == 1 or not _ambient_mesh().empty
            if tokens and features and split:
                return "flash_tpu"
    return "xla"


def _has_flash_gpu() -> bool:
    device = jax.local_devices()[0]
    capability = getattr(device, "compute_capability", "0.0")  # absent on AMD
    try:
        return float(capability) >= 8.0  # Ampere
    except ValueError:
        return False


def _ambient_mesh() -> jax.sharding.AbstractMesh:
    return jax.sharding.get_abstract_mesh()


def _flash_tpu_lengths(q: Array, k: Array, v: Array, lengths: Array) -> Array:
    # The kernel has no lengths; a token attends to the tokens of its own segment.
    missing = -k.shape[1] % 128
    k, v = (jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) for x in (k, v))
    is_padding = jnp.arange(k.shape[1])[None] >= lengths[:, None]
    segments = jnp.zeros(q.shape[:2], jnp.int32), is_padding.astype(jnp.int32)
    return _flash_tpu(q, k, v, *segments)


def _flash_tpu(q: Array, k: Array, v: Array, *segments: Array) -> Array:
    """Returns attention by the Pallas kernel.

    Args:
      q: [b, n, k, d].
      k: [b, m, k, d].
      v: [b, m, k, d].
      *segments: numbers of the segments of queries, [b, n], and of keys, [b, m]; none:
        all are one segment.
    """
    # Lazily: Pallas' TPU kernels need not be importable elsewhere.
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    def heads_first(q: Array, k: Array, v: Array, *segments: Array) -> Array:
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        ids = flash.SegmentIds(*segments) if segments else None
        scale = q.shape[-1] ** -0.5
        out = flash.flash_attention(q, k, v, segment_ids=ids, sm_scale=scale)
        return out.swapaxes(1, 2)

    mesh = _ambient_mesh()
    if mesh.empty:
        return heads_first(q, k, v, *segments)
    # Heads over the tensor axis, images over all others.
    heads = "tensor" if "tensor" in mesh.axis_names else None
    images = tuple(name for name in mesh.axis_names if name != "tensor")
    spec = PartitionSpec(images, None, heads, None)
    specs = (spec,) * 3 + (PartitionSpec(images, None),) * len(segments)
    # check_vma: a Pallas call does not state over which axes its output varies.
    split = partial(jax.shard_map, in_specs=specs, out_specs=spec, check_vma=False)
    return split(heads_first)(q, k, v, *segments)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Returns the mean of each 2x2 block of pixels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample_nearest(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats each pixel as a 2x2 block."""
    b, h, w, c = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return blocks.reshape(b, 2 * h, 2 * w, c)


def space_to_depth(x: Float[Array, "b h w c"], block: int) -> Float[Array, "b H W C"]:
    """Returns blocks of pixels as channels, ordered (row, column, channel)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block, c).swapaxes(2, 3)
    return x.reshape(b, h // block, w // block, block * block * c)


def depth_to_space(x: Float[Array, "b h w c"], block: int) -> Float[Array, "b H W C"]:
    """Inverts `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, block, block, c // block**2).swapaxes(2, 3)
    return x.reshape(b, h * block, w * block, c // block**2)
