"""What a network is conditioned on, as one vector: noise level, class, scale."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets.layers import ACTIVATIONS, Activation
from simple_diffusion.nets.position import Scale

LogsnrInput = Literal["linear", "sigmoid", "inv_cos", "flow"]
LOGSNR_INPUTS: tuple[str, ...] = get_args(LogsnrInput)


def logsnr_input(
    kind: LogsnrInput, logsnr: Float[Array, "*s"], low: float, high: float
) -> Float[Array, "*s"]:
    """Returns the noise level as a number of order one.

    Args:
      kind: "linear" maps [low, high] onto [0, 1] and extrapolates; "sigmoid" is the
        signal's share of the variance; "inv_cos" is the time at which the plain cosine
        schedule has this logsnr, "flow" that at which the rectified flow has it.
      logsnr: of any shape, float32.
      low: where "linear" is 0.
      high: where "linear" is 1.

    Raises:
      ValueError: if the kind is unknown.
    """
    match kind:
        case "linear":
            return (logsnr - low) / (high - low)
        case "sigmoid":
            return nn.sigmoid(logsnr)
        case "inv_cos":
            # Beyond 20 the time is 0 or 1 to four digits; the exponential stays finite.
            return jnp.arctan(jnp.exp(-0.5 * jnp.clip(logsnr, -20, 20))) * (2 / jnp.pi)
        case "flow":
            return nn.sigmoid(-0.5 * logsnr)
    raise ValueError(f"logsnr_input={kind!r} must be one of {LOGSNR_INPUTS}")


def sinusoid(value: Float[Array, "b"], channels: int) -> Float[Array, "b {channels}"]:
    """Returns sines, then cosines of 1000 value at wavelengths from 2π to 2π 10⁴.

    Args:
      value: of order one.
      channels: even, at least 4.
    """
    half = channels // 2
    frequency = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / (half - 1))
    angle = 1000.0 * value[:, None] * frequency[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Embedding(nn.Module):
    """Logsnr and label -> the vector that modulates every block, in float32.

    Sinusoid -> Dense -> activation -> Dense, plus a learned vector per class. A final
    activation is applied here because every block would start with it. The class table
    has one more row than there are classes: the last row stands for "no class". The
    vector of the conditioning, if any, is added through a Dense layer that starts at
    zero.

    Fields:
      channels: width of the vector.
      sinusoid_channels: width of the sinusoid, even.
      num_classes: 0 for an unconditional network.
      input: how logsnr becomes a number, see `logsnr_input`.
      input_range: the logsnr that "linear" maps to 0 and to 1.
      scale: makes the vector depend on the resolution of the full image, by two Dense
        layers like those of logsnr. None: the vector does not depend on it.
      activation: see `layers.ACTIVATIONS`.
    """

    channels: int = 1024
    sinusoid_channels: int = 128
    num_classes: int = 0
    input: LogsnrInput = "linear"
    input_range: tuple[float, float] = (-10.0, 10.0)
    scale: Scale | None = None
    activation: Activation = "swish"

    @nn.compact
    def __call__(
        self,
        logsnr: Float[Array, "b"],
        cond: Conditioning,
        full_size: Float[Array, "_ 2"] | None = None,
    ) -> Float[Array, "b d"]:
        """Returns the activated vector of each example.

        Args:
          logsnr: noise level.
          cond: its label and its vector.
          full_size: height and width of the full images in pixels, for `scale`; one
            row if all are equal.

        Raises:
          ValueError: if a label is given without classes or missing with classes.
        """
        self._check(cond)
        activate = ACTIVATIONS[self.activation]
        value = logsnr_input(self.input, logsnr.astype(jnp.float32), *self.input_range)
        h = nn.Dense(self.channels)(sinusoid(value, self.sinusoid_channels))
        h = nn.Dense(self.channels)(activate(h))
        if cond.label is not None:
            # The scale of a Dense layer on one-hot labels.
            init = nn.initializers.normal((self.num_classes + 1) ** -0.5)
            shape = (self.num_classes + 1, self.channels)
            table = self.param("classes", init, shape, jnp.float32)
            # A label out of range becomes NaN. Clipping would hide the error.
            h = h + jnp.take(table, cond.label, axis=0, mode="fill")
        if self.scale is not None:
            assert full_size is not None
            s = nn.Dense(self.channels, name="scale_1")(self.scale(full_size))
            h = h + nn.Dense(self.channels, name="scale_2")(activate(s))
        if cond.vector is not None:
            zeros = nn.initializers.zeros
            dense = nn.Dense(self.channels, kernel_init=zeros, name="vector")
            h = h + dense(cond.vector.astype(jnp.float32))
        return activate(h)

    def _check(self, cond: Conditioning) -> None:
        if cond.label is None and self.num_classes:
            raise ValueError(
                f"this network has num_classes={self.num_classes} and got no label;"
                f" label {self.num_classes} stands for no class"
            )
        if cond.label is not None and not self.num_classes:
            raise ValueError("a network with num_classes=0 got labels")


def join_image(z_t: Float[Array, "b h w c"], cond: Conditioning) -> Array:
    """Concatenates z_t and the conditioning image, if any, along the channels.

    Raises:
      ValueError: if the two differ in height or width.
    """
    if cond.image is None:
        return z_t
    if cond.image.shape[1:3] != z_t.shape[1:3]:
        raise ValueError(
            f"the conditioning image is {_size(cond.image)} and the input {_size(z_t)}"
        )
    return jnp.concatenate([z_t, cond.image.astype(z_t.dtype)], axis=-1)


def _size(x: jax.Array) -> str:
    return f"{x.shape[1]}x{x.shape[2]}"
