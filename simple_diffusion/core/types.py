"""Types that packages exchange: batches, conditioning, and function signatures.

Shapes: b batch, h height, w width, c channels, n tokens, d features.
"""

from collections.abc import Callable, Mapping
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
    """One batch, as it is copied from the host to the device.

    image: uint8 pixels; scaling to [-1, 1] happens on the device.
    label: class numbers from 0; all zero for a source without classes.
    box: corners (y0, x0, y1, x1) of the image in units of its full image; (0, 0, 1, 1)
      for a full image.
    mask: False for examples that only pad the batch.
    fields: arrays [b, ...] by name, which the conditions need besides: what the host
      encoders have made of captions, objects, maps and vectors.
    """

    image: UInt8[HostOrDevice, "b h w c"]
    label: Int[HostOrDevice, "b"]
    box: Float[HostOrDevice, "b 4"]
    mask: Bool[HostOrDevice, "b"]
    fields: Mapping[str, HostOrDevice] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Conditioning:
    """Everything that may condition a network; a field that is None is not used.

    label: class numbers; the number of classes itself is the null class.
    box: as in `Batch.box`; the network's input is that part of a full image.
    full_size: height and width in pixels of the full images if they all have one size,
      which lets the compiler simplify; None if each size follows from its own box.
    tokens: features for cross-attention, such as embedded text; `token_mask` is True
      for real tokens and False for padding.
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
    """Estimates the clean image; all conditions are already bound."""

    def __call__(
        self, z_t: Float[Array, "b h w c"], logsnr: Float[Array, "b"]
    ) -> Float[Array, "b h w c"]:
        """Returns x_hat, the expected clean image given z_t at this logsnr."""
        ...


@runtime_checkable
class ApplyFn(Protocol):
    """A network as a pure function; it returns the kind of prediction it learned."""

    def __call__(
        self,
        params: Params,
        z_t: Float[Array, "b h w c"],
        logsnr: Float[Array, "b"],
        cond: Conditioning,
        dropout_key: Key | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns the prediction; dropout is active if and only if a key is given."""
        ...


@runtime_checkable
class WeightFn(Protocol):
    """A loss weighting, as the logarithm of a weight.

    The weight multiplies the squared error of eps per unit of logsnr. All weightings
    use this one measure, so that the training schedule changes only how logsnr is
    sampled and not the expected loss.
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
    """One condition of a network, and how its value is taken from a batch.

    field: the field of `Conditioning` from which the network reads it.
    of_batch: batch -> its value for each example, [b, ...].
    null: value -> the value that means "none"; None for a condition that is never
      dropped.
    drop: fraction of training examples whose value becomes the null, for guidance. One
      random number per example decides for all conditions: whenever the condition with
      the lower fraction is dropped, the other one is dropped as well.
    """

    field: str
    of_batch: Callable[[Batch], Array]
    null: Callable[[Array], Array] | None = None
    drop: float = 0.0


class Weights(NamedTuple):
    """All parameters that sampling needs, as one tree of arrays.

    network: of the model.
    weak: of the weaker model for guidance; None without one.
    codec: of the codec; empty for pixels.
    """

    network: Params
    weak: Params | None = None
    codec: Params = ()


# (steps done, total steps, x_hat [b, h, w, c]) -> None. Called on the host during
# sampling; the devices do not wait for it. An exception that it raises stops sampling.
Progress = Callable[[int, int, Any], None]


class Solver(NamedTuple):
    """A solver as two pure functions.

    init: z_t [b, h, w, c] -> state, which the solver passes from step to step.
    step: (denoise, z_t, state, logsnr_t, logsnr_s, keys) -> (z_s, state), for scalars
      logsnr_t < logsnr_s and keys [b], one per image. A solver gets neither t nor a
      schedule.
    """

    init: Any
    step: Any
