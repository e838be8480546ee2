"""The section `data`: the source of images, and batches of full images or patches."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from simple_diffusion.core.options import Config, pick
from simple_diffusion.core.types import Batch
from simple_diffusion.data import patches, pipeline, views
from simple_diffusion.data.sources import catalogue, protocols
from simple_diffusion.training.topology import Shard

CROPS = {"center": "center", "random": "random"}
SINGLE_PROCESS = Shard(0, 1)  # one process reads all of each batch
RESIZES = {"area": "area", "antialias": "antialias"}
_CHECKSUM_IMAGES = 32  # images whose pixels are part of the checksum


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of a config.

    train: (first step) -> this process's part of each batch, without end.
    held_out: (count, batch size) -> one pass over held-out images in the form of
      `train`: patches, if the training is on patches.
    full_images: (count, batch size, (height, width)) -> one pass over full held-out
      images, cropped to the aspect of this size in pixels and resized to it. With
      `split="train"`, over the training images, in a fixed order and not mirrored;
      `start` images are skipped.
    select: (indices in that pass, (height, width), split) -> these images as one batch,
      in every process.
    describe: (split, (height, width)) -> the content of such a pass, as plain JSON: the
      same for the same images in any folder, with a checksum of some of them.
    epoch: number of training images.
    num_classes, class_names: of the labels; 0 and () if they are not used.
    """

    train: Callable[[int], Iterator[Batch]]
    held_out: Callable[[int, int], Iterator[Batch]]
    full_images: Callable[..., Iterator[Batch]]
    select: Callable[..., Batch]
    describe: Callable[[protocols.Split, tuple[int, int]], dict[str, Any]]
    epoch: int
    num_classes: int
    class_names: tuple[str, ...]


def data(config: Config, share: Shard = SINGLE_PROCESS) -> Data:
    """Opens the source of a config.

    Args:
      config: the whole config.
      share: which part of every batch this process reads, see `sharding.data_shard`.

    Raises:
      ValueError: if the source cannot be opened, its classes do not match
        `data.num_classes`, or the settings of patches contradict each other.
    """
    c, seed, batch_size = config.data, config.train.seed, config.train.batch_size
    spec, folder = c.source, c.data_dir
    resolution = c.resolution
    options: dict[str, Any] = dict(
        crop=pick(CROPS, c.crop, "data.crop"),
        flip=c.flip,
        resize=pick(RESIZES, c.resize, "data.resize"),
    )
    distribution = _patch_distribution(c.patches, resolution, options)
    selection: dict[str, Any] = dict(
        holdout_fraction=c.holdout_fraction, crop_box=c.crop_box
    )
    num_classes = c.num_classes
    # Opened last: a wrong option should not have to wait for a large source.
    source = catalogue.open_source(spec, folder, "train", **selection)
    if distribution is not None:
        views.check_patches(source, distribution)
    names = tuple(source.class_names)
    if num_classes == 0:
        names = ()
    elif num_classes is not None and num_classes != len(names):
        protocols.check_fields(source, {"label"}, f"data.num_classes={num_classes}")
        raise ValueError(
            f"data.num_classes={num_classes}, but data.source={spec} has "
            f"{len(names)} classes; use that number, None, or 0 to ignore labels"
        )
    processes: dict[str, Any] = dict(
        process_index=share.index, process_count=share.count
    )

    def train(first_step: int) -> Iterator[Batch]:
        return pipeline.train_batches(
            source,
            batch_size=batch_size,
            size=None if distribution else (resolution, resolution),
            seed=seed,
            start_step=first_step,
            patches=distribution,
            **options,
            **processes,
        )

    def open_split(split: protocols.Split) -> protocols.Source:
        if split == "train":
            return source
        return catalogue.open_source(spec, folder, split, **selection)

    def make_pass(
        count: int, batch: int, split: protocols.Split = "holdout", **view: Any
    ) -> Iterator[Batch]:
        return pipeline.eval_batches(
            open_split(split),
            batch_size=batch,
            count=count,
            resize=options["resize"],
            **(processes | view),
        )

    def held_out(count: int, batch: int) -> Iterator[Batch]:
        if distribution is not None:
            return make_pass(count, batch, patches=distribution)
        return make_pass(count, batch, size=(resolution, resolution))

    def full_images(
        count: int,
        batch: int,
        size: tuple[int, int],
        split: protocols.Split = "holdout",
        start: int = 0,
    ) -> Iterator[Batch]:
        return make_pass(count, batch, split, size=size, start=start)

    def select(
        indices: Sequence[int],
        size: tuple[int, int],
        split: protocols.Split = "holdout",
    ) -> Batch:
        return pipeline.eval_examples(
            open_split(split), indices, size=size, resize=options["resize"]
        )

    @functools.cache  # a folder of a million files takes a while
    def fingerprint(split: protocols.Split) -> str | None:
        return _fingerprint(open_split(split))

    @functools.cache
    def describe(split: protocols.Split, size: tuple[int, int]) -> dict[str, Any]:
        described, box = open_split(split), selection["crop_box"]
        length = len(described)
        pixels = select(range(min(length, _CHECKSUM_IMAGES)), size, split).image
        return {
            "source": spec.partition(":")[0],
            "split": split,
            "examples": length,
            "classes": list(described.class_names),
            "holdout_fraction": selection["holdout_fraction"],
            "crop_box": box and list(box),
            "crop": "center",
            "resize": options["resize"],
            "size": list(size),
            "content": fingerprint(split),
            "checksum": hashlib.sha256(pixels.tobytes()).hexdigest()[:12],
        }

    return Data(
        train,
        held_out,
        full_images,
        select,
        describe,
        len(source),
        len(names),
        names,
    )


def _fingerprint(source: protocols.Source) -> str | None:
    """Returns a text that changes if stored images are added, removed or changed."""
    if isinstance(source, protocols.StoredSource):
        return source.fingerprint()
    return None  # generated by code, whose changes the checksum shows


def _patch_distribution(
    section: Config | None, resolution: int, options: dict[str, Any]
) -> patches.PatchDistribution | None:
    """Returns the distribution that the section `data.patches` describes, if any."""
    if section is None:
        return None
    return patches.PatchDistribution(
        patch=resolution,
        smallest=section.smallest,
        largest=section.largest,
        probability_smallest=section.probability_smallest,
        size_distribution=section.law,
        aspect=None if section.aspect is None else float(section.aspect),
        **options,
    )
