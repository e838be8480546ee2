"""Whether samples show what they were asked for, by the conditions of the model."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int

from simple_diffusion.build import feature_networks
from simple_diffusion.core import console
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch, Request
from simple_diffusion.data import pipeline
from simple_diffusion.data.scenes.scenes_source import ScenesSource
from simple_diffusion.data.sources.protocols import Source
from simple_diffusion.evaluation.conditions import condition_metrics, scene_readers
from simple_diffusion.evaluation.conditions.condition_metrics import Pictures, Tools
from simple_diffusion.evaluation.conditions.scene_readers import SceneReaders
from simple_diffusion.evaluation.conditions.wanted import (
    Attributes,
    Holes,
    SemanticMaps,
    SmallImages,
    Wanted,
)
from simple_diffusion.evaluation.metrics.conditions.layout import Layouts
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
    batch: the same examples, as the host encoders made them.
    config: of the model.
    """

    source: Source
    index: Int[np.ndarray, "n"]
    request: Request
    batch: Batch
    config: Config


def measure(
    config: Config,
    trained: Trained,
    comparison: Comparison,
    samples: SampleSet,
    folder: epath.Path,
) -> Iterator[Metric]:
    """Yields the metrics of the conditions of a model, of its first samples.

    Nothing for a model without conditions. What cannot be measured is noted.

    Args:
      config: the whole config.
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
    batch = dataset.select(positions.tolist(), samples.images.size)
    asked = _Asked(source, index, held_out.request.at(slice(n)), batch, config)
    pictures: Pictures | None = None
    for spec in trained.net.conditions:
        make = _WANTED.get(spec.name)
        wanted = None if make is None else make(asked)
        if wanted is None:
            comparison.note(
                f"whether samples follow the condition {spec.name} is not measured: "
                "nothing reads it from images of this data.source"
            )
            continue
        if pictures is None:
            shown = samples.images.at(list(range(n)))
            pictures = Pictures(shown, np.asarray(batch.image))
        tools = open_tools(config, comparison, pictures, folder)
        yield from condition_metrics.measure(spec.name, pictures, wanted, tools)


def open_tools(
    config: Config, comparison: Comparison, pictures: Pictures, folder: epath.Path
) -> Tools:
    """Returns what reads conditions from pictures; trained when it is first used.

    Args:
      config: the whole config.
      comparison: has the plan of the evaluation.
      pictures: for their size and channels.
      folder: where predictors are kept.
    """
    _, h, w, c = pictures.samples.shape
    steps = comparison.plan.reader_steps
    readers = SceneReaders(folder, (h, w), c, console.print_line, steps)
    lpips = feature_networks.load_lpips(config)
    return Tools(readers, lpips, comparison.plan.seed)


def _attributes(asked: _Asked) -> Attributes | None:
    """Returns the attributes that captions name; None if these are not scenes."""
    if not isinstance(asked.source, ScenesSource):
        return None
    # The captions do not depend on the size.
    read = asked.source.read_batch(asked.index, (1, 1), fields=("caption",))
    assert read.caption is not None
    found = asked.source.describe(asked.index)
    return Attributes(scene_readers.named_attributes(found, read.caption))


def _layouts(asked: _Asked) -> Layouts | None:
    """Returns the boxes; None if these are not scenes."""
    if not isinstance(asked.source, ScenesSource):
        return None
    fields = asked.request.fields
    parts = (fields[f"layout.{part}"] for part in ("boxes", "category", "present"))
    return Layouts(*map(np.asarray, parts))


def _semantic_maps(asked: _Asked) -> SemanticMaps | None:
    """Returns the classes of pixels; None if they are not those of scenes."""
    is_read = asked.config.conditions.semantic.map == "semantic"
    if not isinstance(asked.source, ScenesSource) or not is_read:
        return None
    return SemanticMaps(np.asarray(asked.request.fields["semantic"]))


def _small_images(asked: _Asked) -> SmallImages:
    """Returns the small images, before noise is added to them."""
    rule = asked.config.conditions.low_resolution.degradation
    # What made the images small at random cannot be repeated.
    rule = "bicubic" if rule == "bsr_light" else rule
    return SmallImages(np.asarray(asked.batch.fields["low_resolution.small"]), rule)


def _holes(asked: _Asked) -> Holes:
    return Holes(np.asarray(asked.request.fields["inpainting.mask"]) > 0.5)


# Condition -> what it asks for; None where nothing can read it from samples.
_WANTED: dict[str, Callable[[_Asked], Wanted | None]] = {
    "text": _attributes,
    "layout": _layouts,
    "semantic": _semantic_maps,
    "low_resolution": _small_images,
    "inpainting": _holes,
}
