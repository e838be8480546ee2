"""The section `data`: the source of images, and batches of full images or patches."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from simple_diffusion.core.options import Config, pick, training_size
from simple_diffusion.core.types import Batch
from simple_diffusion.data import patches, pipeline, views
from simple_diffusion.data.conditioning import encoders as host_encoders
from simple_diffusion.data.conditioning.encoders import Encoder
from simple_diffusion.data.fields import PORTRAIT as PORTRAIT_VECTOR
from simple_diffusion.data.records import text_features
from simple_diffusion.data.sources import catalogue, protocols
from simple_diffusion.training.topology import Shard

CROPS = {"center": "center", "random": "random"}
SINGLE_PROCESS = Shard(0, 1)  # one process reads all of each batch
RESIZES = {"area": "area", "antialias": "antialias"}
PORTRAIT = {"crop": False, "turn": True}
FLIP_CAPTIONS = {"swap": True, "keep": False}
_CHECKSUM_IMAGES = 32  # number of images that the checksum covers


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of a config.

    train: (first step) -> endless iterator over this process's part of each batch.
    held_out: (count, batch size) -> one pass over held-out images in the form of
      `train`: patches if the model is trained on patches.
    full_images: (count, batch size, (height, width)) -> one pass over full held-out
      images, cropped to the aspect ratio of this size in pixels and resized to it. With
      `split="train"` it iterates over the training images in a fixed order, without
      mirroring. It skips the first `start` images.
    select: (indices in that pass, (height, width), split) -> these images as one batch,
      in every process.
    describe: (split, (height, width)) -> the content of such a pass as plain JSON. It
      is equal for equal images in any folder and contains a checksum of some of them.
    source: split -> the examples themselves, with all fields that are read.
    epoch: number of training images.
    num_classes, class_names: of the labels; 0 and () if labels are not used.
    """

    train: Callable[[int], Iterator[Batch]]
    held_out: Callable[[int, int], Iterator[Batch]]
    full_images: Callable[..., Iterator[Batch]]
    select: Callable[..., Batch]
    describe: Callable[[protocols.Split, tuple[int, int]], dict[str, Any]]
    source: Callable[[protocols.Split], protocols.Source]
    epoch: int
    num_classes: int
    class_names: tuple[str, ...]


def open_data(
    config: Config,
    share: Shard = SINGLE_PROCESS,
    make_encoders: Callable[[protocols.Source], Sequence[Encoder]] = lambda source: (),
) -> Data:
    """Opens the source of a config.

    Args:
      config: the whole config.
      share: the part of every batch that this process reads, see
        `sharding.data_shard`.
      make_encoders: source -> the encoders of the other fields that the conditions
        need. Every batch then has `Batch.fields`.

    Raises:
      ValueError: the source cannot be opened or lacks a field, its classes do not match
        `data.num_classes`, or the patch settings contradict each other.
    """
    c, seed, batch_size = config.data, config.train.seed, config.train.batch_size
    spec, folder = c.source, c.data_dir
    full_size = training_size(config)
    options: dict[str, Any] = dict(
        crop=pick(CROPS, c.crop, "data.crop"),
        flip=c.flip,
        resize=pick(RESIZES, c.resize, "data.resize"),
    )
    distribution = _patch_distribution(c.patches, full_size, options)
    selection: dict[str, Any] = dict(
        holdout_fraction=c.holdout_fraction,
        crop_box=c.crop_box,
        tfds_fields=c.tfds_fields,
        channels=c.channels,
    )
    num_classes, turns = c.num_classes, _turns_portrait(c, full_size)
    # Open the source last: it may be large, and a wrong option should fail before.
    source = catalogue.open_source(spec, folder, "train", **selection)
    if distribution is not None:
        views.check_patches(source, distribution)
    if turns and isinstance(source, protocols.BatchSource):
        raise ValueError(
            f"data.portrait=turn, but data.source={spec} generates images of any "
            "aspect: set data.portrait=crop"
        )
    encoders = tuple(make_encoders(source))
    made = {f"vector:{PORTRAIT_VECTOR}"} if turns else frozenset()
    for encoder in encoders:
        user = f"the condition {encoder.name}"
        catalogue.check_fields(source, spec, encoder.needs - made, user)
    fields: dict[str, Any] = dict(
        encoders=encoders, has_alpha=c.channels == 4, turns_portrait=turns
    )
    needs = host_encoders.list_needs(encoders) - made
    swap_sides = _swaps_sides(c, needs)
    selection["wanted"] = needs | ({"label"} if num_classes != 0 else set())
    source = protocols.select_fields(source, selection["wanted"])
    names = tuple(source.class_names)
    if num_classes == 0:
        names = ()
    elif num_classes is not None and num_classes != len(names):
        user = f"data.num_classes={num_classes}"
        catalogue.check_fields(source, spec, {"label"}, user)
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
            size=None if distribution else full_size,
            seed=seed,
            start_step=first_step,
            patches=distribution,
            swap_sides=swap_sides,
            **fields,
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
            **fields,
            **(processes | view),
        )

    def held_out(count: int, batch: int) -> Iterator[Batch]:
        if distribution is not None:
            return make_pass(count, batch, patches=distribution)
        return make_pass(count, batch, size=full_size)

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
            open_split(split),
            indices,
            size=size,
            resize=options["resize"],
            **fields,
        )

    @functools.cache  # slow for a folder of a million files
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
            **({"portrait": c.portrait} if turns else {}),
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
        open_split,
        len(source),
        len(names),
        names,
    )


