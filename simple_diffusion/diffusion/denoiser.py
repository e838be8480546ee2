"""Turns a network and its parameters into a denoise function."""

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
    """Binds a network, parameters and conditioning to a denoise function.

    Args:
      apply: the network.
      params: its parameters.
      kind: what it predicts, one of `parameterization.KINDS`.
      cond: what it is conditioned on, one entry per image.
      family: the scale of z that the network was trained with.
    """

    def denoise(
        z_t: Float[Array, "b h w c"], logsnr: Float[Array, "b"]
    ) -> Float[Array, "b h w c"]:
        # alpha and sigma make x_hat float32, even if the network answers in bfloat16.
        output = apply(params, z_t, logsnr, cond)
        return parameterization.to_x(kind, output, z_t, logsnr, family)

    return denoise
