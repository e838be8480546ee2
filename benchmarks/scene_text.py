"""Whether samples show what their captions ask for: object, colour, count, position.

    python -m benchmarks.scene_text --workdir runs/text

Draws a sample for each of some held-out scenes at several weights of guidance, and
reads the four attributes from it, as an evaluation does at one weight. The same
readings of the real scenes stand beside them: no sample can be expected to be read
better than those. Chance is what guessing the most frequent value gives.

The scenes whose combination of object, colour, count and place was held out from
training (data.source=scenes:held_out_combinations) are measured apart from the others.
Both are asked for in each of `FORMS`; what a caption does not name does not count.
"""

import argparse
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

import simple_diffusion
from benchmarks import protocol
from simple_diffusion.data.scenes import captions, combinations, scenes
from simple_diffusion.data.sources import catalogue
from simple_diffusion.evaluation.conditions import condition_metrics, scene_readers
from simple_diffusion.evaluation.conditions.condition_metrics import (
    Pictures,
    Readers,
    Tools,
)
from simple_diffusion.evaluation.conditions.scene_readers import SceneReaders
from simple_diffusion.evaluation.conditions.wanted import Attributes

# The first two name all attributes. The last one leaves out the position: where a
# combination is held out at one position alone, training has such captions.
FORMS = captions.SENTENCE, captions.SHORT_PLACE, captions.SHORT
_HELD_OUT = 7  # seed of the scenes that are asked for
_CHUNK = 1000  # scenes that are searched at a time
_BATCH = 64
ROWS = {"chance": condition_metrics.GUESS, "real scenes": condition_metrics.REAL}


class Set(NamedTuple):
    """Scenes: images uint8 [n, h, w, 3], captions and what these ask for."""

    images: np.ndarray
    captions: list[str]
    wanted: Attributes


def make_set(found: scenes.Scenes, size: tuple[int, int], form: str) -> Set:
    """Returns scenes with captions of one of `captions.FORMS`.

    Args:
      found: the scenes.
      size: height and width in pixels.
      form: of the captions.
    """
    named = captions.find_named(found, form)
    keys = {"object": "label", "position": "place"}
    values = {
        name: np.where(named[keys.get(name, name)], value, -1)
        for name, value in scene_readers.attributes_of(found).items()
    }
    images = scenes.render(found, *size)
    return Set(images, captions.write(found, form), Attributes(values))


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


def compare(
    readers: Readers, asked: Set, samples: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Returns the share of images that are read as wanted, by row and attribute.

    An attribute that no caption names is missing.

    Args:
      readers: of the attributes.
      asked: the scenes that were asked for.
      samples: uint8 [n, h, w, 3] by the title of their row.
    """
    rows: dict[str, dict[str, float]] = {title: {} for title in (*ROWS, *samples)}
    for title, images in samples.items():
        pictures = Pictures(images, asked.images)
        for metric in condition_metrics.measure(
            "text", pictures, asked.wanted, Tools(readers)
        ):
            name = metric.name.removeprefix("accuracy_")
            rows[title][name] = metric.value
            for beside, key in ROWS.items():
                rows[beside][name] = metric.baselines[key]
    return rows


def measure(
    model: Any, readers: Readers, asked: Set, guidance: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Returns the rows of one table, see `compare`.

    Args:
      model: what `simple_diffusion.load` returned.
      readers: of the attributes.
      asked: the scenes that are asked for.
      guidance: the weights to sample with.
    """
    samples = {
        f"samples, guidance {weight:g}": model.sample(
            asked.captions, guidance=weight, batch_size=_BATCH
        )
        for weight in guidance
    }
    return compare(readers, asked, samples)


def format_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a table in Markdown; a dash where an attribute is not asked for."""
    names = list(scene_readers.ATTRIBUTES)
    lines = ["| |" + "|".join(names) + "|", "|---|" + "---:|" * len(names)]
    for title, row in rows.items():
        cells = [f"{100 * row[n]:.1f} %" if n in row else "-" for n in names]
        lines.append(f"| {title} |" + "|".join(cells) + "|")
    return "\n".join(lines)


def main() -> None:
    """Prints a table for each form, of trained and of held-out combinations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="a run or an export")
    parser.add_argument("--count", type=int, default=500, help="captions of each table")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 2.0, 4.0])
    parser.add_argument("--forms", nargs="*", default=FORMS, choices=captions.FORMS)
    parser.add_argument("--reader-steps", type=int, default=scene_readers.STEPS)
    args = parser.parse_args()
    model: Any = simple_diffusion.load(args.workdir)
    source = model.config.data.source
    print(f"step {model.step}, data.source={source}, {protocol.processor()}")
    if source != catalogue.SCENES_HELD_OUT:
        print(f"no combination was held out: that needs {catalogue.SCENES_HELD_OUT}")
    with tempfile.TemporaryDirectory() as folder:
        steps = args.reader_steps
        readers = SceneReaders(epath.Path(folder), model.size, log=print, steps=steps)
        for held_out in (False, True):
            found = choose_scenes(args.count, held_out)
            group = "held-out" if held_out else "other"
            for form in args.forms:
                asked = make_set(found, model.size, form)
                example = asked.captions[0]
                print(f'\n{args.count} scenes of {group} combinations, as "{example}"')
                rows = measure(model, readers, asked, args.guidance)
                print(f"\n{format_table(rows)}")


if __name__ == "__main__":
    main()
