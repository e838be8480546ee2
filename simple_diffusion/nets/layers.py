"""Building blocks of the convolutional levels of all networks, and the level table."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simple_diffusion.nets import ops, safa
from simple_diffusion.nets.convolution import Conv3x3
from simple_diffusion.nets.position import Region

Film = tuple[Array, Array]  # scale and shift, [b, c] each

Activation = Literal["swish", "gelu", "gelu_tanh", "gelu_exact"]

# The approximation of GELU by a tanh differs from GELU, x Φ(x), by up to 4.7e-4.
# Published weights need the one that they were trained with: the GEGLU of Stable
# Diffusion and OpenCLIP are exact. "gelu" is the earlier name of "gelu_tanh".
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "swish": nn.swish,
    "gelu": partial(nn.gelu, approximate=True),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "gelu_exact": partial(nn.gelu, approximate=False),
}

# Which intermediate results a rematerialised block keeps for the backward pass.
REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True)
class Level:
    """One resolution of a network: one row of its level table.

    Fields:
      channels: width.
      blocks: residual or transformer blocks on the way down.
      kind: "conv" or "transformer".
      blocks_up: blocks on the way up; None: the default of the network.
      attention: whether self-attention follows every residual block.
      heads: attention heads, a divisor of channels.
      dropout: rate inside the blocks of this level, in training.
      safa: which 3x3 convolutions of its residual blocks are scale-aware: "none", the
        "first_conv" of each block, or "all"; `Style.mixture` says how.
    """

    channels: int
    blocks: int
    kind: Literal["conv", "transformer"] = "conv"
    blocks_up: int | None = None
    attention: bool = False
    heads: int = 4
    dropout: float = 0.0
    safa: Literal["none", "first_conv", "all"] = "none"

    def __post_init__(self):
        _check_choices(self)


@dataclass(frozen=True)
class Style:
    """Options of the blocks of a network, the same at every level.

    Fields:
      conv_norm: norm in residual blocks; "group" has up to 32 groups.
      token_norm: norm in transformer blocks.
      activation: nonlinearity of all blocks, see `ACTIVATIONS`.
      skip: how a residual block on the way up merges a skip: "add_sqrt2" is
        (norm(x) + norm(skip)) / √2 before the first activation, "add" is x + skip,
        "concat" joins the channels.
      qk_norm: norm of queries and keys over a head's features. "l2" divides by the
        length; the logits are then a cosine times one learned scale for all heads,
        which starts at log2(L² - L) for L tokens (arXiv 2010.04245).
      position: how attention encodes positions: "rope" rotates queries and keys in
        every attention; a "learned" or "sincos" table is added once before a
        transformer level.
      rope_fastest: see `position.rope_2d`.
      film: where the embedding modulates a transformer block: the "hidden" units of its
        MLP, the same units "before_activation", the "input" of the MLP, or "none".
      attention: implementation, see `ops.attention`.
      padding: of the 3x3 convolutions in blocks. "zeros" lets the network detect the
        border of the input, which for a patch is rarely the border of the image;
        "edge" repeats the border pixels.
      bands: frequencies of the Fourier features of the position, which are joined to
        the channels inside each residual block and added before a transformer; 0: none.
      mixture: how scale-aware convolutions depend on the resolution.
      cross_attention: whether cross-attention follows every self-attention; the network
        then needs tokens. Conditions that give tokens imply it.
    """

    conv_norm: Literal["group", "layer", "rms"] = "group"
    token_norm: Literal["group", "layer", "rms"] = "layer"
    activation: Activation = "swish"
    skip: Literal["add_sqrt2", "add", "concat"] = "add_sqrt2"
    qk_norm: Literal["layer", "rms", "l2", "none"] = "none"
    position: Literal["learned", "sincos", "rope", "none"] = "none"
    rope_fastest: float = 1.0
    film: Literal["hidden", "before_activation", "input", "none"] = "hidden"
    attention: ops.Implementation | ops.AttentionFn = "auto"
    padding: safa.Padding = "zeros"
    bands: int = 0
    mixture: safa.Mixture | None = None
    cross_attention: bool = False

    def __post_init__(self):
        _check_choices(self)


def _check_choices(table: Any) -> None:
    """Raises ValueError if a `Literal` field has a value that it does not list."""
    for field, hint in get_type_hints(type(table)).items():
        value = getattr(table, field)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{field}={value!r} must be one of {get_args(hint)}")


_EPSILON = 1e-6  # of norms


class Norm(nn.Module):
    """Group, layer or RMS norm; the affine map and a FiLM cost one multiply-add.

    (1 + scale) * (γ (x - μ) / σ + β) + shift equals x * A + B with A and B per example
    and channel. The map is read once for the statistics and once for the result.

    Fields:
      kind: "group" pools pixels and the channels of a group; "layer" and "rms" pool the
        channels of one pixel or token.
      use_bias: whether there is a β; "rms" has none.
      dtype: of the result; statistics and A, B are float32.
      epsilon: added to the variance.
      groups: of "group"; None: up to 32, see `_groups`.
    """

    kind: Literal["group", "layer", "rms"]
    use_bias: bool = True
    dtype: Any = jnp.float32
    epsilon: float = _EPSILON
    groups: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *n c"], film: Film | None = None) -> Array:
        """Returns the normalised map; film is scale and shift, [b, c] each."""
        c = x.shape[-1]
        a = self.param("scale", nn.initializers.ones, (c,), jnp.float32)[None]
        b = jnp.zeros_like(a)
        if self.use_bias and self.kind != "rms":
            b = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)[None]
        if film is not None:
            scale, shift = (f.astype(jnp.float32) for f in film)
            a, b = a * (1 + scale), b * (1 + scale) + shift
        ones = (1,) * (x.ndim - 2)
        h = x.astype(jnp.float32)
        if self.kind == "group":
            groups = self.groups or _groups(c)
            mean, inverse_std = _group_statistics(h, groups, self.epsilon)
            a = a * inverse_std
            b = b - a * mean
            a, b = (v.reshape(-1, *ones, c) for v in (a, b))
        else:
            a, b = (v.reshape(-1, *ones, c) for v in (a, b))
            mean = 0.0 if self.kind == "rms" else h.mean(-1, keepdims=True)
            h = h - mean
            h = h * lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + self.epsilon)
        return (h * a + b).astype(self.dtype)


def _groups(channels: int) -> int:
    """Returns 32, or fewer where a group would have under four channels.

    Groups of one channel would remove the mean of each channel, and so the colours.
    """
    most = min(32, max(1, channels // 4))
    return next(n for n in range(most, 0, -1) if channels % n == 0)


def _group_statistics(x: Array, groups: int, epsilon: float) -> tuple[Array, Array]:
    """Returns mean and 1 / standard deviation of each channel's group, [b, c]."""
    b, c = x.shape[0], x.shape[-1]
    pixels = tuple(range(1, x.ndim - 1))
    # Both moments in one pass; the difference may round to below zero.
    moments = jnp.stack([x.mean(pixels), jnp.square(x).mean(pixels)])
    moments = moments.reshape(2, b, groups, c // groups).mean(-1)
    mean, square = jnp.repeat(moments, c // groups, axis=-1)
    variance = jnp.maximum(square - jnp.square(mean), 0.0)
    return mean, lax.rsqrt(variance + epsilon)


class Dense(nn.Module):
    """A linear map of the channels with bias, the pixels flattened first.

    Without flattening, the gradient of the kernel is a product of transposed copies.
    XLA's CPU compiler fuses all preceding operations into it and so repeats them, which
    takes an eighth of the time of a training step.

    Fields:
      features: of the result; a tuple gives several axes.
      kernel_init: of the kernel as a matrix.
      dtype: of the computation.
    """

    features: int | tuple[int, ...]
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*n c"]) -> Array:
        """Returns [*n, *features]."""
        features = self.features
        shape = (features,) if isinstance(features, int) else features
        c, width = x.shape[-1], math.prod(shape)

        def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return self.kernel_init(key, (c, width), dtype).reshape(shape)

        kernel = self.param("kernel", init, (c, *shape), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        matrix = kernel.reshape(c, width).astype(self.dtype)
        y = x.reshape(-1, c).astype(self.dtype) @ matrix
        y = y + bias.reshape(1, width).astype(self.dtype)
        return y.reshape(*x.shape[:-1], *shape)


class FilmDense(nn.Module):
    """Embedding -> scale and shift; both are zero in a fresh network."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, emb: Float[Array, "b d"]) -> Film:
        """Returns scale and shift, [b, channels] each."""
        dense = nn.Dense(
            2 * self.channels,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="dense",
        )
        scale, shift = jnp.split(dense(emb), 2, axis=-1)
        return scale, shift


class ResBlock(nn.Module):
    """Two 3x3 convolutions after norm and activation, plus a shortcut.

    norm, activation, conv, norm with FiLM, activation, dropout, zero-initialised conv.

    Source: BigGAN / ADM residual blocks as in simple diffusion (arXiv 2301.11093),
    appendix; `Style.skip` says how skips are merged.

    Fields:
      channels: width of the result.
      style: see `Style`.
      dropout: the current rate, 0 outside training.
      safa: as `Level.safa`.
      dtype: of the computation; parameters are float32.
      resample: halves ("down") or doubles ("up") the resolution before the first
        convolution, and in the shortcut; None keeps it (ADM, arXiv 2105.05233).
    """

    channels: int
    style: Style
    dropout: float = 0.0
    safa: str = "none"
    dtype: Any = jnp.float32
    resample: Literal["down", "up"] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b d"],
        skip: Float[Array, "b h w s"] | None = None,
        region: Region | None = None,
    ) -> Array:
        """Returns [b, h, w, channels], or h and w halved or doubled."""
        style, dtype = self.style, self.dtype
        activate = ACTIVATIONS[style.activation]
        if skip is not None and style.skip == "concat":
            x = jnp.concatenate([x, skip], axis=-1)
        elif skip is not None and style.skip == "add":
            x = x + skip
        h = Norm(style.conv_norm, dtype=dtype, name="norm_1")(x)
        if skip is not None and style.skip == "add_sqrt2":
            other = Norm(style.conv_norm, dtype=dtype, name="norm_skip")(skip)
            h = (h + other) * math.sqrt(0.5)
        h = activate(h)
        if self.resample is not None:
            change = {"down": ops.average_pool, "up": ops.upsample_nearest}
            h, x = change[self.resample](h), change[self.resample](x)
        first = self._conv("conv_1", self.safa != "none", bands=style.bands)
        h = first(h, region)
        film = FilmDense(self.channels, dtype, name="film")(emb)
        h = Norm(style.conv_norm, dtype=dtype, name="norm_2")(h, film)
        h = nn.Dropout(self.dropout, deterministic=False)(activate(h))
        h = self._conv("conv_2", self.safa == "all", zero=True)(h, region)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, dtype=dtype, name="shortcut")(x)
        return x + h

    def _conv(self, name: str, is_scale_aware: bool, **options: Any) -> Conv3x3:
        if is_scale_aware and self.style.mixture is None:
            raise ValueError(f"safa={self.safa!r} needs a Style.mixture")
        return Conv3x3(
            self.channels,
            padding=self.style.padding,
            mixture=self.style.mixture if is_scale_aware else None,
            dtype=self.dtype,
            name=name,
            **options,
        )


class Down(nn.Module):
    """2x2 average, then a 1x1 convolution to the width below."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 d"]:
        """Returns the map at half the resolution."""
        return Dense(self.channels, dtype=self.dtype, name="conv")(ops.average_pool(x))


class Up(nn.Module):
    """1x1 convolution to the width above, then nearest-neighbour upsampling by 2."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
        """Returns the map at twice the resolution."""
        h = Dense(self.channels, dtype=self.dtype, name="conv")(x)
        return ops.upsample_nearest(h)


def remat(module: type[nn.Module], policy: str | None, in_scan: bool = False) -> Any:
    """Returns the module class, recomputed in the backward pass as the policy says.

    Args:
      module: a linen module class whose call takes arrays only.
      policy: None keeps every intermediate. "full" keeps only the input of a block and
        recomputes the rest: least memory, about a third more arithmetic. "dots" keeps
        the results of matrix products and convolutions and recomputes elementwise work;
        "dots_no_batch" keeps those of products without a batch dimension only, and
        recomputes attention and convolutions too.
      in_scan: whether the module is the body of a rolled scan. There XLA needs no
        barrier that prevents it from undoing the recomputation.

    Raises:
      ValueError: if the policy is unknown.
    """
    if policy is None:
        return module
    if policy not in REMAT_POLICIES:
        raise ValueError(f"remat={policy!r} must be one of {[None, *REMAT_POLICIES]}")
    return nn.remat(module, policy=REMAT_POLICIES[policy], prevent_cse=not in_scan)
