"""A small network that counts the objects in scenes and measures their size.

It returns a density of objects per class and their size at each position. The count is
a sum over the image, so it also follows numbers of objects that real scenes do not
have. It is trained on rendered scenes, zoomed and combined to mosaics, in about a
minute on one CPU core; the parameters are cached.
"""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from simple_diffusion.data.scenes import scenes
from simple_diffusion.data.scenes.scene_classes import CLASSES

SIDE = 48  # pixels of the shorter side of what the network sees
CELLS = SIDE // 4
STEPS, BATCH, RATE = 900, 16, 6e-3
# Width, in cells, of the bump that an object is in the density.
BUMP = 0.5
MOST = 40  # objects in a mosaic
COUNTED = np.array(
    [scenes.CATEGORY_NAMES.index(c.counted_category) for c in CLASSES.values()]
)
MIXED = 12  # batches made at a time


class Counter(nn.Module):
    """Pictures -> log density of each class [b, y, x, k] and log sizes [b, y, x, 2]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns both, on a grid of a quarter of the picture's side."""
        x = _conv(_conv(x, 16, stride=2, side=5), 48, stride=2)
        fine = x = x + _conv(x, 48)
        x = _conv(x, 96, stride=2)
        for _ in range(2):
            x = x + _conv(x, 96)
        x = nn.Dense(48)(x).repeat(2, 1).repeat(2, 2) + fine
        for _ in range(2):
            x = x + _conv(x, 48)
        y = nn.Conv(len(CLASSES) + 2, (1, 1))(nn.RMSNorm()(x))
        return y[..., :-2] - 7.0, y[..., -2:] - 1.0


