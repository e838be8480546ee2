"""What travels between the rooms: batches, conditioning, and the shapes of functions.

Shapes: b batch, h height, w width, c channels, n tokens, d features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax
from jaxtyping import Array, Bool, Float, Int, UInt8
from numpy import ndarray

Params = Any  # a tree of float32 arrays
Key = jax.Array  # a typed key (jax.random.key), or an array of them

HostOrDevice = Array | ndarray


@flax.struct.dataclass
class Batch:
    """One batch as it crosses from the host to the device.

    image: uint8 pixels; scaling to [-1, 1] happens on the device.
    label: class numbers from 0; all zero for a source without classes.
    box: corners (y0, x0, y1, x1) of the image in units of the full image it was cut
      from; (0, 0, 1, 1) where nothing was cut.
    mask: False marks an example that only pads the batch to its size.
    """

    image: UInt8[HostOrDevice, "b h w c"]
    label: Int[HostOrDevice, "b"]
    box: Float[HostOrDevice, "b 4"]
    mask: Bool[HostOrDevice, "b"]


@flax.struct.dataclass
class Conditioning:
    """Everything a network may be conditioned on; a field that is None is not used.

    label: class numbers; the number of classes itself is the null class.
    box: as in `Batch.box`; the network's input is that part of a full image.
    full_size: height and width in pixels of the full images, where all are of one size,
      which the compiler can make use of; None where each follows from its own box.
    tokens: features to attend to, such as embedded text, with `token_mask` True where
      a token is real.
    image: a map of the network's input size, joined to the input by channels.
    """

    label: Int[Array, "b"] | None = None
    box: Float[Array, "b 4"] | None = None
    tokens: Float[Array, "b n d"] | None = None
    token_mask: Bool[Array, "b n"] | None = None
    image: Float[Array, "b h w c"] | None = None
    full_size: tuple[int, int] | None = flax.struct.field(
        pytree_node=False, default=None
    )


@runtime_checkable
class DenoiseFn(Protocol):
    """Estimates the clean image; whatever it is conditioned on is already bound."""

    def __call__(
        self, z_t: Float[Array, "b h w c"], logsnr: Float[Array, "b"]
    ) -> Float[Array, "b h w c"]:
        """Returns x_hat, the expected clean image given z_t at this logsnr."""
        ...


@runtime_checkable
class ApplyFn(Protocol):
    """A network as a pure function; its output is of the kind it was trained for."""

    def __call__(
        self,
        params: Params,
        z_t: Float[Array, "b h w c"],
        logsnr: Float[Array, "b"],
        cond: Conditioning,
        dropout_key: Key | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns the prediction; dropout is on if and only if it has a key."""
        ...


@runtime_checkable
class WeightFn(Protocol):
    """A loss weighting, as the logarithm of a weight.

    The weight multiplies the squared error of eps, per unit of logsnr. Every weighting
    refers to this one measure, so that another training schedule changes only where the
    samples fall and not the loss.
    """

    def __call__(self, logsnr: Float[Array, "b"]) -> Float[Array, "b"]:
        """Returns log w(logsnr)."""
        ...


@runtime_checkable
class LossFn(Protocol):
    """A quadratic functional of an error, one number per example."""

    def __call__(self, error: Float[Array, "b h w c"]) -> Float[Array, "b"]:
        """Returns the loss of each example."""
        ...


class Codec(NamedTuple):
    """To and from the space in which diffusion happens, as pure functions.

    encode: (params, images in [-1, 1], [b, h, w, c]) -> x, [b, h / factor,
      w / factor, k].
    decode: (params, x) -> images in [-1, 1].
    factor: pixels per cell of x along each side; 1 for pixels.
    """

    encode: Callable[[Params, Array], Array]
    decode: Callable[[Params, Array], Array]
    factor: int = 1


PIXELS = Codec(encode=lambda params, image: image, decode=lambda params, x: x)


class Condition(NamedTuple):
    """One thing that a network is conditioned on, on its way from batch to network.

    field: of `Conditioning`, where the network finds it.
    of_batch: batch -> its value for each example, [b, ...].
    null: value -> the value that says "none"; None for what is never left out.
    drop: fraction of training examples whose value becomes the null, so that the
      network can be guided. One number is drawn for each example, so of two conditions
      the one that is dropped less often is dropped together with the other.
    """

    field: str
    of_batch: Callable[[Batch], Array]
    null: Callable[[Array], Array] | None = None
    drop: float = 0.0


class Weights(NamedTuple):
    """All the parameters that images are drawn with, as one tree of arrays.

    network: of the model.
    weak: of the weaker model to guide by; None if there is none.
    codec: of the codec; empty for pixels.
    """

    network: Params
    weak: Params | None = None
    codec: Params = ()


# (steps done, steps in all, x_hat [b, h, w, c]) -> None, on the host, while images are
# drawn; the devices do not wait for it. An exception that it raises ends the drawing.
Progress = Callable[[int, int, Any], None]


class Solver(NamedTuple):
    """One way from noise to image, as two pure functions.

    init: z_t [b, h, w, c] -> state, whatever the solver remembers between steps.
    step: (denoise, z_t, state, logsnr_t, logsnr_s, keys) -> (z_s, state), for scalars
      logsnr_t < logsnr_s and keys [b], one per image. A solver sees neither t nor a
      schedule.
    """

    init: Any
    step: Any
