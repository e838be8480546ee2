"""The state of a training run: exactly the arrays that a checkpoint holds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from simple_diffusion.core import rng
from simple_diffusion.core.types import Key, Params
from simple_diffusion.training import sharding
from simple_diffusion.training.ema import Average
from simple_diffusion.training.optimizer import Optimizer


@flax.struct.dataclass
class TrainState:
    """All arrays that a step reads and writes.

    step: number of completed steps, int32. Random keys and data order depend on it.
    params: float32 parameters.
    ema: averages of the parameters by name.
    opt_state: state of the optimizer.
    skipped: number of steps that changed nothing because a loss or gradient was not
      finite, int32; the number of updates is step - skipped.
    skipped_in_row: number of skipped steps since the last update, int32.
    """

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    skipped: Any
    skipped_in_row: Any

    @property
    def updates(self) -> Int[Array, ""]:
        """The number of updates so far."""
        return self.step - self.skipped


class Blueprint(NamedTuple):
    """The plan of a state that is not allocated yet.

    abstract: its shapes, dtypes and shardings (a `TrainState` of `ShapeDtypeStruct`).
    create: allocates it; each device creates only its own part.
    """

    abstract: TrainState
    create: Callable[[], TrainState]

    @property
    def shardings(self) -> TrainState:
        """The sharding of each array."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)


def blueprint(
    init: Callable[[Key], Params],
    optimizer: Optimizer,
    averages: Mapping[str, Average],
    *,
    mesh: Mesh,
    rules: sharding.Rules = sharding.RULES,
    seed: int = 0,
    averaged: Callable[[Params], Params] = lambda params: params,
) -> Blueprint:
    """Returns the plan of a state, without allocating it.

    Args:
      init: key -> parameters.
      optimizer: creates `opt_state`.
      averages: the averages to track, by name; each starts at the initial parameters.
      mesh: see `sharding.make_mesh`.
      rules: how arrays are sharded.
      seed: of the run; the initial parameters depend on it alone.
      averaged: parameters -> those that are averaged.
    """

    def initial() -> TrainState:
        params = init(rng.derive_key(seed, 0, "init"))
        return TrainState(
            step=jnp.int32(0),
            params=params,
            ema={name: jax.tree.map(jnp.copy, averaged(params)) for name in averages},
            opt_state=optimizer.transform.init(params),
            skipped=jnp.int32(0),
            skipped_in_row=jnp.int32(0),
        )

    shapes = jax.eval_shape(initial)
    shardings = sharding.state_shardings(shapes, mesh, rules)
    abstract = jax.tree.map(
        lambda leaf, leaf_sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf_sharding
        ),
        shapes,
        shardings,
    )
    return Blueprint(abstract, jax.jit(initial, out_shardings=shardings))