def _conv(x: jax.Array, channels: int, stride: int = 1, side: int = 3) -> jax.Array:
    x = nn.Conv(channels, (side, side), stride, use_bias=False)(x)
    return nn.relu(nn.RMSNorm()(x))


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns float images at another size, linear with antialiasing."""
    x = images.astype(np.float32)
    x = np.einsum("yh,bhwc->bywc", _weights(x.shape[1], height), x, optimize=True)
    return np.einsum("xw,bywc->byxc", _weights(x.shape[2], width), x, optimize=True)


def _weights(n: int, m: int) -> np.ndarray:
    centre = (np.arange(m) + 0.5) * n / m - 0.5
    reach = max(1.0, n / m)
    w = np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(n)) / reach)
    return (w / w.sum(1, keepdims=True)).astype(np.float32)


def _pictures(rng: np.random.Generator, n: int, first: int) -> tuple:
    """Returns zoomed scenes, and objects (y, x, height, width, weight) with classes."""
    side = int(rng.choice([32, 40, 48, 64]))
    scene = scenes.describe(1234, np.arange(first, first + n))
    zoom = np.exp(rng.uniform(np.log(0.8), np.log(2.4), n))
    zoom = np.where(rng.random(n) < 0.5, 1.0, zoom)
    room = np.where(zoom == 1, 0.15, np.maximum(0.15, (zoom - 1) * 0.6))
    middle = 0.5 + rng.uniform(-1, 1, (n, 2)) * room[:, None]
    corner = middle - zoom[:, None] / 2
    window = np.concatenate([corner, corner + zoom[:, None]], 1)
    x = resized(scenes.render(scene, side, side, window), SIDE, SIDE)
    # Whole boxes, also of what the window cuts off.
    found = scenes.boxes(scene, 1, 1, (-2, -2, 3, 3))
    box = (found.box * 5 - 2 - np.tile(corner[:, None], 2)) / zoom[:, None, None]
    cut = np.clip(box, 0, 1)
    seen = _area(cut) / np.maximum(_area(box), 1e-9)
    counted = found.present & (found.category == COUNTED[scene.label][:, None])
    weight = counted * np.clip((seen - 0.25) / 0.25, 0, 1)
    size = np.maximum(cut[..., 2:] - cut[..., :2], 1e-3)
    middle = (cut[..., :2] + cut[..., 2:]) / 2
    things = np.concatenate([middle, size, weight[..., None]], -1)
    return x, things, np.broadcast_to(scene.label[:, None], weight.shape)


def _area(box: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), -1)


def _mosaics(rng: np.random.Generator, pictures: tuple, n: int) -> tuple:
    """Returns n pictures of four, or of one four times, at half the size each."""
    x, things, label = pictures
    same = rng.integers(len(x), size=(n, 1))
    pick = np.where(rng.random((n, 1)) < 0.5, same, rng.integers(len(x), size=(n, 4)))
    h = SIDE // 2
    small = resized(x, h, h)[pick].reshape(n, 2, 2, h, h, 3)
    whole = small.transpose(0, 1, 3, 2, 4, 5).reshape(n, SIDE, SIDE, 3)
    parts = things[pick].copy()  # [n, 4, objects, 5]
    parts[..., :4] /= 2
    parts[..., 0] += np.array([0, 0, 0.5, 0.5])[:, None]
    parts[..., 1] += np.array([0, 0.5, 0, 0.5])[:, None]
    return whole, parts.reshape(n, -1, 5), label[pick].reshape(n, -1)


def _batch(rng: np.random.Generator, n: int, first: int) -> tuple:
    """Returns pictures in [-1, 1], objects and classes; a third are mosaics."""
    m = n // 3
    pictures = _pictures(rng, n, first)
    mosaics = _mosaics(rng, pictures, m)
    more = mosaics[1].shape[1] - pictures[1].shape[1]
    x = np.concatenate([pictures[0][m:], mosaics[0]])
    things = np.pad(pictures[1][m:], ((0, 0), (0, more), (0, 0)))
    things = np.concatenate([things, mosaics[1]])
    label = np.concatenate([np.pad(pictures[2][m:], ((0, 0), (0, more))), mosaics[2]])
    flip = rng.random(n) < 0.5
    x[flip] = x[flip, :, ::-1]
    things[flip, :, 1] = 1 - things[flip, :, 1]
    noise = rng.standard_normal(x.shape, np.float32) * rng.uniform(0, 8, (n, 1, 1, 1))
    order = np.argsort(-things[..., 4], 1, kind="stable")[:, :MOST]
    things = np.take_along_axis(things, order[..., None], 1).astype(np.float32)
    label = np.take_along_axis(label, order, 1).astype(np.int32)
    return ((x + noise) / 127.5 - 1).astype(np.float32), things, label


def _loss(params: Any, x: jax.Array, things: jax.Array, label: jax.Array) -> jax.Array:
    output: Any = Counter().apply(params, x)
    logit, size = output
    places = jnp.arange(CELLS) + 0.5

    def bump(at: jax.Array) -> jax.Array:
        b = jnp.exp(
            -0.5 * jnp.square((places[None, None] - at[..., None] * CELLS) / BUMP)
        )
        return b / b.sum(-1, keepdims=True)

    down, along = bump(things[..., 0]), bump(things[..., 1]) * things[..., 4:]
    kind = jax.nn.one_hot(label, len(CLASSES))
    wanted = jnp.einsum("nmi,nmj,nmk->nijk", down, along, kind)
    # Of a Poisson process with this density; and of the counts themselves.
    density = jnp.exp(logit).sum() - (wanted * logit).sum()
    count, right = jnp.exp(logit).sum((1, 2)), wanted.sum((1, 2))
    counts = (jnp.square(count - right) / (1 + right)).sum()
    true_size = jnp.log(jnp.maximum(things[:, :, None, None, 2:4], 1e-3))
    wrong = jnp.abs(size[:, None] - true_size).sum(-1)
    sizes = (jnp.einsum("nmi,nmj->nmij", down, along) * wrong).sum()
    return (density + counts + 2 * sizes) / len(x)


def train(steps: int = STEPS) -> Any:
    """Returns trained parameters; always the same."""
    rng = np.random.default_rng(0)
    params = Counter().init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    rate = optax.warmup_cosine_decay_schedule(0, RATE, min(30, steps // 2), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(rate))

    @jax.jit
    def step(params: Any, state: Any, *batch: Any) -> tuple[Any, Any]:
        gradient = jax.grad(_loss)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, many = optimizer.init(params), MIXED * BATCH
    batches, order = (), np.arange(0)
    for k in range(steps):
        if k % MIXED == 0:  # of several resolutions, mixed
            batches, order = _batch(rng, many, k * BATCH), rng.permutation(many)
        pick = order[k % MIXED * BATCH :][:BATCH]
        params, state = step(params, state, *(v[pick] for v in batches))
    return params


def cached(folder: Path | None) -> Any:
    """Returns trained parameters, from a folder if they are there."""
    if folder is None:
        return train()
    path = folder / f"scene_counter_{STEPS}.npz"
    shapes = jax.eval_shape(
        Counter().init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3))
    )
    leaves, tree = jax.tree.flatten(shapes)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, *jax.tree.leaves(train()))
    stored = np.load(path)
    return jax.tree.unflatten(tree, [stored[f"arr_{k}"] for k in range(len(leaves))])


@functools.cache
def _apply() -> Any:
    return jax.jit(Counter().apply)


def estimate(params: Any, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns count and mean log height and width of the counted things, [n, 3].

    Args:
      params: of the network.
      images: uint8, of any size and shape.
      labels: classes, which say what is counted.

    Sizes are in units of the picture's shorter side.
    """
    h, w = images.shape[1:3]
    size = [8 * round(v * SIDE / min(h, w) / 8) for v in (h, w)]
    found, n = [], 96
    for k in range(0, len(images), n):
        x = resized(images[k : k + n], *size) / 127.5 - 1
        label = labels[k : k + n]
        x = np.pad(x, ((0, n - len(x)), (0, 0), (0, 0), (0, 0)))
        logit, extent = (np.asarray(v)[: len(label)] for v in _apply()(params, x))
        own = np.take_along_axis(logit, label[:, None, None, None].astype(int), -1)
        density = np.exp(own)
        count = density.sum((1, 2))
        found.append(np.concatenate([count, (density * extent).sum((1, 2)) / count], 1))
    return np.concatenate(found)
