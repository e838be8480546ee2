"""Whether samples show what their captions ask for: object, colour, count, position.

    python -m benchmarks.scene_text --workdir runs/text

Draws a sample for each of some held-out captions of the scenes, and reads the four
attributes from it by a small network that was trained on real scenes alone. The same
readings of the real scenes of these captions stand beside them: no sample can be
expected to be read better than those. Chance is what guessing the most frequent value
gives.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import simple_diffusion
from benchmarks import protocol
from simple_diffusion.core import images
from simple_diffusion.data.scenes import captions, scenes
from simple_diffusion.data.scenes.scene_classes import CLASSES

COUNTS = 10
PLACES = 3
SIZES = {
    "object": len(CLASSES),
    "colour": len(scenes.COLOUR_NAMES),
    "count": COUNTS,
    "position": PLACES,
}
STEPS, BATCH, RATE = 1500, 64, 2e-3
_HELD_OUT = 7  # seed of the captions that are asked for


class Set(NamedTuple):
    """Scenes: images uint8 [n, h, w, 3], captions, and attributes by name, [n].

    An attribute is -1 where a scene has none, such as the colour of some classes.
    """

    images: np.ndarray
    captions: list[str]
    attributes: dict[str, np.ndarray]


class Reader(nn.Module):
    """Images in [-1, 1] -> logits of each attribute."""

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the logits by name."""
        for width in (32, 64, 128):
            x = nn.relu(nn.GroupNorm(8)(nn.Conv(width, (3, 3))(x)))
            x = nn.relu(nn.GroupNorm(8)(nn.Conv(width, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return {name: nn.Dense(size)(x) for name, size in SIZES.items()}


def make_set(size: tuple[int, int], first: int, count: int, split: str) -> Set:
    """Returns scenes with their attributes.

    Args:
      size: height and width in pixels.
      first: number of the first scene.
      count: number of scenes.
      split: "train" or "holdout".
    """
    seed = _HELD_OUT if split == "holdout" else 0
    found = scenes.describe(seed, np.arange(first, first + count), split=split)
    attributes = {
        "object": found.label,
        "colour": found.colour,
        "count": found.count,
        "position": found.place,
    }
    return Set(
        scenes.render(found, *size),
        captions.write(found, captions.SENTENCE),
        attributes,
    )


def train(size: tuple[int, int], steps: int = STEPS) -> Any:
    """Returns the parameters of a reader that was trained on real scenes."""
    params = Reader().init(jax.random.key(0), jnp.zeros((1, *size, 3)))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def loss(params: Any, x: jax.Array, wanted: dict[str, jax.Array]) -> jax.Array:
        logits: Any = Reader().apply(params, x)
        total = jnp.zeros(())
        for name, value in wanted.items():
            has = value >= 0
            error = optax.softmax_cross_entropy_with_integer_labels(
                logits[name], jnp.maximum(value, 0)
            )
            total += (error * has).sum() / jnp.maximum(has.sum(), 1)
        return total

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, wanted: Any) -> tuple[Any, Any]:
        gradient = jax.grad(loss)(params, images.to_unit_range(x), wanted)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for batch in _noisy_batches(size, steps):
        params, state = step(params, state, batch.images, batch.attributes)
    return params


def _noisy_batches(size: tuple[int, int], steps: int) -> Iterator[Set]:
    """Yields batches whose images have some noise, as samples may have."""
    random = np.random.default_rng(0)
    for k in range(steps):
        batch = make_set(size, k * BATCH, BATCH, "train")
        noise = random.standard_normal(batch.images.shape) * random.uniform(0, 10)
        noisy = np.clip(batch.images + noise, 0, 255).astype(np.uint8)
        yield batch._replace(images=noisy)


def accuracies(
    params: Any, pictures: np.ndarray, wanted: dict[str, np.ndarray]
) -> dict[str, float]:
    """Returns the share of images that are read as wanted, by attribute.

    Args:
      params: of the reader.
      pictures: uint8 [n, h, w, 3].
      wanted: attributes; those that are -1 do not count.
    """
    apply, read = jax.jit(Reader().apply), {name: [] for name in wanted}
    for at in range(0, len(pictures), BATCH):
        part = pictures[at : at + BATCH]
        rest = BATCH - len(part)
        padded = np.pad(part, ((0, rest), (0, 0), (0, 0), (0, 0)))
        logits: Any = apply(params, images.to_unit_range(padded))
        for name in wanted:
            read[name].extend(np.asarray(logits[name]).argmax(-1)[: len(part)])
    return {
        name: float(np.mean((np.array(read[name]) == value)[value >= 0]))
        for name, value in wanted.items()
    }


def chance(wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the share of the most frequent value of each attribute."""
    shares = {}
    for name, value in wanted.items():
        counts = np.bincount(value[value >= 0])
        shares[name] = float(counts.max() / counts.sum())
    return shares


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="a run or an export")
    parser.add_argument("--count", type=int, default=500, help="captions")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 2.0, 4.0])
    args = parser.parse_args()
    model = simple_diffusion.load(args.workdir)
    held_out = make_set(model.size, 0, args.count, "holdout")
    params = train(model.size)
    rows = {
        "chance": chance(held_out.attributes),
        "real scenes": accuracies(params, held_out.images, held_out.attributes),
    }
    for weight in args.guidance:
        drawn = model.sample(held_out.captions, guidance=weight, batch_size=BATCH)
        assert isinstance(drawn, np.ndarray)
        rows[f"samples, guidance {weight:g}"] = accuracies(
            params, drawn, held_out.attributes
        )
    print(f"{args.count} held-out captions, step {model.step}, {protocol.processor()}")
    print("| |" + "|".join(SIZES) + "|\n|---|" + "---:|" * len(SIZES))
    for title, row in rows.items():
        print(
            f"| {title} |"
            + "|".join(f"{100 * row[name]:.1f} %" for name in SIZES)
            + "|"
        )


if __name__ == "__main__":
    main()
