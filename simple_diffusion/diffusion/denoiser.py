"""From a network to a denoise function: the only place where the two meet."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core.types import ApplyFn, Conditioning, DenoiseFn, Params
from simple_diffusion.diffusion import parameterization
from simple_diffusion.diffusion.process import VP, Family


def denoise_fn(
    apply: ApplyFn,
    params: Params,
    kind: str,
    cond: Conditioning,
    family: Family = VP,
) -> DenoiseFn:
    """Returns a network as a function from noisy to clean images.

    Args:
      apply: the network.
      params: its parameters.
      kind: what it predicts, one of `parameterization.KINDS`.
      cond: what it is conditioned on, one entry per image.
      family: the scale of z it was trained with.
    """

    def denoise(
        z_t: Float[Array, "b h w c"], logsnr: Float[Array, "b"]
    ) -> Float[Array, "b h w c"]:
        # The network may answer in bfloat16; from here on everything is float32.
        output = apply(params, z_t, logsnr, cond).astype(jnp.float32)
        return parameterization.to_x(kind, output, z_t, logsnr, family)

    return denoise
