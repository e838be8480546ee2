"""The section `data`: the source of images, and batches of it, whole or in patches."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from simple_diffusion.build.options import Config, pick
from simple_diffusion.core.types import Batch
from simple_diffusion.data import patches, pipeline, sources, views
from simple_diffusion.training.topology import Share

CROPS = {"center": "center", "random": "random"}
WHOLE = Share(0, 1)  # of each batch: that of a process that runs alone
RESIZES = {"area": "area", "antialias": "antialias"}


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images come from.

    train: (first step) -> this process's part of each batch, without end.
    held_out: (count, batch size) -> one pass over held-out images, as `train` has them:
      patches, if it is trained on patches.
    whole: (count, batch size, (height, width)) -> one pass over whole held-out images,
      cut to the shape of this size in pixels and resized to it.
    epoch: number of training images.
    num_classes, class_names: of the labels; 0 and () if they are not used.
    """

    train: Callable[[int], Iterator[Batch]]
    held_out: Callable[[int, int], Iterator[Batch]]
    whole: Callable[[int, int, tuple[int, int]], Iterator[Batch]]
    epoch: int
    num_classes: int
    class_names: tuple[str, ...]


def data(config: Config, share: Share = WHOLE) -> Data:
    """Opens the source of a config.

    Args:
      config: the whole config.
      share: which part of every batch this process reads, see `sharding.share`.

    Raises:
      ValueError: if the source cannot be opened, its classes are not those that
        `data.num_classes` says, or patches are asked for that cannot be.
    """
    c, seed, batch_size = config.data, config.train.seed, config.train.batch_size
    spec, folder = c.source, c.data_dir
    resolution = c.resolution
    options: dict[str, Any] = dict(
        crop=pick(CROPS, c.crop, "data.crop"),
        flip=c.flip,
        resize=pick(RESIZES, c.resize, "data.resize"),
    )
    law = _law(c.patches, resolution, options)
    place: dict[str, Any] = dict(
        holdout_fraction=c.holdout_fraction, crop_box=c.crop_box
    )
    wanted = c.num_classes
    # Opened last: a wrong option should not have to wait for a large source.
    source = sources.open_source(spec, folder, "train", **place)
    if law is not None:
        views.check(source, law)
    names = tuple(source.class_names)
    if wanted == 0:
        names = ()
    elif wanted is not None and wanted != len(names):
        raise ValueError(
            f"data.num_classes={wanted}, but data.source={spec} has "
            f"{len(names)} classes; use that number, None, or 0 to ignore labels"
        )
    processes: dict[str, Any] = dict(
        process_index=share.index, process_count=share.count
    )

    def train(first_step: int) -> Iterator[Batch]:
        return pipeline.train_batches(
            source,
            batch_size=batch_size,
            resolution=resolution,
            seed=seed,
            start_step=first_step,
            patches=law,
            **options,
            **processes,
        )

    def evaluated(count: int, batch: int, **what: Any) -> Iterator[Batch]:
        return pipeline.eval_batches(
            sources.open_source(spec, folder, "holdout", **place),
            batch_size=batch,
            count=count,
            resize=options["resize"],
            **what,
            **processes,
        )

    def held_out(count: int, batch: int) -> Iterator[Batch]:
        if law is not None:
            return evaluated(count, batch, patches=law)
        return evaluated(count, batch, size=(resolution, resolution))

    def whole(count: int, batch: int, size: tuple[int, int]) -> Iterator[Batch]:
        return evaluated(count, batch, size=size)

    return Data(train, held_out, whole, len(source), len(names), names)


def _law(
    section: Config | None, resolution: int, options: dict[str, Any]
) -> patches.Law | None:
    """Returns the law that the section `data.patches` describes, if there is one."""
    if section is None:
        return None
    return patches.Law(
        patch=resolution,
        smallest=section.smallest,
        largest=section.largest,
        probability_smallest=section.probability_smallest,
        law=section.law,
        aspect=None if section.aspect is None else float(section.aspect),
        **options,
    )
