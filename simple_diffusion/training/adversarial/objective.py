"""What an autoencoder and its discriminator minimise.

Of images x with reconstructions y the autoencoder minimises

    R(mean |x - y| + p LPIPS(x, y)) + regularizer + w a mean(-D(y)),

where R is the sum or the mean over the entries of an image, and the discriminator

    (mean relu(1 - D(x)) + mean relu(1 + D(y))) / 2.

a is a constant. w is the ratio of the norms of two gradients with respect to the kernel
of the decoder's last convolution: that of the first term over that of mean(-D(y)). So
both move this kernel equally, times a. Until a step that the recipe chooses, a is 0 and
the discriminator rests.

Source: Esser et al., arXiv:2012.09841, section 3.1 and eq. 7, as Rombach et al.,
arXiv:2112.10752, use it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simple_diffusion.core.types import Key, Params


class Encoded(NamedTuple):
    """What an autoencoder makes of a batch, up to its last convolution.

    features: the input of the last convolution, [b, h, w, d].
    regularizer: the term of the loss that is not about the reconstruction, [b].
    counts: how often each entry of a codebook was used, [k]; None without one.
    """

    features: Float[Array, "b h w d"]
    regularizer: Float[Array, "b"]
    counts: Float[Array, "k"] | None = None


@runtime_checkable
class Reconstruct(Protocol):
    """An autoencoder in training, up to its last convolution."""

    def __call__(
        self, params: Params, image: Float[Array, "b h w c"], keys: Key
    ) -> Encoded:
        """Returns features and regularizer; one random key per example."""
        ...


@dataclass(frozen=True)
class AdversarialObjective:
    """What both players minimise; see the module.

    reconstruct: the autoencoder up to its last convolution.
    last: (kernel, the other parameters, features) -> images.
    split: parameters of the autoencoder -> (that kernel, the other parameters).
    discriminate: (params of the discriminator, images) -> a number per patch.
    perceptual: (images, reconstructions) -> [b]; None without one.
    perceptual_weight: of it.
    adversarial_weight: a.
    adversarial_from: number of steps during which a is 0.
    reduction: R.
    """

    reconstruct: Reconstruct
    last: Callable[[Array, Params, Array], Array]
    split: Callable[[Params], tuple[Array, Params]]
    discriminate: Callable[[Params, Array], Array]
    perceptual: Callable[[Array, Array], Float[Array, "b"]] | None = None
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.5
    adversarial_from: int = 50_001
    reduction: Literal["sum", "mean"] = "sum"

    def reconstruction_loss(
        self, x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Returns the first term of each example, and its parts for the log."""
        parts = {"l1": jnp.abs(x - y).mean((1, 2, 3))}
        total = parts["l1"]
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(x, y)
            total = total + self.perceptual_weight * parts["perceptual"]
        entries = x[0].size if self.reduction == "sum" else 1
        return total * entries, parts


def codebook_health(counts: Float[Array, "k"]) -> dict[str, Float[Array, ""]]:
    """Returns which share of a codebook a batch uses, and the perplexity.

    The perplexity is exp of the entropy of the frequencies: k if all entries are
    equally frequent, 1 if a single one is used.
    """
    p = counts / jnp.maximum(counts.sum(), 1.0)
    entropy = -jnp.sum(jax.scipy.special.xlogy(p, p))
    return {
        "codebook_usage": (counts > 0).mean(),
        "codebook_perplexity": jnp.exp(entropy),
    }
