"""Whether samples show what their captions ask for: object, colour, count, position.

    python -m benchmarks.scene_text --workdir runs/text

Draws a sample for each of some held-out scenes, and reads the four attributes from it
by a small network that was trained on real scenes alone. The same readings of the real
scenes stand beside them: no sample can be expected to be read better than those. Chance
is what guessing the most frequent value gives.

The scenes whose combination of object, colour, count and place was held out from
training (data.source=scenes:held_out_combinations) are measured apart from the others.
Both are asked for in each of `FORMS`; what a caption does not name does not count.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import simple_diffusion
from benchmarks import protocol
from simple_diffusion.core import images
from simple_diffusion.data.scenes import captions, combinations, scenes
from simple_diffusion.data.scenes.scene_classes import CLASSES
from simple_diffusion.data.sources import catalogue

COUNTS = 10
PLACES = 3
SIZES = {
    "object": len(CLASSES),
    "colour": len(scenes.COLOUR_NAMES),
    "count": COUNTS,
    "position": PLACES,
}
# The first two name all attributes; the last one leaves out the position, so that what
# it asks for was trained even where the combination was held out.
FORMS = captions.SENTENCE, captions.SHORT_PLACE, captions.SHORT
STEPS, BATCH, RATE = 1500, 64, 2e-3
_HELD_OUT = 7  # seed of the scenes that are asked for
_CHUNK = 1000  # scenes that are searched at a time


class Set(NamedTuple):
    """Scenes: images uint8 [n, h, w, 3], captions, and attributes by name, [n].

    An attribute is -1 where a caption does not name it.
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
    """Returns scenes with full sentences.

    Args:
      size: height and width in pixels.
      first: number of the first scene.
      count: number of scenes.
      split: "train" or "holdout".
    """
    seed = _HELD_OUT if split == "holdout" else 0
    found = scenes.describe(seed, np.arange(first, first + count), split=split)
    return to_set(found, size, captions.SENTENCE)


def to_set(found: scenes.Scenes, size: tuple[int, int], form: str) -> Set:
    """Returns scenes with captions of one of `captions.FORMS`."""
    named = captions.find_named(found, form)
    attributes = {
        "object": np.where(named["label"], found.label, -1),
        "colour": np.where(named["colour"], found.colour, -1),
        "count": np.where(named["count"], found.count, -1),
        "position": np.where(named["place"], found.place, -1),
    }
    images = scenes.render(found, *size)
    return Set(images, captions.write(found, form), attributes)


def choose_scenes(count: int, held_out: bool) -> scenes.Scenes:
    """Returns the first scenes of the holdout whose combinations are held out, or not.

    Args:
      count: number of scenes.
      held_out: whether their combinations are those that are held out from training.
    """
    rows = np.zeros(0, np.int64)
    for first in itertools.count(0, _CHUNK):
        indices = np.arange(first, first + _CHUNK)
        found = scenes.describe(_HELD_OUT, indices, split="holdout")
        chosen = combinations.is_held_out_combination(found) == held_out
        rows = np.concatenate([rows, indices[chosen]])
        if len(rows) >= count:
            break
    return scenes.describe(_HELD_OUT, rows[:count], split="holdout")


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

    It is NaN for an attribute that none is asked for.

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
        name: _share(np.array(read[name]) == value, value >= 0)
        for name, value in wanted.items()
    }


def _share(is_right: np.ndarray, counts: np.ndarray) -> float:
    return float(is_right[counts].mean()) if counts.any() else float("nan")


def chance(wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the share of the most frequent value of each attribute."""
    shares = {}
    for name, value in wanted.items():
        counts = np.bincount(value[value >= 0])
        shares[name] = float(counts.max() / counts.sum()) if counts.size else np.nan
    return shares


def measure(
    model: Any, params: Any, found: scenes.Scenes, form: str, guidance: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Returns the rows of one table: accuracies by attribute.

    Args:
      model: what `simple_diffusion.load` returned.
      params: of the reader.
      found: the scenes that are asked for.
      form: of their captions.
      guidance: the weights to sample with.
    """
    asked = to_set(found, model.size, form)
    rows = {
        "chance": chance(asked.attributes),
        "real scenes": accuracies(params, asked.images, asked.attributes),
    }
    for weight in guidance:
        drawn = model.sample(asked.captions, guidance=weight, batch_size=BATCH)
        rows[f"samples, guidance {weight:g}"] = accuracies(
            params, drawn, asked.attributes
        )
    return rows


def format_table(rows: dict[str, dict[str, float]]) -> str:
    """Returns a table in Markdown; a dash where an attribute is not asked for."""
    lines = ["| |" + "|".join(SIZES) + "|", "|---|" + "---:|" * len(SIZES)]
    for title, row in rows.items():
        cells = ["-" if np.isnan(row[n]) else f"{100 * row[n]:.1f} %" for n in SIZES]
        lines.append(f"| {title} |" + "|".join(cells) + "|")
    return "\n".join(lines)


def main() -> None:
    """Prints a table for each form, of trained and of held-out combinations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="a run or an export")
    parser.add_argument("--count", type=int, default=500, help="captions of each table")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 2.0, 4.0])
    parser.add_argument("--forms", nargs="*", default=FORMS, choices=captions.FORMS)
    args = parser.parse_args()
    model = simple_diffusion.load(args.workdir)
    source = model.config.data.source
    print(f"step {model.step}, data.source={source}, {protocol.processor()}")
    if source != catalogue.SCENES_HELD_OUT:
        print(f"no combination was held out: that needs {catalogue.SCENES_HELD_OUT}")
    params = train(model.size)
    for held_out in (False, True):
        found = choose_scenes(args.count, held_out)
        group = "held-out" if held_out else "other"
        for form in args.forms:
            example = captions.write(found[:1], form)[0]
            print(f'\n{args.count} scenes of {group} combinations, as "{example}"\n')
            print(format_table(measure(model, params, found, form, args.guidance)))


if __name__ == "__main__":
    main()
