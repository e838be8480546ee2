"""Whether samples show what their captions ask for: object, colour, count, position.

    python -m benchmarks.scene_text --workdir runs/text

Draws a sample for each of some held-out captions of the scenes at several weights of
guidance, and reads the four attributes from it, as an evaluation does at one weight.
The same readings of the real scenes of these captions stand beside them: no sample can
be expected to be read better than those. Chance is what guessing the most frequent
value gives.
"""

import argparse
import tempfile
from typing import Any, NamedTuple

import numpy as np
from etils import epath

import simple_diffusion
from benchmarks import protocol
from simple_diffusion.data.scenes import scenes
from simple_diffusion.evaluation.conditions import condition_metrics, scene_readers
from simple_diffusion.evaluation.conditions.condition_metrics import (
    Pictures,
    Readers,
    Tools,
)
from simple_diffusion.evaluation.conditions.scene_readers import SceneReaders
from simple_diffusion.evaluation.conditions.wanted import Attributes

_HELD_OUT = 7  # seed of the captions that are asked for
_BATCH = 64
ROWS = {
    "most frequent value": condition_metrics.GUESS,
    "real scenes": condition_metrics.REAL,
}


class Set(NamedTuple):
    """Held-out scenes: images uint8 [n, h, w, 3], captions and what these ask for."""

    images: np.ndarray
    captions: list[str]
    wanted: Attributes


def make_set(size: tuple[int, int], count: int) -> Set:
    """Returns held-out scenes.

    Args:
      size: height and width in pixels.
      count: number of scenes.
    """
    found = scenes.describe(_HELD_OUT, np.arange(count), split="holdout")
    captions = scenes.captions(found)
    values = scene_readers.named_attributes(found, captions)
    return Set(scenes.render(found, *size), captions, Attributes(values))


def table(
    readers: Readers, held_out: Set, samples: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Returns the share of images that are read as wanted, by row and attribute.

    Args:
      readers: of the attributes.
      held_out: the scenes whose captions were asked for.
      samples: uint8 [n, h, w, 3] by the title of their row.
    """
    rows: dict[str, dict[str, float]] = {title: {} for title in ROWS}
    for title, images in samples.items():
        pictures = Pictures(images, held_out.images)
        rows[title] = {}
        for metric in condition_metrics.measure(
            "text", pictures, held_out.wanted, Tools(readers)
        ):
            name = metric.name.removeprefix("accuracy_")
            rows[title][name] = metric.value
            for beside, key in ROWS.items():
                rows[beside][name] = metric.baselines[key]
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="a run or an export")
    parser.add_argument("--count", type=int, default=500, help="captions")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 2.0, 4.0])
    parser.add_argument("--reader-steps", type=int, default=scene_readers.STEPS)
    args = parser.parse_args()
    model: Any = simple_diffusion.load(args.workdir)
    held_out = make_set(model.size, args.count)
    samples = {
        f"samples, guidance {weight:g}": model.sample(
            held_out.captions, guidance=weight, batch_size=_BATCH
        )
        for weight in args.guidance
    }
    with tempfile.TemporaryDirectory() as folder:
        steps = args.reader_steps
        readers = SceneReaders(epath.Path(folder), model.size, log=print, steps=steps)
        rows = table(readers, held_out, samples)
    names = list(scene_readers.ATTRIBUTES)
    print(f"{args.count} held-out captions, step {model.step}, {protocol.processor()}")
    print("| |" + "|".join(names) + "|\n|---|" + "---:|" * len(names))
    for title, row in rows.items():
        cells = (f"{100 * row[name]:.1f} %" for name in names)
        print(f"| {title} |" + "|".join(cells) + "|")


if __name__ == "__main__":
    main()
