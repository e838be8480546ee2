"""A trained model: its network, its weights, and their devices."""

import dataclasses
from collections.abc import Callable

from jax.sharding import Mesh

from simple_diffusion.build.codec import PIXELS
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.build.network import Network
from simple_diffusion.core.types import Codec, Request, Weights

Examples = Callable[[int, tuple[int, int]], Request]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model, as all pipelines use it.

    net: the network, and the process that it denoises.
    weights: on the devices.
    mesh: the devices.
    classes: class names; () for a model without classes.
    step: of the checkpoint.
    weak: the weaker model for guidance; None without one.
    codec: to and from the space of the model.
    lexicon: words and names that its conditions know.
    examples: (number, height and width) -> a request for images like so many held-out
      examples; None where there is no data source.
    """

    net: Network
    weights: Weights
    mesh: Mesh
    classes: tuple[str, ...] = ()
    step: int | None = None
    weak: Network | None = None
    codec: Codec = PIXELS
    lexicon: Lexicon = dataclasses.field(default_factory=Lexicon)
    examples: Examples | None = None
