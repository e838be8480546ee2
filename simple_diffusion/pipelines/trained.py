"""A trained model: its network, its weights, and their devices."""

import dataclasses

from jax.sharding import Mesh

from simple_diffusion.build.codec import PIXELS
from simple_diffusion.build.network import Network
from simple_diffusion.core.types import Codec, Weights
from simple_diffusion.data.text.tokenizer import Tokenizer


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
    tokenizer: of its prompts; None for a model without text.
    """

    net: Network
    weights: Weights
    mesh: Mesh
    classes: tuple[str, ...] = ()
    step: int | None = None
    weak: Network | None = None
    codec: Codec = PIXELS
    tokenizer: Tokenizer | None = None
