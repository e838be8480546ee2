"""A small classifier of the data source as a feature network: nothing to download.

It is trained, in seconds to a minute, on the labelled images that the model is trained
on. Its features combine content (the last hidden vector, and the spatial mean of an
early map) with low-level statistics (colours, and differences of neighbouring pixels).
The former detect missing and confused classes; the latter detect blur, noise and JPEG
blocks, which a classifier learns to ignore. Each feature is normalised to mean 0 and
standard deviation 1 over training images.

Distances on these features are named after the source, such as fd_scenes, and cannot be
compared with others.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, Float, UInt8

from simple_diffusion.core import images
from simple_diffusion.core.types import Batch, Params
from simple_diffusion.evaluation.networks import stored_weights
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork, Outputs

# Version of what `_Network` computes from weights of the same shapes. Files of another
# version are not loaded.
_VERSION = 1
_GRID = 4  # side of the map that the hidden layer reads
_SMALLEST = 8  # side at which the third octave still has neighbouring pixels
_OCTAVES = 3
_DIFFERENCE_SCALE = 8.0  # in [-1, 1]; a unit is 16 of the 255 levels
_STATISTICS_BATCHES = 16
_REPORTS = 5


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters: with the images they determine the weights.

    Fields:
      side: images are resized to side x side first, whatever their shape; at least 8.
      num_classes: at least 2.
      channels: of the images, 1 or 3.
      data: identifies the training images, such as a hash. Weights that were saved for
        other data are not loaded.
      steps: number of updates.
      batch_size: examples per batch.
      seed: of the initial weights.
      learning_rate: initial rate of Adam; decays to 0 as a cosine.
      widths: channels of the convolutions, at least two; each halves the map.
      hidden: length of the last hidden vector.
    """

    side: int
    num_classes: int
    channels: int = 3
    data: str = ""
    steps: int = 300
    batch_size: int = 64
    seed: int = 0
    learning_rate: float = 2e-3
    widths: tuple[int, ...] = (16, 32, 64)
    hidden: int = 64

    def __post_init__(self):
        if self.num_classes < 2:
            raise ValueError(
                f"a classifier needs at least 2 classes, got {self.num_classes}; the "
                "the features of network thumbnail need none"
            )
        if self.side < _SMALLEST:
            raise ValueError(f"side={self.side} must be at least {_SMALLEST}")


class _Network(nn.Module):
    recipe: Recipe

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b n"]]:
        """Returns features and logits of images in [-1, 1]."""
        features = [_low_level_features(x)]
        for k, width in enumerate(self.recipe.widths):
            x = nn.Conv(width, (3, 3), precision="highest", name=f"conv{k}")(x)
            x = nn.gelu(x)
            if min(x.shape[1:3]) > _GRID:
                x = nn.avg_pool(x, (2, 2), (2, 2))
            if k == 1:  # the map of colours and small shapes
                features.append(x.mean((1, 2)))
        x = jax.image.resize(x, (len(x), _GRID, _GRID, x.shape[-1]), "linear")
        x = x.reshape(len(x), -1)
        x = nn.Dense(self.recipe.hidden, precision="highest", name="hidden")(x)
        x = nn.gelu(x)
        head = nn.Dense(self.recipe.num_classes, precision="highest", name="logits")
        return jnp.concatenate([*features, x], -1), head(x)


def _low_level_features(x: Float[Array, "b h w c"]) -> Float[Array, "b l"]:
    """Returns mean and deviation of each colour, and differences of neighbours.

    Differences are averaged over three octaves as logarithms, so that a little noise
    everywhere counts as well as the few large steps at edges.
    """
    features = [x.mean((1, 2)), jnp.sqrt(x.var((1, 2)) + 1e-8)]
    for _ in range(_OCTAVES):
        for axis in (1, 2):
            steps = jnp.abs(jnp.diff(x, axis=axis)) * _DIFFERENCE_SCALE
            features.append(jnp.log1p(steps).mean((1, 2)))
        x = nn.avg_pool(x, (2, 2), (2, 2))
    return jnp.concatenate(features, -1)


