"""The section `data`: the source of images, and batches of it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from simple_diffusion.build.options import Config, pick
from simple_diffusion.core.types import Batch
from simple_diffusion.data import pipeline, sources

CROPS = {"center": "center", "random": "random"}
RESIZES = {"area": "area", "antialias": "antialias"}


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images come from.

    train: (first step) -> this process's part of each batch, without end.
    held_out: (count, batch size) -> one pass over held-out images.
    epoch: number of training images.
    num_classes, class_names: of the labels; 0 and () if they are not used.
    """

    train: Callable[[int], Iterator[Batch]]
    held_out: Callable[[int, int], Iterator[Batch]]
    epoch: int
    num_classes: int
    class_names: tuple[str, ...]


def data(config: Config) -> Data:
    """Opens the source of a config.

    Raises:
      ValueError: if the source cannot be opened, or its classes are not those that
        `data.num_classes` says.
    """
    c, seed, batch_size = config.data, config.train.seed, config.train.batch_size
    spec, folder = c.source, c.data_dir
    fraction, resolution = c.holdout_fraction, c.resolution
    resize = pick(RESIZES, c.resize, "data.resize")
    options: dict[str, Any] = dict(
        crop=pick(CROPS, c.crop, "data.crop"),
        flip=c.flip,
        resize=resize,
    )
    wanted = c.num_classes
    # Opened last: a wrong option should not have to wait for a large source.
    source = sources.open_source(spec, folder, "train", holdout_fraction=fraction)
    names = tuple(source.class_names)
    if wanted == 0:
        names = ()
    elif wanted is not None and wanted != len(names):
        raise ValueError(
            f"data.num_classes={wanted}, but data.source={spec} has "
            f"{len(names)} classes; use that number, None, or 0 to ignore labels"
        )
    processes: dict[str, Any] = dict(
        process_index=jax.process_index(), process_count=jax.process_count()
    )

    def train(first_step: int) -> Iterator[Batch]:
        return pipeline.train_batches(
            source,
            batch_size=batch_size,
            resolution=resolution,
            seed=seed,
            start_step=first_step,
            **options,
            **processes,
        )

    def held_out(count: int, size: int) -> Iterator[Batch]:
        return pipeline.eval_batches(
            sources.open_source(spec, folder, "holdout", holdout_fraction=fraction),
            batch_size=size,
            resolution=resolution,
            count=count,
            resize=resize,
            **processes,
        )

    return Data(train, held_out, len(source), len(names), names)