def _fingerprint(source: protocols.Source) -> str | None:
    """Returns a string that changes if stored images are added, removed or changed."""
    if isinstance(source, protocols.StoredSource):
        return source.fingerprint()
    return None  # generated by code; the checksum detects changes of the code


def _swaps_sides(c: Config, needs: frozenset[str]) -> bool:
    """Returns whether captions of mirrored images have left and right exchanged."""
    if c.flip and text_features.FIELD in needs and c.flip_captions != "keep":
        raise ValueError(
            "data.flip=True mirrors images, but text features were computed of the "
            "captions as they are: use data.flip_captions=keep if the captions name no "
            f"sides, or data.flip=False (data.flip_captions={c.flip_captions})"
        )
    if c.flip_captions is not None:
        return pick(FLIP_CAPTIONS, c.flip_captions, "data.flip_captions")
    if c.flip and "caption" in needs:
        raise ValueError(
            "data.flip=True mirrors images, but captions may say left and right: use "
            "data.flip_captions=swap if these words always mean sides, "
            "data.flip_captions=keep if the captions name no sides, or data.flip=False"
        )
    return False


def _turns_portrait(c: Config, size: tuple[int, int]) -> bool:
    """Returns whether images that are higher than wide are turned.

    Raises:
      ValueError: they cannot be, or a mirrored one would be upside down.
    """
    if not pick(PORTRAIT, c.portrait, "data.portrait"):
        return False
    if c.patches is not None or size[0] >= size[1]:
        raise ValueError(
            f"data.portrait=turn, but images of data.resolution={size[0]}x{size[1]} "
            "are not wider than high, or are patches: set a resolution such as "
            "192x320, or data.portrait=crop"
        )
    if c.flip:
        raise ValueError(
            "data.flip=True with data.portrait=turn would mirror turned images from "
            "top to bottom: set data.flip=False"
        )
    return True


def _patch_distribution(
    section: Config | None, size: tuple[int, int], options: dict[str, Any]
) -> patches.PatchDistribution | None:
    """Returns the size distribution of the section `data.patches`, if there is one."""
    if section is None:
        return None
    if size[0] != size[1]:
        raise ValueError(
            f"data.resolution={size[0]}x{size[1]}: patches are square; with "
            f"data.patches use a side, such as data.resolution={min(size)}"
        )
    return patches.PatchDistribution(
        patch=size[0],
        smallest=section.smallest,
        largest=section.largest,
        probability_smallest=section.probability_smallest,
        size_distribution=section.law,
        aspect=None if section.aspect is None else float(section.aspect),
        **options,
    )
