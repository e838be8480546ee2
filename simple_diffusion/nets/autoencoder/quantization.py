"""Vector quantization: each feature vector becomes the nearest entry of a codebook.

Source: van den Oord et al., arXiv:1711.00937, as in Esser et al., arXiv:2012.09841.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# A table of squared distances of this many entries is 64 MB.
_DISTANCES_AT_ONCE = 2**24


class Quantized(NamedTuple):
    """The result of `quantize`.

    values: entries of the codebook; the gradient passes to the input unchanged.
    indices: their numbers.
    codebook_error: squared distance of an entry to the input, which moves the codebook
      only, mean over features.
    commitment_error: the same, which moves the input only.
    """

    values: Float[Array, "*n e"]
    indices: Int[Array, "*n"]
    codebook_error: Float[Array, "*n"]
    commitment_error: Float[Array, "*n"]


def quantize(z: Float[Array, "*n e"], codebook: Float[Array, "k e"]) -> Quantized:
    """Returns the nearest entries of a codebook, by squared distance, in float32."""
    z = z.astype(jnp.float32)
    indices = nearest(lax.stop_gradient(z), lax.stop_gradient(codebook))
    values = codebook[indices]
    return Quantized(
        values=z + lax.stop_gradient(values - z),
        indices=indices,
        codebook_error=jnp.square(values - lax.stop_gradient(z)).mean(-1),
        commitment_error=jnp.square(lax.stop_gradient(values) - z).mean(-1),
    )


def nearest(z: Float[Array, "*n e"], codebook: Float[Array, "k e"]) -> Int[Array, "*n"]:
    """Returns the number of the nearest entry; of equally near ones the first."""
    rows = z.reshape(-1, z.shape[-1])
    # |z - e|^2 without |z|^2, which does not depend on the entry.
    square = jnp.square(codebook).sum(-1)[None]

    def find(part: Float[Array, "m e"]) -> Int[Array, "m"]:
        products = jnp.matmul(part, codebook.T, precision="highest")
        return jnp.argmin(square - 2 * products, axis=-1).astype(jnp.int32)

    at_once = max(1, _DISTANCES_AT_ONCE // len(codebook))
    if len(rows) <= at_once:
        found = find(rows)
    else:
        found = lax.map(lambda row: find(row[None])[0], rows, batch_size=at_once)
    return found.reshape(z.shape[:-1])
