"""A small classifier of the data source as a feature network: nothing to download.

It is trained, in seconds to a minute, on the labelled images that a model is trained
on. Its features join what is in an image (the last hidden vector, and the mean over all
places of an early map) with how it looks up close (colours, and how much neighbouring
pixels differ). The former see missing and mixed-up classes; the latter see blur, noise
and the blocks of JPEG, which a classifier learns to overlook. Each feature is shifted
and scaled to mean 0 and standard deviation 1 over training images.

Distances on these features are named after the source, such as fd_scenes, and compare
with no others.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import traverse_util
from jaxtyping import Array, Float, UInt8

from simple_diffusion.core import files, images
from simple_diffusion.core.types import Batch, Params
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork, Outputs

# Of what `_Network` computes from weights of the same shapes: a change makes files of
# older weights unreadable.
_VERSION = 1
_GRID = 4  # side of the map that the hidden vector is made of
_SMALLEST = 8  # whose third octave still has neighbours
_OCTAVES = 3
_STEPS = 8.0  # of size in [-1, 1]: its unit is 16 of the 255 levels
# On a GPU, the same from one run to the next; other platforms need no asking.
_DETERMINISTIC = {"xla_gpu_deterministic_ops": True}
_BATCHES_OF_STATISTICS = 16
_REPORTS = 5


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides what comes out, apart from the images.

    Fields:
      side: images are resized to side x side first, whatever their shape; 8 or more.
      num_classes: at least 2.
      channels: of the images, 1 or 3.
      data: what tells the training images from others, such as a hash; not used, but
        weights that were saved for other data are not loaded.
      steps: updates.
      batch_size: examples in each batch.
      seed: of the first weights.
      learning_rate: of Adam at the start; falls to 0 as a cosine.
      widths: channels of the convolutions, two or more; the map is halved after each.
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
                "features of network thumbnail need none"
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
        found = [_looks(x)]
        for k, width in enumerate(self.recipe.widths):
            x = nn.Conv(width, (3, 3), precision="highest", name=f"conv{k}")(x)
            x = nn.gelu(x)
            if min(x.shape[1:3]) > _GRID:
                x = nn.avg_pool(x, (2, 2), (2, 2))
            if k == 1:  # that of colours and small shapes
                found.append(x.mean((1, 2)))
        x = jax.image.resize(x, (len(x), _GRID, _GRID, x.shape[-1]), "linear")
        x = x.reshape(len(x), -1)
        x = nn.Dense(self.recipe.hidden, precision="highest", name="hidden")(x)
        x = nn.gelu(x)
        head = nn.Dense(self.recipe.num_classes, precision="highest", name="logits")
        return jnp.concatenate([*found, x], -1), head(x)


def _looks(x: Float[Array, "b h w c"]) -> Float[Array, "b l"]:
    """Returns mean and spread of each colour, and how much neighbours differ.

    Differences are told for three octaves, as the mean of their logarithm: a little
    noise everywhere counts, not the few great steps at the edges of things alone.
    """
    found = [x.mean((1, 2)), jnp.sqrt(x.var((1, 2)) + 1e-8)]
    for _ in range(_OCTAVES):
        for axis in (1, 2):
            steps = jnp.abs(jnp.diff(x, axis=axis)) * _STEPS
            found.append(jnp.log1p(steps).mean((1, 2)))
        x = nn.avg_pool(x, (2, 2), (2, 2))
    return jnp.concatenate(found, -1)


def train(
    recipe: Recipe,
    batches: Iterator[Batch],
    name: str,
    class_names: Sequence[str],
    say: Callable[[str], None],
) -> FeatureNetwork:
    """Returns a classifier that was trained on batches, as a feature network.

    It runs on one local device. Of several processes, each trains its own, and each
    needs the whole batches.

    Args:
      recipe: what is trained, and how.
      batches: of the source's training images, of any one size; a few more than the
        steps are read. Examples whose mask is False do not count.
      name: of the data source.
      class_names: one for each class.
      say: is told how it goes, line by line.

    Raises:
      ValueError: for batches that are too few or are not as the recipe says.
    """
    if len(class_names) != recipe.num_classes:
        raise ValueError(
            f"{len(class_names)} names for {recipe.num_classes} classes: {class_names}"
        )
    with jax.default_device(jax.local_devices()[0]):
        weights = _fitted(recipe, batches, name, say)
        mean, scale = _statistics(recipe, weights, batches)
    params = {"weights": weights, "mean": mean, "scale": scale}
    return network(jax.tree.map(np.asarray, params), recipe, name, class_names)


def _fitted(
    recipe: Recipe, batches: Iterator[Batch], name: str, say: Callable[[str], None]
) -> Params:
    """Returns the weights of `_Network`."""
    shape = 1, recipe.side, recipe.side, recipe.channels
    key = jax.random.key(recipe.seed)
    params = jax.jit(_Network(recipe).init)(key, jnp.zeros(shape))["params"]
    rate = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    optimizer = optax.adam(rate)

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=_DETERMINISTIC)
    def update(state: Any, image: Array, label: Array, mask: Array) -> Any:
        params, opt_state = state

        def loss(params: Params) -> tuple[Array, Array]:
            _, logits = _apply_to_pixels(recipe, params, image)
            wanted = jax.nn.one_hot(label, recipe.num_classes)
            losses = optax.softmax_cross_entropy(logits, wanted)
            right = jnp.argmax(logits, -1) == label
            both = jnp.stack([losses, right]) * mask[None]
            mean = both.sum(1) / jnp.maximum(mask.sum(), 1)
            return mean[0], mean

        grads, told = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), told

    state, told = (params, jax.jit(optimizer.init)(params)), []
    every = max(1, recipe.steps // _REPORTS)
    for step in range(1, recipe.steps + 1):
        state, part = update(state, *_next(recipe, batches))
        told.append(part)
        if step % every == 0 or step == recipe.steps:
            loss, accuracy = np.mean(told, axis=0)
            told = []
            say(
                f"classifier of {name}: step {step}/{recipe.steps}, loss {loss:.3f}, "
                f"accuracy {accuracy:.1%}"
            )
            weak = accuracy < _poor(recipe.num_classes)
    if weak:
        say(
            f"the classifier of {name} hardly tells the classes apart: its accuracy "
            "says little, and distances on its features see less"
        )
    return state[0]


def _poor(num_classes: int) -> float:
    """Returns three times chance, or half-way to always right where that is more."""
    return min(3 / num_classes, (1 + 1 / num_classes) / 2)


def _next(recipe: Recipe, batches: Iterator[Batch]) -> tuple[np.ndarray, ...]:
    """Returns images, labels and mask of the next batch, as the recipe says."""
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
        raise ValueError(f"label {wrong[0]} is none of {recipe.num_classes} classes")
    return image, label.astype(np.int32), mask


def _statistics(
    recipe: Recipe, weights: Params, batches: Iterator[Batch]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of each feature, and what makes its deviation 1, in float32."""

    @functools.partial(jax.jit, compiler_options=_DETERMINISTIC)
    def features(image: Array) -> Array:
        return _apply_to_pixels(recipe, weights, image)[0]

    found = []
    for _ in range(_BATCHES_OF_STATISTICS):
        image, _, mask = _next(recipe, batches)
        found.append(np.asarray(features(image))[mask])
    rows = np.concatenate(found).astype(np.float64)
    if len(rows) < 2:
        raise ValueError(f"features of {len(rows)} training images have no deviation")
    deviation = rows.std(0)
    # A feature that hardly changes over the training images would explode on others.
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
    """Returns a classifier with these weights, as `train` made them.

    Args:
      params: a tree of arrays on the host.
      recipe: what they were trained by.
      name: of the data source.
      class_names: one for each class.
    """
    digest = _digest(_flat(params))
    apply = functools.partial(_apply, recipe)
    return FeatureNetwork(
        name, digest, "area", params, apply, tuple(class_names), _VERSION
    )


