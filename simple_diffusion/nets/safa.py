"""Scale-aware 3x3 convolutions: experts mixed by the resolution of the full image.

An ordinary convolution sees 3x3 pixels whatever the size of the image. Here the kernel
is a mixture, kernel = Σ_k w_k kernel_k. A small network computes the weights from the
resolution, for each example, so that one batch may hold several resolutions.
Convolution is linear in the kernel; the implementations differ only in when they sum.

Source: ArbSR (arXiv 2004.03791), scale-aware convolution, without its mask and residual
branch, as in any-resolution diffusion.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simple_diffusion.nets.position import Scale

Padding = Literal["zeros", "edge"]
Implementation = Literal["patches", "experts", "grouped"]

GATES = {
    "softmax": nn.softmax,
    "sigmoid": nn.sigmoid,
    "linear": lambda logits: logits,
}


@dataclass(frozen=True)
class Mixture:
    """How the kernels of a network depend on the resolution.

    Fields:
      scale: the resolution as numbers.
      experts: kernels in each mixture, K.
      hidden: units of the network that computes the weights.
      gate: of the weights: "softmax", "sigmoid" or "linear".
      spread: how much the experts differ at the start, see `correlated_uniform`.
        Independent experts with equal weights would give a kernel with 1/√K of the
        usual standard deviation.
      implementation: of a batch of several resolutions, see `convolve`.
    """

    scale: Scale
    experts: int = 4
    hidden: int = 64
    gate: Literal["softmax", "sigmoid", "linear"] = "softmax"
    spread: float = 0.1
    implementation: Implementation = "patches"

    def __post_init__(self):
        if self.experts < 1:
            raise ValueError(f"safa_experts={self.experts} must be at least 1")


class Router(nn.Module):
    """The resolution of the full image -> the weight of each expert, in float32."""

    mixture: Mixture

    @nn.compact
    def __call__(self, full_size: Float[Array, "b 2"]) -> Float[Array, "b k"]:
        """Returns the weights, given height and width in pixels."""
        m = self.mixture
        h = nn.relu(nn.Dense(m.hidden, name="dense_1")(m.scale(full_size)))
        return GATES[m.gate](nn.Dense(m.experts, name="dense_2")(h))


def correlated_uniform(spread: float) -> nn.initializers.Initializer:
    """Returns an initializer of correlated experts.

    Each kernel is a draw shared by all experts plus `spread` times an independent draw.
    Both are uniform in ±1/√(9 c), for kernels [k, 3, 3, c, d].
    """

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        bound = 1.0 / math.sqrt(math.prod(shape[1:4]))
        common_key, own_key = jax.random.split(key)
        draw = partial(jax.random.uniform, dtype=dtype, minval=-bound, maxval=bound)
        return draw(common_key, (1, *shape[1:])) + spread * draw(own_key, shape)

    return init


def convolve(
    x: Float[Array, "b h w c"],
    kernels: Float[Array, "k 3 3 c d"],
    weights: Float[Array, "_ k"],
    padding: Padding = "zeros",
    implementation: Implementation = "patches",
) -> Float[Array, "b h w d"]:
    """Returns each example convolved with its own mixture of the kernels.

    Args:
      x: feature maps.
      kernels: the experts.
      weights: of the experts; one row if all examples have the same weights. The
        kernels are then summed once and the convolution is an ordinary one.
      padding: what lies outside the map: zeros, or the nearest pixel.
      implementation: "experts" convolves with all kernels and sums the results, K times
        the arithmetic. "grouped" sums the kernels of each example and convolves in
        groups. "patches" does the same as one matrix product per example, with nine
        copies of the map in memory; it is the fastest of the three on CPU
        (benchmarks/RESULTS.md).

    Raises:
      ValueError: if the implementation is unknown.
    """
    dtype = x.dtype
    if weights.shape[0] == 1:
        # einsum in float32, the result in the type of the map.
        kernel = jnp.einsum("k,kyxcd->yxcd", weights[0], kernels)
        return conv3x3(x, kernel.astype(dtype), padding)
    match implementation:
        case "experts":
            k, d = kernels.shape[0], kernels.shape[-1]
            joined = jnp.moveaxis(kernels, 0, 3).reshape(3, 3, -1, k * d)
            y = conv3x3(x, joined.astype(dtype), padding)
            y = y.reshape(*y.shape[:3], k, d)
            return jnp.einsum("bhwkd,bk->bhwd", y, weights.astype(dtype))
        case "grouped":
            own = _mix(kernels, weights).astype(dtype)
            return jax.vmap(lambda x, k: conv3x3(x[None], k, padding)[0])(x, own)
        case "patches":
            return _by_patches(padding, x, kernels, weights)
    raise ValueError(
        f"implementation={implementation!r} must be patches, experts or grouped"
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_patches(padding: Padding, x: Array, kernels: Array, weights: Array) -> Array:
    b, h, w, _ = x.shape
    y = _patches(x, padding) @ _matrices(kernels, weights).astype(x.dtype)
    return y.reshape(b, h, w, -1)


# Derived by hand: automatic differentiation keeps nine copies of the map and a kernel
# per example for the backward pass, and takes up to twice as long. Computing both again
# is cheap compared with the products.


def _by_patches_forward(
    padding: Padding, x: Array, kernels: Array, weights: Array
) -> tuple[Array, tuple[Array, ...]]:
    return _by_patches(padding, x, kernels, weights), (x, kernels, weights)


def _by_patches_backward(
    padding: Padding, saved: tuple[Array, ...], dy: Array
) -> tuple[Array, Array, Array]:
    x, kernels, weights = saved
    b, k, d = len(x), len(kernels), kernels.shape[-1]
    dy = dy.reshape(b, -1, d)
    patches, unpatch = jax.vjp(partial(_patches, padding=padding), x)
    matrices = _matrices(kernels, weights).astype(x.dtype)
    (dx,) = unpatch(jnp.einsum("bno,bco->bnc", dy, matrices))
    # The gradient of each example's matrix, transposed: faster on XLA's CPU backend.
    own = jnp.einsum("bno,bnc->boc", dy, patches).astype(jnp.float32).reshape(b, -1)
    dkernels = (weights.T @ own).reshape(k, d, -1).swapaxes(1, 2)
    transposed = kernels.reshape(k, -1, d).swapaxes(1, 2).reshape(k, -1)
    return dx, dkernels.reshape(kernels.shape), own @ transposed.T


_by_patches.defvjp(_by_patches_forward, _by_patches_backward)


def conv3x3(x: Array, kernel: Array, padding: Padding = "zeros") -> Array:
    """Returns [b, h, w, d], x [b, h, w, c] convolved with one kernel [3, 3, c, d]."""
    window = "SAME"
    if padding == "edge":
        x, window = _pad(x, padding), "VALID"
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), window, dimension_numbers=numbers
    )


def _mix(kernels: Array, weights: Array) -> Array:
    """Returns the kernel of each example, [b, 3, 3, c, d]."""
    k, *shape = kernels.shape
    return (weights @ kernels.reshape(k, -1)).reshape(-1, *shape)


def _matrices(kernels: Array, weights: Array) -> Array:
    """Returns the kernel of each example as a matrix, [b, 9 c, d]."""
    return _mix(kernels, weights).reshape(len(weights), -1, kernels.shape[-1])


def _patches(x: Array, padding: Padding) -> Array:
    """Returns the 3x3 pixels around each pixel, [b, h w, 9 c]."""
    b, h, w, c = x.shape
    x = _pad(x, padding)
    shifted = [x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1).reshape(b, h * w, 9 * c)


def _pad(x: Array, padding: Padding) -> Array:
    mode = "edge" if padding == "edge" else "constant"
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
