"""Measures how each metric reacts to growing defects, on scenes.

    python -m benchmarks.metric_sensitivity

Held-out scenes are degraded in five ways, each at five strengths, and compared with
training scenes by the features of their classifier. A metric that notices a defect
moves in one direction as the defect grows. Some cannot notice some defects: labels do
not change an image, so only the accuracy notices wrong ones; and if classes are
missing, every single image is still good, so precision does not change.
"""

import argparse
import functools
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image, ImageFilter

from benchmarks import protocol
from simple_diffusion.core.types import Batch
from simple_diffusion.data.scenes import scenes
from simple_diffusion.evaluation.metrics import (
    frechet,
    kernel_distance,
    manifold,
    scores,
)
from simple_diffusion.evaluation.networks import classifier
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork

CLASSES = len(scenes.CLASS_NAMES)
AT_ONCE = 250


class Pictures(NamedTuple):
    """Images with the classes that they should be of."""

    images: np.ndarray
    labels: np.ndarray


def blur(pictures: Pictures, sigma: float) -> Pictures:
    """Blurs with a Gaussian of so many pixels."""
    kernel = ImageFilter.GaussianBlur(sigma)
    made = [np.asarray(Image.fromarray(i).filter(kernel)) for i in pictures.images]
    return pictures._replace(images=np.stack(made))


def noise(pictures: Pictures, levels: float) -> Pictures:
    """Adds Gaussian noise of so many of the 255 levels."""
    added = np.random.default_rng(0).normal(0, levels, pictures.images.shape)
    made = np.clip(np.rint(pictures.images + added), 0, 255).astype(np.uint8)
    return pictures._replace(images=made)


def jpeg(pictures: Pictures, loss: float) -> Pictures:
    """Stores as JPEG of quality 100 - loss."""
    made = []
    for image in pictures.images:
        stored = io.BytesIO()
        Image.fromarray(image).save(stored, "JPEG", quality=round(100 - loss))
        made.append(np.asarray(Image.open(stored)))
    return pictures._replace(images=np.stack(made))


def dropped(pictures: Pictures, classes: float) -> Pictures:
    """Leaves so many classes out, and repeats no picture for it."""
    kept = pictures.labels >= classes
    return Pictures(pictures.images[kept], pictures.labels[kept])


def swapped(pictures: Pictures, share: float) -> Pictures:
    """Gives this share of the pictures the label of the next class."""
    wrong = np.random.default_rng(0).permutation(len(pictures.labels))
    wrong = wrong < round(share * len(wrong))
    return pictures._replace(labels=(pictures.labels + wrong) % CLASSES)


Fault = Callable[[Pictures, float], Pictures]

FAULTS: dict[str, tuple[Fault, tuple[float, ...]]] = {
    "Gaussian blur (sigma in pixels)": (blur, (0.5, 0.75, 1.0, 1.5, 2.0)),
    "noise (deviation in levels)": (noise, (2, 4, 8, 16, 32)),
    "JPEG (100 - quality)": (jpeg, (5, 20, 40, 60, 80)),
    "classes left out": (dropped, (1, 2, 4, 6, 8)),
    "share of labels swapped": (swapped, (0.1, 0.3, 0.5, 0.7, 0.9)),
}


def drawn(split: str, first: int, count: int, side: int) -> Pictures:
    """Returns scenes, which are balanced: each class is in as many."""
    numbers = np.arange(first, first + count)
    described = scenes.describe(0, numbers, split=split)
    return Pictures(scenes.render(described, side, side), described.label)


def trained(side: int, steps: int, say: Callable[[str], None]) -> FeatureNetwork:
    """Returns the classifier of training scenes."""
    recipe = classifier.Recipe(min(64, side), CLASSES, steps=steps)
    n = recipe.batch_size

    def batches() -> Iterator[Batch]:
        for k in itertools.count():
            images, labels = drawn("train", k * n, n, side)
            whole = np.tile(np.array([[0, 0, 1, 1]], np.float32), (n, 1))
            yield Batch(image=images, label=labels, box=whole, mask=np.ones(n, bool))

    return classifier.train(recipe, batches(), "scenes", scenes.CLASS_NAMES, say)


def outputs(network: FeatureNetwork, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns features and logits."""
    apply = jax.jit(network.apply)
    parts = [
        apply(network.params, images[k : k + AT_ONCE])
        for k in range(0, len(images), AT_ONCE)
    ]
    features = np.concatenate([part.features for part in parts])
    return features, np.concatenate([part.logits for part in parts])


def metrics(
    network: FeatureNetwork, pictures: Pictures, real: np.ndarray
) -> dict[str, float]:
    """Returns every metric of the pictures.

    Args:
      network: the classifier.
      pictures: that take the place of generated ones.
      real: features of training images.
    """
    features, logits = outputs(network, pictures.images)
    shared = manifold.compare(features, real)
    return {
        "fd": frechet.distance_of_features(features, real),
        "kd": kernel_distance.distance(features, real, subsets=25).value,
        "class_score": scores.inception_score(logits).value,
        "precision": float(np.mean(shared.precision)),
        "recall": float(np.mean(shared.recall)),
        "density": float(np.mean(shared.density)),
        "coverage": float(np.mean(shared.coverage)),
        "accuracy": scores.accuracy(logits, pictures.labels).value,
    }


def measure(
    network: FeatureNetwork, good: Pictures, real: Pictures
) -> dict[str, dict[str, list[float]]]:
    """Returns for each fault each metric without it and at its strengths."""
    reference, _ = outputs(network, real.images)
    flawless = metrics(network, good, reference)
    table = {}
    for name, (fault, strengths) in FAULTS.items():
        rows = [flawless]
        rows += [metrics(network, fault(good, s), reference) for s in strengths]
        table[name] = {key: [row[key] for row in rows] for key in flawless}
    return table


def direction(values: list[float]) -> str:
    """Returns "up" or "down" for values that move that way and never back.

    "hardly" for those that stay within 1 % of the largest, and else "both".
    """
    steps = np.diff(values)
    if np.ptp(values) <= 0.01 * np.abs(values).max():
        return "hardly"
    return "up" if (steps >= 0).all() else "down" if (steps <= 0).all() else "both"


def report(table: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """Yields the lines of one table for each fault."""
    for name, rows in table.items():
        strengths = 0, *FAULTS[name][1]
        yield f"\n| {name} | {' | '.join(f'{s:g}' for s in strengths)} | moves |"
        yield "|---|" + "---:|" * len(strengths) + "---|"
        for key, values in rows.items():
            numbers = " | ".join(f"{v:.3g}" for v in values)
            yield f"| {key} | {numbers} | {direction(values)} |"


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metric_sensitivity")
    add = parser.add_argument
    add("--resolution", type=int, default=32)
    add("--count", type=int, default=1800, help="pictures on either side")
    add("--steps", type=int, default=300, help="of the classifier's training")
    add("--json", type=Path, help="write the figures there, too")
    return parser.parse_args()


def main() -> None:
    """Measures and prints tables and JSON."""
    args = arguments()
    say = functools.partial(print, file=sys.stderr)
    network = trained(args.resolution, args.steps, say)
    good = drawn("holdout", 0, args.count, args.resolution)
    # None of those that the classifier has seen.
    real = drawn("train", 10**6, args.count, args.resolution)
    table = measure(network, good, real)
    print("\n".join(report(table)))
    about = protocol.about(args) | {"digest": network.digest}
    result = json.dumps({"about": about, "values": table})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
