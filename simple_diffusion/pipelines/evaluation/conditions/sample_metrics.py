"""Whether samples show what they were asked for, by the conditions of the model."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int

from simple_diffusion.build.data import Data
from simple_diffusion.core import console
from simple_diffusion.core.types import Request
from simple_diffusion.data import pipeline
from simple_diffusion.data.scenes.scenes import ScenesSource
from simple_diffusion.data.sources.protocols import Source
from simple_diffusion.evaluation.conditions import condition_metrics, scene_readers
from simple_diffusion.evaluation.conditions.condition_metrics import Pictures, Tools
from simple_diffusion.evaluation.conditions.scene_readers import SceneReaders
from simple_diffusion.evaluation.conditions.wanted import Attributes, Wanted
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines.evaluation.comparison import Comparison
from simple_diffusion.pipelines.evaluation.evaluation import SampleSet
from simple_diffusion.pipelines.trained import Trained

# Enough for an interval of 3 %, and little to keep or to draw again.
_MOST = 1000


class _Asked(NamedTuple):
    """What n samples were asked to show.

    source: the held-out examples.
    index: those whose conditions were used.
    request: these conditions, as the network reads them.
    """

    source: Source
    index: Int[np.ndarray, "n"]
    request: Request


def measure(
    trained: Trained, comparison: Comparison, samples: SampleSet, folder: epath.Path
) -> Iterator[Metric]:
    """Yields the metrics of the conditions of a model, of its first samples.

    Nothing for a model without conditions. What cannot be measured is noted.

    Args:
      trained: the model.
      comparison: its notes, and the data source.
      samples: of the conditions of held-out images.
      folder: where predictors are kept.
    """
    dataset, held_out = comparison.dataset, samples.held_out
    if dataset is None or held_out is None:
        return
    n = min(samples.images.count, _MOST)
    positions = held_out.positions[:n]
    source = dataset.source("holdout")
    index = pipeline.order_of_pass(len(source), positions)
    asked = _Asked(source, index, held_out.request.at(slice(n)))
    pictures: Pictures | None = None
    for spec in trained.net.conditions:
        make = _WANTED.get(spec.name)
        wanted = None if make is None else make(asked)
        if wanted is None:
            comparison.note(
                f"whether samples follow the condition {spec.name} is not measured: "
                "only captions of data.source=scenes are read"
            )
            continue
        if pictures is None:
            pictures = _read_pictures(dataset, samples, positions)
        tools = open_tools(comparison, pictures, folder)
        yield from condition_metrics.measure(spec.name, pictures, wanted, tools)


def _read_pictures(
    dataset: Data, samples: SampleSet, positions: Int[np.ndarray, "n"]
) -> Pictures:
    images = samples.images.at(list(range(len(positions))))
    originals = dataset.select(positions.tolist(), samples.images.size).image
    return Pictures(images, np.asarray(originals))


def open_tools(comparison: Comparison, pictures: Pictures, folder: epath.Path) -> Tools:
    """Returns what reads conditions from pictures; trained when it is first used.

    Args:
      comparison: has the plan of the evaluation.
      pictures: for their size and channels.
      folder: where predictors are kept.
    """
    _, h, w, c = pictures.samples.shape
    steps = comparison.plan.reader_steps
    readers = SceneReaders(folder, (h, w), c, console.print_line, steps)
    return Tools(readers, seed=comparison.plan.seed)


def _attributes(asked: _Asked) -> Attributes | None:
    """Returns the attributes that captions name; None if these are not scenes."""
    if not isinstance(asked.source, ScenesSource):
        return None
    # The captions do not depend on the size.
    read = asked.source.read_batch(asked.index, (1, 1), fields=("caption",))
    assert read.caption is not None
    found = asked.source.describe(asked.index)
    return Attributes(scene_readers.named_attributes(found, read.caption))


# Condition -> what it asks for; None where nothing can read it from samples.
_WANTED: dict[str, Callable[[_Asked], Wanted | None]] = {"text": _attributes}