def _flat(params: Params) -> dict[str, np.ndarray]:
    return {
        k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep=".").items()
    }


def _digest(flat: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, array in sorted(flat.items()):
        total.update(f"{name} {array.shape} {array.dtype}".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:12]


def _about(recipe: Recipe, name: str, class_names: Sequence[str]) -> str:
    """Returns what a file says of itself, as JSON."""
    told = dataclasses.asdict(recipe)
    told |= dict(version=_VERSION, name=name, class_names=list(class_names))
    return json.dumps(told, sort_keys=True)


def save(trained: FeatureNetwork, recipe: Recipe, path: epath.PathLike) -> None:
    """Writes a classifier as .npz; a reader never sees one that is only half written.

    Args:
      trained: what `train` returned.
      recipe: what it was trained by.
      path: of the file.
    """
    path = epath.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    about = _about(recipe, trained.name, trained.class_names)
    told: dict[str, Any] = {"about": np.array(about)}
    told |= {"digest": np.array(trained.digest), **_flat(trained.params)}
    with files.replacing(path) as file:  # to a name NumPy would add .npz
        np.savez(file, **told)


def load(
    path: epath.PathLike, recipe: Recipe, name: str, class_names: Sequence[str]
) -> FeatureNetwork | None:
    """Returns a classifier that was saved, or None where it must be trained.

    That is: if there is no such file, if it cannot be read, is damaged or of another
    kind, or if its recipe, its name or its classes are not these.

    Args:
      path: of the file.
      recipe: what it must have been trained by.
      name: of the data source.
      class_names: one for each class.
    """
    try:
        # Opened here: NumPy leaves a file open in which it finds no archive.
        with epath.Path(path).expanduser().open("rb") as file:
            flat = dict(np.load(file, allow_pickle=False))
    except Exception:  # whatever NumPy makes of a file of another kind
        return None
    about, digest = (str(flat.pop(key, "")) for key in ("about", "digest"))
    # The digest tells names, shapes and types too.
    if about != _about(recipe, name, class_names) or digest != _digest(flat):
        return None
    params = traverse_util.unflatten_dict(flat, sep=".")
    return network(params, recipe, name, class_names)
