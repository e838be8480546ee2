"""Sets of images to evaluate: samples of a model, or images of the data source."""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import UInt8

from simple_diffusion.build.data import Data
from simple_diffusion.core.types import Request, Weights
from simple_diffusion.data import feed
from simple_diffusion.data.sources.protocols import Split
from simple_diffusion.evaluation.feature_bank import ImageBatch
from simple_diffusion.pipelines.programs import Drawer
from simple_diffusion.training import sharding

Size = tuple[int, int]

# Of the samples of a model, how many of the first are kept, in images and in bytes.
_KEPT, _KEPT_BYTES, _CHANNELS = 1000, 2**28, 4


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of one size, in a fixed order.

    identity: description of the images as plain JSON, equal for equal images.
    count: number of positions of the set, including unreadable images.
    size: height and width in pixels.
    classes: class names of the labels; () without classes.
    parts: position -> batches of the images from this position on.
    at: indices -> only these images, [n, h, w, c].
    """

    identity: dict[str, Any]
    count: int
    size: Size
    classes: tuple[str, ...]
    parts: Callable[[int], Iterable[ImageBatch]]
    at: Callable[[list[int]], UInt8[np.ndarray, "n h w c"]]


def from_model(
    draw: Drawer,
    weights: Weights,
    request: Request,
    size: Size,
    classes: tuple[str, ...],
    identity: dict[str, Any],
) -> ImageSet:
    """Returns the samples of a model; the first ones are kept to be looked at again.

    Args:
      draw: see `programs.make_drawer`.
      weights: of the model, on the devices.
      request: what each sample is to show.
      size: height and width.
      classes: their names.
      identity: everything besides the request that determines the samples.
    """
    labels = np.asarray(request.label)
    most = min(len(labels), _KEPT, _KEPT_BYTES // math.prod((*size, _CHANNELS)))
    kept: dict[int, np.ndarray] = {}

    def parts(start: int) -> Iterator[ImageBatch]:
        for images in draw(weights, request, start):
            stop = start + len(images)
            kept.update(zip(range(start, min(stop, most)), images, strict=False))
            yield ImageBatch(images, labels[start:stop], np.ones(len(images), bool))
            start = stop

    def at(indices: list[int]) -> np.ndarray:
        missing = [k for k in indices if k not in kept]
        drawn = draw.draw_at(weights, request, missing) if missing else ()
        found = kept | dict(zip(missing, drawn, strict=True))
        return np.stack([found[k] for k in indices])

    hashes = {"labels": _hash(labels)}
    hashes |= {name: _hash(v) for name, v in request.fields.items()}
    return ImageSet(identity | hashes, len(labels), size, classes, parts, at)


def _hash(values: Any) -> str:
    return hashlib.sha256(np.asarray(values).tobytes()).hexdigest()[:12]


def from_data(
    dataset: Data,
    mesh: Mesh,
    *,
    count: int,
    batch_size: int,
    size: Size,
    split: Split,
    label: int | None = None,
) -> ImageSet:
    """Returns images of the data source, processed as for training but not mirrored.

    Args:
      dataset: the data source.
      mesh: the devices.
      count: number of images, of which unreadable ones are skipped.
      batch_size: images per batch, a multiple of the devices that share a batch.
      size: height and width.
      split: training or held-out images.
      label: restrict the set to this class; None uses all classes.
    """

    def parts(start: int) -> Iterator[ImageBatch]:
        batches = dataset.full_images(count, batch_size, size, split, start)
        placement = sharding.batch_sharding(mesh)
        with contextlib.closing(feed.Feed(batches, placement)) as device_batches:
            for batch in device_batches:
                labels, mask = multihost_utils.process_allgather(
                    (batch.label, batch.mask), tiled=True
                )
                if label is not None:
                    mask = mask & (labels == label)
                yield ImageBatch(batch.image, labels, mask)

    def at(indices: list[int]) -> np.ndarray:
        return np.asarray(dataset.select(indices, size, split).image)

    identity = dataset.describe(split, size) | {"count": count, "label": label}
    return ImageSet(identity, count, size, dataset.class_names, parts, at)
