"""The section `data`: the source of images, and batches of it, whole or in patches."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from simple_diffusion.core.options import Config, pick
from simple_diffusion.core.types import Batch
from simple_diffusion.data import patches, pipeline, views
from simple_diffusion.data.sources import catalogue, protocols
from simple_diffusion.training.topology import Share

CROPS = {"center": "center", "random": "random"}
WHOLE = Share(0, 1)  # of each batch: that of a process that runs alone
RESIZES = {"area": "area", "antialias": "antialias"}
_PROBE = 32  # images whose pixels are part of the checksum


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images come from.

    train: (first step) -> this process's part of each batch, without end.
    held_out: (count, batch size) -> one pass over held-out images, as `train` has them:
      patches, if it is trained on patches.
    whole: (count, batch size, (height, width)) -> one pass over whole held-out images,
      cut to the shape of this size in pixels and resized to it. As `split="train"` over
      those of the training, in an order of their own and not mirrored; `start` images
      are left out.
    at: (places in that pass, (height, width), split) -> these images alone as a batch,
      in every process.
    describe: (split, (height, width)) -> what such a pass yields, as plain JSON: the
      same for the same images, wherever they lie, with a checksum of some of them.
    epoch: number of training images.
    num_classes, class_names: of the labels; 0 and () if they are not used.
    """

    train: Callable[[int], Iterator[Batch]]
    held_out: Callable[[int, int], Iterator[Batch]]
    whole: Callable[..., Iterator[Batch]]
    at: Callable[..., Batch]
    describe: Callable[[protocols.Split, tuple[int, int]], dict[str, Any]]
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
    source = catalogue.open_source(spec, folder, "train", **place)
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

    def opened(split: protocols.Split) -> protocols.Source:
        if split == "train":
            return source
        return catalogue.open_source(spec, folder, split, **place)

    def evaluated(
        count: int, batch: int, split: protocols.Split = "holdout", **what: Any
    ) -> Iterator[Batch]:
        return pipeline.eval_batches(
            opened(split),
            batch_size=batch,
            count=count,
            resize=options["resize"],
            **(processes | what),
        )

    def held_out(count: int, batch: int) -> Iterator[Batch]:
        if law is not None:
            return evaluated(count, batch, patches=law)
        return evaluated(count, batch, size=(resolution, resolution))

    def whole(
        count: int,
        batch: int,
        size: tuple[int, int],
        split: protocols.Split = "holdout",
        start: int = 0,
    ) -> Iterator[Batch]:
        return evaluated(count, batch, split, size=size, start=start)

    def at(
        places: Sequence[int], size: tuple[int, int], split: protocols.Split = "holdout"
    ) -> Batch:
        return pipeline.eval_examples(
            opened(split), places, size=size, resize=options["resize"]
        )

    @functools.cache  # a folder of a million files takes a while
    def content(split: protocols.Split) -> str | None:
        return _content(opened(split))

    @functools.cache
    def describe(split: protocols.Split, size: tuple[int, int]) -> dict[str, Any]:
        some, length = opened(split), len(opened(split))
        pixels = at(range(min(length, _PROBE)), size, split).image
        return {
            "source": spec.partition(":")[0],
            "split": split,
            "examples": length,
            "classes": list(some.class_names),
            "holdout_fraction": place["holdout_fraction"],
            "crop_box": None if place["crop_box"] is None else list(place["crop_box"]),
            "crop": "center",
            "resize": options["resize"],
            "size": list(size),
            "content": content(split),
            "checksum": hashlib.sha256(pixels.tobytes()).hexdigest()[:12],
        }

    return Data(train, held_out, whole, at, describe, len(source), len(names), names)


def _content(source: protocols.Source) -> str | None:
    """Returns a text that is another if stored images have come, gone or changed."""
    if isinstance(source, protocols.StoredSource):
        return source.fingerprint()
    return None  # made by code, for which the checksum speaks


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
