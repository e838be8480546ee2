"""Sets of images to evaluate: drawn by a model, or of the data source."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from simple_diffusion.build.data import Data
from simple_diffusion.core.types import Weights
from simple_diffusion.data import feed
from simple_diffusion.data.sources.protocols import Split
from simple_diffusion.evaluation.feature_bank import ImageBatch
from simple_diffusion.pipelines.programs import Drawer
from simple_diffusion.training import sharding

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of one size, in an order that is always the same.

    identity: what they are, as plain JSON: the same for the same images.
    count: positions of the set, of which those may not count that cannot be read.
    size: height and width in pixels.
    classes: names of the classes that labels are numbers of; () if there are none.
    parts: position -> the images from there on.
    at: places -> these images alone, [n, h, w, c].
    """

    identity: dict[str, Any]
    count: int
    size: Size
    classes: tuple[str, ...]
    parts: Callable[[int], Iterable[ImageBatch]]
    at: Callable[[list[int]], UInt8[np.ndarray, "n h w c"]]


def of_model(
    draw: Drawer,
    weights: Weights,
    labels: Int[np.ndarray, "n"],
    size: Size,
    classes: tuple[str, ...],
    identity: dict[str, Any],
) -> ImageSet:
    """Returns the samples of a model.

    Args:
      draw: see `programs.make_drawer`.
      weights: of the model, on the devices.
      labels: the class of each sample.
      size: height and width.
      classes: their names.
      identity: what decides, besides labels, what the samples look like.
    """

    def parts(start: int) -> Iterator[ImageBatch]:
        for images in draw(weights, labels, start):
            stop = start + len(images)
            yield ImageBatch(images, labels[start:stop], np.ones(len(images), bool))
            start = stop

    def at(places: list[int]) -> np.ndarray:
        return draw.draw_at(weights, labels, places)

    marked = {"labels": hashlib.sha256(labels.tobytes()).hexdigest()[:12]}
    return ImageSet(identity | marked, len(labels), size, classes, parts, at)


def of_data(
    dataset: Data,
    mesh: Mesh,
    *,
    count: int,
    batch_size: int,
    size: Size,
    split: Split,
    label: int | None = None,
) -> ImageSet:
    """Returns images of the data source, prepared as for training but not mirrored.

    Args:
      dataset: the data source.
      mesh: the devices.
      count: how many; those that cannot be read are left out.
      batch_size: images at a time, a multiple of the devices that share a batch.
      size: height and width.
      split: those of the training, or those held out.
      label: the class whose images alone count; None counts all.
    """

    def parts(start: int) -> Iterator[ImageBatch]:
        batches = dataset.full_images(count, batch_size, size, split, start)
        where = sharding.batch_sharding(mesh)
        with contextlib.closing(feed.Feed(batches, where)) as fed:
            for batch in fed:
                labels, mask = multihost_utils.process_allgather(
                    (batch.label, batch.mask), tiled=True
                )
                if label is not None:
                    mask = mask & (labels == label)
                yield ImageBatch(batch.image, labels, mask)

    def at(places: list[int]) -> np.ndarray:
        return np.asarray(dataset.select(places, size, split).image)

    identity = dataset.describe(split, size) | {"count": count, "label": label}
    return ImageSet(identity, count, size, dataset.class_names, parts, at)