def train(
    recipe: Recipe,
    batches: Iterator[Batch],
    name: str,
    class_names: Sequence[str],
    log: Callable[[str], None],
) -> FeatureNetwork:
    """Trains a classifier and returns it as a feature network.

    It runs on one local device. With several processes each trains its own, and each
    needs the full batches.

    Args:
      recipe: the hyperparameters.
      batches: of the source's training images, of any one size; a few more than the
        steps are read. Examples whose mask is False do not count.
      name: of the data source.
      class_names: one for each class.
      log: called with lines about the progress.

    Raises:
      ValueError: for too few batches, or batches that do not fit the recipe.
    """
    if len(class_names) != recipe.num_classes:
        raise ValueError(
            f"{len(class_names)} names for {recipe.num_classes} classes: {class_names}"
        )
    with jax.default_device(jax.local_devices()[0]):
        weights = _fit(recipe, batches, name, log)
        mean, scale = _statistics(recipe, weights, batches)
    params = {"weights": weights, "mean": mean, "scale": scale}
    return network(jax.tree.map(np.asarray, params), recipe, name, class_names)


def _fit(
    recipe: Recipe, batches: Iterator[Batch], name: str, log: Callable[[str], None]
) -> Params:
    """Returns the weights of `_Network`."""
    shape = 1, recipe.side, recipe.side, recipe.channels
    key = jax.random.key(recipe.seed)
    params = jax.jit(_Network(recipe).init)(key, jnp.zeros(shape))["params"]
    rate = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    optimizer = optax.adam(rate)

    @functools.partial(
        jax.jit, donate_argnums=0, compiler_options=stored_weights.DETERMINISTIC
    )
    def update(state: Any, image: Array, label: Array, mask: Array) -> Any:
        params, opt_state = state

        def loss(params: Params) -> tuple[Array, Array]:
            _, logits = _apply_to_pixels(recipe, params, image)
            target = jax.nn.one_hot(label, recipe.num_classes)
            losses = optax.softmax_cross_entropy(logits, target)
            correct = jnp.argmax(logits, -1) == label
            both = jnp.stack([losses, correct]) * mask[None]
            mean = both.sum(1) / jnp.maximum(mask.sum(), 1)
            return mean[0], mean

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), metrics

    state, recent = (params, jax.jit(optimizer.init)(params)), []
    every = max(1, recipe.steps // _REPORTS)
    for step in range(1, recipe.steps + 1):
        state, metrics = update(state, *_next(recipe, batches))
        recent.append(metrics)
        if step % every == 0 or step == recipe.steps:
            loss, accuracy = np.mean(recent, axis=0)
            recent = []
            log(
                f"classifier of {name}: step {step}/{recipe.steps}, loss {loss:.3f}, "
                f"accuracy {accuracy:.1%}"
            )
            is_weak = accuracy < _weak_accuracy(recipe.num_classes)
    if is_weak:
        log(
            f"the classifier of {name} hardly distinguishes the classes: its accuracy "
            "means little, and distances on its features are less sensitive"
        )
    return state[0]


def _weak_accuracy(num_classes: int) -> float:
    """Returns three times chance, at most half-way from chance to 1."""
    return min(3 / num_classes, (1 + 1 / num_classes) / 2)


def _next(recipe: Recipe, batches: Iterator[Batch]) -> tuple[np.ndarray, ...]:
    """Returns images, labels and mask of the next batch, checked by the recipe."""
    batch = next(batches, None)
    if batch is None:
        raise ValueError("the batches ended before the classifier was trained")
    image, label, mask = (np.asarray(v) for v in (batch.image, batch.label, batch.mask))
    if (len(image), image.shape[-1]) != (recipe.batch_size, recipe.channels):
        raise ValueError(
            f"the batch has {len(image)} images of {image.shape[-1]} channels, the "
            f"recipe {recipe.batch_size} of {recipe.channels}"
        )
    wrong = label[mask & ((label < 0) | (label >= recipe.num_classes))]
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is not in 0..{recipe.num_classes - 1}")
    return image, label.astype(np.int32), mask


def _statistics(
    recipe: Recipe, weights: Params, batches: Iterator[Batch]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the inverse deviation of each feature, in float32."""

    @functools.partial(jax.jit, compiler_options=stored_weights.DETERMINISTIC)
    def features(image: Array) -> Array:
        return _apply_to_pixels(recipe, weights, image)[0]

    parts = []
    for _ in range(_STATISTICS_BATCHES):
        image, _, mask = _next(recipe, batches)
        parts.append(np.asarray(features(image))[mask])
    rows = np.concatenate(parts).astype(np.float64)
    if len(rows) < 2:
        raise ValueError(f"features of {len(rows)} training images have no deviation")
    deviation = rows.std(0)
    # A feature that is nearly constant on training images would explode on others.
    floor = max(0.1 * float(np.median(deviation)), 1e-6)
    scale = 1 / np.maximum(deviation, floor)
    return rows.mean(0).astype(np.float32), scale.astype(np.float32)


def _apply_to_pixels(
    recipe: Recipe, weights: Params, image: UInt8[Array, "b h w c"]
) -> tuple[Array, Array]:
    shape = len(image), recipe.side, recipe.side, recipe.channels
    x = images.to_unit_range(image)
    # With antialiasing 'linear' is a weighted mean over all the pixels of a cell.
    x = jax.image.resize(x, shape, "linear")
    outputs: Any = _Network(recipe).apply({"params": weights}, x)
    return outputs


def _apply(recipe: Recipe, params: Params, image: UInt8[Array, "b h w c"]) -> Outputs:
    if image.shape[-1] != recipe.channels:
        raise ValueError(
            f"the classifier was trained on images of {recipe.channels} channels, got "
            f"{image.shape[-1]}"
        )
    features, logits = _apply_to_pixels(recipe, params["weights"], image)
    features = (features - params["mean"][None]) * params["scale"][None]
    return Outputs(features, logits=logits)


def network(
    params: Params, recipe: Recipe, name: str, class_names: Sequence[str]
) -> FeatureNetwork:
    """Returns the classifier with the weights that `train` computed.

    Args:
      params: a tree of arrays on the host.
      recipe: its hyperparameters.
      name: of the data source.
      class_names: one for each class.
    """
    digest = stored_weights.digest(params)
    apply = functools.partial(_apply, recipe)
    return FeatureNetwork(
        name, digest, "area", params, apply, tuple(class_names), _VERSION
    )


def _describe(recipe: Recipe, name: str, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the description that is stored with the weights."""
    description = dataclasses.asdict(recipe)
    return description | dict(
        version=_VERSION, name=name, class_names=list(class_names)
    )


def save(trained: FeatureNetwork, recipe: Recipe, path: epath.PathLike) -> None:
    """Writes a classifier as .npz, atomically.

    Args:
      trained: the result of `train`.
      recipe: its hyperparameters.
      path: of the file.
    """
    about = _describe(recipe, trained.name, trained.class_names)
    stored_weights.save(trained.params, about, path)


def load(
    path: epath.PathLike, recipe: Recipe, name: str, class_names: Sequence[str]
) -> FeatureNetwork | None:
    """Returns a saved classifier, or None if it must be trained.

    None is for a missing, unreadable or damaged file, or one of another recipe, name or
    classes.

    Args:
      path: of the file.
      recipe: the hyperparameters that it must have.
      name: of the data source.
      class_names: one for each class.
    """
    params = stored_weights.load(path, _describe(recipe, name, class_names))
    return None if params is None else network(params, recipe, name, class_names)
