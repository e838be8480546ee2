"""One optimisation step, pure: (state, batch) -> (state, metrics).

The step sees neither networks nor devices, so it trains every model on every mesh. The
loop jits it with shardings.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Shaped

from simple_diffusion.core import arrays, rng
from simple_diffusion.core.types import Batch, Params
from simple_diffusion.training import ema
from simple_diffusion.training.objectives import Objective
from simple_diffusion.training.optimizer import Optimizer
from simple_diffusion.training.state import TrainState

Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

# Bounds between the logsnr bins in which the loss is reported. The first and the last
# bin are open, so that every example is counted. The bins are the same for all
# schedules, so that runs can be compared.
BIN_EDGES = tuple(float(edge) for edge in range(-12, 13, 3))

# Metrics that must be finite, in the order in which they are computed.
CHECKED_METRICS = ("loss", "grad_norm", "update_norm")


def make_train_step(
    objective: Objective,
    optimizer: Optimizer,
    averages: Mapping[str, ema.Average],
    *,
    seed: int = 0,
    accumulate: int = 1,
) -> TrainStep:
    """Returns the training step.

    Args:
      objective: per-example losses; the mean over the batch is taken here, once.
      optimizer: see `optimizer.adam`.
      averages: the tracked averages by name, the same as in the state.
      seed: of the run; all random numbers of a step follow from (seed, state.step).
      accumulate: number of microbatches; the same result in less memory.

    Returns:
      (state, batch) -> (state, metrics). If one of `CHECKED_METRICS` is not finite, the
      step keeps parameters, optimizer state and averages unchanged, counts itself
      in `skipped`, and returns `finite` = False. The metrics are scalars, apart from
      loss_bin_sum and loss_bin_count [bins], see `BIN_EDGES`; `examples` is the number
      of images.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        draw = objective.draw(rng.derive_key(seed, state.step, "objective"), batch)
        mask = jnp.asarray(batch.mask, jnp.float32)
        # Weights in the mean over the full batch: microbatches only have to be summed.
        share = mask / jnp.maximum(jnp.sum(mask), 1.0)
        losses, logsnr, grads = _gradient(
            objective, state.params, (batch, draw, share), accumulate
        )
        loss = jnp.sum(share * losses)
        new, metrics = update(state, loss, grads, optimizer, averages)
        bin_sum, bin_count = loss_per_bin(losses, logsnr, mask)
        bins = {"loss_bin_sum": bin_sum, "loss_bin_count": bin_count}
        return new, {**metrics, "examples": jnp.sum(mask), **bins}

    return train_step


def update(
    state: TrainState,
    loss: Float[Array, ""],
    grads: Params,
    optimizer: Optimizer,
    averages: Mapping[str, ema.Average],
    averaged: Callable[[Params], Params] = lambda params: params,
) -> tuple[TrainState, Metrics]:
    """Returns the state after an update, or an equal one if something is not finite.

    Args:
      state: before the update.
      loss: of the batch.
      grads: of the loss.
      optimizer: see `optimizer.adam`.
      averages: the tracked averages by name.
      averaged: parameters -> those that are averaged.
    """
    updates, opt_state = optimizer.transform.update(
        grads, state.opt_state, state.params
    )
    checked = {
        "loss": loss,
        "grad_norm": arrays.tree_norm(grads),
        "update_norm": arrays.tree_norm(updates),
    }
    finite = jnp.all(jnp.isfinite(jnp.stack([checked[k] for k in CHECKED_METRICS])))
    params = optax.apply_updates(state.params, updates)
    means = ema.update(state.ema, averaged(params), averages, state.updates + 1)
    new = TrainState(
        step=state.step + 1,
        params=_keep_if(finite, params, state.params),
        ema=_keep_if(finite, means, state.ema),
        opt_state=_keep_if(finite, opt_state, state.opt_state),
        skipped=state.skipped + ~finite,
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    return new, {
        **checked,
        "param_norm": arrays.tree_norm(new.params),
        "learning_rate": optimizer.learning_rate(state.updates),
        "finite": finite,
        "skipped": new.skipped,
        "skipped_in_row": new.skipped_in_row,
    }


def loss_per_bin(
    losses: Float[Array, "b"], logsnr: Float[Array, "b"], mask: Float[Array, "b"]
) -> tuple[Float[Array, "bins"], Float[Array, "bins"]]:
    """Returns the sum of the losses and the number of examples in each logsnr bin.

    Sums and counts can be added over steps and hosts, and their totals give the mean
    loss.
    """
    index = jnp.searchsorted(jnp.asarray(BIN_EDGES), logsnr, side="right")
    member = jax.nn.one_hot(index, len(BIN_EDGES) + 1) * mask[:, None]
    # where: 0 * nan is nan, and one bad example must not affect other bins.
    kept = jnp.where(member > 0, losses[:, None], 0.0)
    return jnp.sum(kept, axis=0), jnp.sum(member, axis=0)


def bin_names() -> list[str]:
    """Returns a name for each logsnr bin, such as "-3..0"."""
    edges = ["", *(f"{edge:g}" for edge in BIN_EDGES), ""]
    return [f"{low}..{high}" for low, high in zip(edges[:-1], edges[1:], strict=True)]


def first_bad_metric(metrics: Mapping[str, np.ndarray]) -> str | None:
    """Returns the name of the first checked metric that is not finite, if any."""
    bad = (name for name in CHECKED_METRICS if not np.isfinite(metrics[name]))
    return next(bad, None)


def _gradient(
    objective: Objective, params: Params, full_batch: Any, accumulate: int
) -> tuple[Float[Array, "b"], Float[Array, "b"], Params]:
    """Returns losses, logsnr and the gradient of the mean loss."""

    def weighted_loss(params: Params, part: Any) -> tuple[Array, tuple[Array, Array]]:
        batch, draw, share = part
        losses, aux = objective(params, batch, draw)
        return jnp.sum(share * losses), (losses, aux["logsnr"])

    gradient = jax.grad(weighted_loss, has_aux=True)
    if accumulate == 1:
        grads, (losses, logsnr) = gradient(params, full_batch)
        return losses, logsnr, grads

    # The scan takes stacks of arrays; each microbatch becomes a `Batch` again inside.
    leaves, structure = jax.tree.flatten(full_batch)

    def add(total: Params, part: list[Array]) -> tuple[Params, tuple[Array, Array]]:
        grads, aux = gradient(params, jax.tree.unflatten(structure, part))
        return jax.tree.map(jnp.add, total, grads), aux

    grads, (losses, logsnr) = jax.lax.scan(
        add,
        jax.tree.map(jnp.zeros_like, params),
        [_cut(leaf, accumulate) for leaf in leaves],
    )
    return _join(losses), _join(logsnr), grads


def _cut(v: Shaped[Array, "b ..."], parts: int) -> Shaped[Array, "parts n ..."]:
    if v.shape[0] % parts:
        raise ValueError(
            f"a batch of {v.shape[0]} cannot be cut into {parts} microbatches: "
            f"train.batch_size must be a multiple of the accumulation"
        )
    # Every parts-th example, not consecutive ones: each device then splits the examples
    # that it already holds, and none is transferred.
    return v.reshape(v.shape[0] // parts, parts, *v.shape[1:]).swapaxes(0, 1)


def _join(v: Float[Array, "parts n"]) -> Float[Array, "b"]:
    return v.swapaxes(0, 1).reshape(-1)


def _keep_if(finite: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
