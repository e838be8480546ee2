"""One step of both players: an autoencoder, and the discriminator that it trains with.

Pure, with the signature of `training.step.make_train_step`, so that the loop does not
change. The parameters are {"autoencoder": ..., "discriminator": ...}; both have one
optimizer, whose moments are their own, and only the autoencoder is averaged. In the
sources of the objective the players take turns, and the discriminator sees the
reconstructions of an autoencoder that has just been updated; here both see the same
ones, which saves a forward pass.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simple_diffusion.core import arrays, images, rng
from simple_diffusion.core.types import Batch, Params
from simple_diffusion.training import ema, step
from simple_diffusion.training.adversarial.objective import (
    AdversarialObjective,
    Encoded,
    codebook_health,
)
from simple_diffusion.training.optimizer import Optimizer
from simple_diffusion.training.state import TrainState

AUTOENCODER, DISCRIMINATOR = "autoencoder", "discriminator"
# Added to the norm by which the adversarial weight is divided, and its largest value.
_SMALLEST_NORM, _LARGEST_WEIGHT = 1e-4, 1e4


class _Play(NamedTuple):
    """The game on one batch.

    push: gradient of mean(-D(y)) with respect to the reconstructions.
    adversarial: its value.
    loss: of the discriminator.
    grads: of that loss.
    real, fake: mean of D of images and of reconstructions.
    """

    push: Array
    adversarial: Array
    loss: Array
    grads: Params
    real: Array
    fake: Array


def make_adversarial_step(
    objective: AdversarialObjective,
    optimizer: Optimizer,
    averages: Mapping[str, ema.Average],
    *,
    seed: int = 0,
) -> step.TrainStep:
    """Returns the training step of both players.

    Args:
      objective: of both.
      optimizer: of both; a clipping norm is that of both gradients together.
      averages: of the autoencoder, by name, the same as in the state.
      seed: of the run; all random numbers of a step follow from (seed, state.step).

    Returns:
      (state, batch) -> (state, metrics), as `step.make_train_step`. The metrics have no
      bins of logsnr. `means` holds l1, perceptual, regularizer, adversarial_weight,
      the loss of the discriminator, what it says of images and reconstructions, and
      usage and perplexity of a codebook, as far as they exist.
    """

    def adversarial_step(
        state: TrainState, batch: Batch
    ) -> tuple[TrainState, step.Metrics]:
        x = images.to_unit_range(jnp.asarray(batch.image))
        key = rng.derive_key(seed, state.step, "objective")
        keys = rng.derive_example_keys(key, jnp.arange(len(x)))
        mask = jnp.asarray(batch.mask, jnp.float32)
        share = mask / jnp.maximum(mask.sum(), 1.0)
        params, rival = state.params[AUTOENCODER], state.params[DISCRIMINATOR]

        def forward(params: Params) -> tuple[tuple[Array, Array], Encoded]:
            encoded = objective.reconstruct(params, x, keys)
            y = objective.last(*objective.split(params), encoded.features)
            return (y, jnp.sum(share * encoded.regularizer)), encoded

        (y, regularizer), pull_back, encoded = jax.vjp(forward, params, has_aux=True)
        features = lax.stop_gradient(encoded.features)
        kernel, others = objective.split(params)

        def first_term(y: Array) -> tuple[Array, dict[str, Array]]:
            losses, parts = objective.reconstruction_loss(x, y)
            return jnp.sum(share * losses), {
                name: jnp.sum(share * value) for name, value in parts.items()
            }

        (loss, parts), pull = jax.value_and_grad(first_term, has_aux=True)(y)
        play = lax.cond(
            state.step >= objective.adversarial_from,
            lambda: _play(objective, rival, x, y, share),
            lambda: _rest(rival, y),
        )
        _, to_kernel = jax.vjp(
            lambda kernel: objective.last(kernel, others, features), kernel
        )
        weight = objective.adversarial_weight * _balance(
            to_kernel(pull)[0], to_kernel(play.push)[0]
        )
        # Before the game starts, its push is 0, and the ratio means nothing.
        weight = jnp.where(state.step >= objective.adversarial_from, weight, 0.0)
        (grads,) = pull_back((pull + weight * play.push, jnp.ones_like(regularizer)))
        total = loss + regularizer + weight * play.adversarial
        new, metrics = step.update(
            *(state, total),
            {AUTOENCODER: grads, DISCRIMINATOR: play.grads},
            *(optimizer, averages),
            averaged=lambda params: params[AUTOENCODER],
        )
        means = parts | {
            "regularizer": regularizer,
            "adversarial_weight": weight,
            "discriminator_loss": play.loss,
            "discriminator_real": play.real,
            "discriminator_fake": play.fake,
        }
        if encoded.counts is not None:
            means |= codebook_health(encoded.counts)
        return new, metrics | {"examples": mask.sum(), "means": means}

    return adversarial_step


def _balance(pull: Array, push: Array) -> Float[Array, ""]:
    """Returns the weight at which a push has the norm of a pull, bounded."""
    ratio = arrays.tree_norm(pull) / (arrays.tree_norm(push) + _SMALLEST_NORM)
    return jnp.clip(ratio, 0.0, _LARGEST_WEIGHT)


def _play(
    objective: AdversarialObjective, rival: Params, x: Array, y: Array, share: Array
) -> _Play:
    def fool(y: Array) -> Array:
        return -_mean(objective.discriminate(rival, y), share)

    def tell_apart(rival: Params) -> tuple[Array, tuple[Array, Array]]:
        real = objective.discriminate(rival, x)
        fake = objective.discriminate(rival, lax.stop_gradient(y))
        loss = _mean(jax.nn.relu(1 - real), share) + _mean(jax.nn.relu(1 + fake), share)
        return 0.5 * loss, (_mean(real, share), _mean(fake, share))

    adversarial, push = jax.value_and_grad(fool)(y)
    (loss, (real, fake)), grads = jax.value_and_grad(tell_apart, has_aux=True)(rival)
    return _Play(push, adversarial, loss, grads, real, fake)


def _rest(rival: Params, y: Array) -> _Play:
    zero = jnp.zeros((), jnp.float32)
    grads: Any = jax.tree.map(jnp.zeros_like, rival)
    return _Play(jnp.zeros_like(y), zero, zero, grads, zero, zero)


def _mean(values: Float[Array, "b p q 1"], share: Float[Array, "b"]) -> Array:
    return jnp.sum(share * values.mean((1, 2, 3)))
