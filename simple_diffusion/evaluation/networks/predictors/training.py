"""How a predictor is trained, applied and kept: the same for each of them.

A predictor is trained on real images alone, with some noise as samples may have it, and
is then applied to samples and to held-out real images alike. What it reads wrongly on
the latter is its own share of the errors.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, Float, Shaped, UInt8

from simple_diffusion.core import images
from simple_diffusion.core.types import Params
from simple_diffusion.evaluation.networks import stored_weights
from simple_diffusion.evaluation.networks.stored_weights import DETERMINISTIC

# Version of what the networks compute from weights of the same shapes. Files of another
# version are not loaded.
_VERSION = 1
_AT_ONCE = 64  # images
_REPORTS = 4

Targets = Mapping[str, Shaped[np.ndarray, "b *_"]]
Loss = Callable[[Any, Mapping[str, Array]], Array]


class TrainingBatch(NamedTuple):
    """Real images and what is to be read from them; all batches have one size."""

    images: UInt8[np.ndarray, "b h w 3"]
    targets: Targets


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters: with the images they determine the weights.

    Fields:
      size: height and width of the input; other images are resized to it.
      data: identifies the training images, such as a hash. Weights that were saved for
        other data are not loaded.
      steps: number of updates.
      seed: of the initial weights and the noise.
      learning_rate: initial rate of Adam; decays to 0 as a cosine.
      noise: largest standard deviation of the noise, in levels of 255.
    """

    size: tuple[int, int]
    data: str = ""
    steps: int = 800
    seed: int = 0
    learning_rate: float = 2e-3
    noise: float = 10.0


class Task(NamedTuple):
    """What a predictor learns.

    Fields:
      name: of the predictor.
      network: images [b, h, w, 3] in [-1, 1] -> a tree of arrays [b, ...].
      loss: (outputs of the network, targets) -> a scalar.
      about: what else the weights depend on, as plain JSON.
    """

    name: str
    network: nn.Module
    loss: Loss
    about: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A trained predictor: uint8 images of any size -> outputs on the host."""

    task: Task
    recipe: Recipe
    params: Params

    def __call__(self, pictures: UInt8[np.ndarray, "n h w c"]) -> Any:
        """Returns the outputs of the network, a tree of arrays [n, ...]."""
        apply = jax.jit(functools.partial(_apply_to_pixels, self.task, self.recipe))
        n, parts = len(pictures), []
        for start in range(0, n, _AT_ONCE):
            part = images.to_rgb(pictures[start : start + _AT_ONCE])
            # One shape, so that the network is compiled once.
            padding = ((0, _AT_ONCE - len(part)), (0, 0), (0, 0), (0, 0))
            parts.append(jax.device_get(apply(self.params, np.pad(part, padding))))
        return jax.tree.map(lambda *rows: np.concatenate(rows)[:n], *parts)

    @property
    def digest(self) -> str:
        """A hash of the weights."""
        return stored_weights.digest(self.params)


def train(
    task: Task,
    recipe: Recipe,
    batches: Iterator[TrainingBatch],
    log: Callable[[str], None],
) -> Predictor:
    """Trains a predictor on one local device.

    Args:
      task: what it learns.
      recipe: the hyperparameters.
      batches: as many as the recipe has steps, of the size of the recipe.
      log: called with lines about the progress.

    Raises:
      ValueError: for too few batches.
    """
    with jax.default_device(jax.local_devices()[0]):
        params = _fit(task, recipe, batches, log)
    return Predictor(task, recipe, jax.tree.map(np.asarray, params))


def _fit(
    task: Task,
    recipe: Recipe,
    batches: Iterator[TrainingBatch],
    log: Callable[[str], None],
) -> Params:
    key, noise_key = jax.random.split(jax.random.key(recipe.seed))
    blank = jnp.zeros((1, *recipe.size, 3))
    params = jax.jit(task.network.init)(key, blank)["params"]
    optimizer = optax.adam(
        optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    )

    def loss(params: Params, x: Array, targets: Mapping[str, Array]) -> Array:
        return task.loss(task.network.apply({"params": params}, x), targets)

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=DETERMINISTIC)
    def update(state: Any, step: Array, batch: TrainingBatch) -> tuple[Any, Array]:
        params, opt_state = state
        x = _add_noise(
            images.to_unit_range(jnp.asarray(batch.images)),
            jax.random.fold_in(noise_key, step),
            recipe.noise,
        )
        value, grads = jax.value_and_grad(loss)(params, x, batch.targets)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    state, recent = (params, jax.jit(optimizer.init)(params)), []
    for step in range(1, recipe.steps + 1):
        batch = next(batches, None)
        if batch is None:
            raise ValueError(f"the batches ended before the {task.name} was trained")
        state, value = update(state, jnp.uint32(step), batch)
        recent.append(value)
        if step % max(1, recipe.steps // _REPORTS) == 0 or step == recipe.steps:
            mean = float(np.mean(jax.device_get(recent)))
            log(f"{task.name}: step {step}/{recipe.steps}, loss {mean:.3f}")
            recent = []
    return state[0]


def _add_noise(
    x: Float[Array, "b h w c"], key: Array, most: float
) -> Float[Array, "b h w c"]:
    """Returns images with noise, of another strength for each."""
    strength_key, key = jax.random.split(key)
    strength = jax.random.uniform(strength_key, (len(x), 1, 1, 1)) * (most / 127.5)
    return jnp.clip(x + strength * jax.random.normal(key, x.shape), -1, 1)


def _apply_to_pixels(
    task: Task, recipe: Recipe, params: Params, pictures: UInt8[Array, "b h w 3"]
) -> Any:
    x = images.to_unit_range(pictures)
    # With antialiasing 'linear' is a weighted mean over all the pixels of a cell.
    x = jax.image.resize(x, (len(x), *recipe.size, 3), "linear")
    return task.network.apply({"params": params}, x)


def save(predictor: Predictor, path: epath.PathLike) -> None:
    """Writes a predictor as .npz, atomically."""
    about = _describe(predictor.task, predictor.recipe)
    stored_weights.save(predictor.params, about, path)


def load(path: epath.PathLike, task: Task, recipe: Recipe) -> Predictor | None:
    """Returns a saved predictor, or None if it must be trained.

    None is for a missing, unreadable or damaged file, or one of another task or recipe.
    """
    params = stored_weights.load(path, _describe(task, recipe))
    return None if params is None else Predictor(task, recipe, params)


def _describe(task: Task, recipe: Recipe) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "task": task.name,
        **task.about,
        **dataclasses.asdict(recipe),
    }
