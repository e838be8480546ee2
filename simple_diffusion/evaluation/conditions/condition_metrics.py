"""The metrics of each kind of condition, with what they are to be compared with.

The same predictors read real images of the same conditions: no sample can be expected
to be read better. A baseline that needs no model says what is little.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from simple_diffusion.evaluation.conditions import others
from simple_diffusion.evaluation.conditions.wanted import (
    Attributes,
    Holes,
    SemanticMaps,
    SmallImages,
    Wanted,
)
from simple_diffusion.evaluation.metrics import intervals, similarity
from simple_diffusion.evaluation.metrics.conditions import (
    attributes,
    holes,
    layout,
    low_resolution,
    semantic,
)
from simple_diffusion.evaluation.metrics.conditions.class_means import Estimate
from simple_diffusion.evaluation.metrics.conditions.layout import Layouts
from simple_diffusion.evaluation.networks.lpips import Lpips
from simple_diffusion.evaluation.scoring import Metric

# Dividing line between equal images and others: the error of rounding to 8 bits, 1/12
# of a squared level. An infinite PSNR of one image would hide all others in the mean.
_MOST_PSNR = 10 * np.log10(255**2 * 12)

Pixels = UInt8[np.ndarray, "n h w c"]

# Names of the columns beside a metric.
REAL = "real images"
GUESS = "most frequent value"
OTHER_LAYOUT = "boxes of another image"
OTHER_MAP = "map of another image"
BICUBIC = "bicubic enlargement"
NEAREST = "nearest known pixel"


class Readers(Protocol):
    """What reads conditions from images; `scene_readers.SceneReaders` is one.

    Each method takes uint8 images [n, h, w, c].
    """

    classes: int

    def read_attributes(self, pictures: Pixels) -> Mapping[str, Int[np.ndarray, "n"]]:
        """Returns the value of each attribute."""
        ...

    def find_objects(self, pictures: Pixels) -> Layouts:
        """Returns the objects of `classes` classes."""
        ...

    def segment(self, pictures: Pixels) -> Int[np.ndarray, "n H W"]:
        """Returns the class of each pixel, of `classes` classes, at any size."""
        ...


class Pictures(NamedTuple):
    """The images that are compared.

    Fields:
      samples: made for the conditions.
      originals: the real images that the conditions were taken from.
    """

    samples: Pixels
    originals: Pixels


class Tools(NamedTuple):
    """What metrics need besides the images.

    Fields:
      readers: None where there are none for such images; the metrics of captions,
        layouts and semantic maps need them.
      lpips: None leaves LPIPS out.
      seed: of the intervals.
    """

    readers: Readers | None = None
    lpips: Lpips | None = None
    seed: int = 0


def measure(
    kind: str, pictures: Pictures, wanted: Wanted, tools: Tools
) -> Iterator[Metric]:
    """Yields the metrics of images that were made for a condition.

    Args:
      kind: of the condition, a key of `MEASURES`.
      pictures: n samples, and the n real images.
      wanted: what each was asked to show: `Attributes` for text, `Layouts` for layout,
        `SemanticMaps` for semantic, `SmallImages` for low_resolution, `Holes` for
        inpainting.
      tools: see `Tools`.

    Raises:
      ValueError: there is no such kind, the readers that it needs are missing, or
        nothing is wanted.
    """
    if kind not in MEASURES:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(MEASURES)}")
    if kind in NEED_READERS and tools.readers is None:
        raise ValueError(f"metrics of the condition {kind} need readers of such images")
    yield from MEASURES[kind](pictures, wanted, tools)


def _text(pictures: Pictures, wanted: Attributes, tools: Tools) -> Iterator[Metric]:
    assert tools.readers is not None
    found, real = (tools.readers.read_attributes(each) for each in pictures)
    for name, values in wanted.values.items():
        score = attributes.accuracy(found[name], values)
        best = attributes.accuracy(real[name], values)
        if score is None or best is None:  # no caption names it
            continue
        n = int((values >= 0).sum())
        baselines = {
            REAL: best.value,
            GUESS: attributes.most_frequent_share(values),
        }
        yield _metric(f"accuracy_{name}", Estimate(*score), n, baselines)


def _layout(pictures: Pictures, wanted: Layouts, tools: Tools) -> Iterator[Metric]:
    readers, n = tools.readers, len(pictures.samples)
    assert readers is not None

    def compare(found: Layouts) -> layout.LayoutScores:
        return layout.compare(wanted, found, readers.classes, tools.seed)

    found, real = (compare(readers.find_objects(each)) for each in pictures)
    columns = {REAL: real}
    if n > 1:
        other = others.pair_with_others(others.layout_keys(wanted))
        columns[OTHER_LAYOUT] = compare(Layouts(*(v[other] for v in wanted)))
    for name in layout.LayoutScores._fields:
        score = getattr(found, name)
        if score is not None:
            beside = {k: getattr(v, name) for k, v in columns.items()}
            baselines = {k: v.value for k, v in beside.items() if v is not None}
            yield _metric(f"layout_{name}", score, n, baselines)


def _semantic(
    pictures: Pictures, wanted: SemanticMaps, tools: Tools
) -> Iterator[Metric]:
    readers, n = tools.readers, len(pictures.samples)
    assert readers is not None
    found, real = (readers.segment(each) for each in pictures)
    ids = semantic.resize_ids(wanted.ids, found.shape[1:])
    columns = {REAL: real}
    if n > 1:
        columns[OTHER_MAP] = ids[others.pair_with_others(others.map_keys(ids))]
    kinds: dict[str, Callable[[np.ndarray], Estimate]] = {
        "semantic_accuracy": lambda maps: semantic.pixel_accuracy(
            maps, ids, tools.seed
        ),
        "semantic_iou": lambda maps: semantic.mean_iou(
            maps, ids, readers.classes, tools.seed
        ),
    }
    for name, score in kinds.items():
        baselines = {title: score(maps).value for title, maps in columns.items()}
        yield _metric(name, score(found), n, baselines)


def _low_resolution(
    pictures: Pictures, wanted: SmallImages, tools: Tools
) -> Iterator[Metric]:
    samples, originals = pictures
    simple = low_resolution.enlarge(wanted.small, samples.shape[1:3])
    columns = {BICUBIC: _compare(simple, originals, tools.lpips)}
    values = _compare(samples, originals, tools.lpips)
    sets = {"": samples, BICUBIC: simple, REAL: originals}
    for title, images in sets.items():
        error = low_resolution.compare(images, wanted.small, wanted.rule)
        of = columns.setdefault(title, {}) if title else values
        of |= {"consistency_error": error.mean, "consistency_error_max": error.most}
    yield from _means(values, columns, tools.seed)


def _inpainting(pictures: Pictures, wanted: Holes, tools: Tools) -> Iterator[Metric]:
    samples, originals = pictures
    hole = wanted.hole
    simple = holes.fill_nearest(originals, hole)

    def compare(images: Pixels) -> dict[str, np.ndarray]:
        composed = holes.compose(images, originals, hole)
        found = _compare(composed, originals, tools.lpips, hole)
        found = {f"hole_{name}": value for name, value in found.items()}
        return found | {
            "known_exact": holes.unchanged_share(images, originals, hole),
        }

    columns = {NEAREST: compare(simple)}
    yield from _means(compare(samples), columns, tools.seed)


def _compare(
    images: Pixels,
    originals: Pixels,
    lpips: Lpips | None,
    where: np.ndarray | None = None,
) -> dict[str, Shaped[np.ndarray, "n"]]:
    """Returns the similarity of each image to its original, by name."""
    psnr = similarity.psnr(images, originals, where)
    values = {"psnr": np.minimum(psnr, _MOST_PSNR)}
    if min(images.shape[1:3]) >= similarity.SMALLEST:
        values["ssim"] = similarity.ssim(images, originals, where)
    if lpips is not None and lpips.supports(*images.shape[1:]):
        values[f"lpips_{lpips.trunk}"] = lpips(images, originals)
    return values


def _means(
    values: Mapping[str, Shaped[np.ndarray, "n"]],
    columns: Mapping[str, Mapping[str, Shaped[np.ndarray, "n"]]],
    seed: int,
) -> Iterator[Metric]:
    """Yields means over images; those without a value (NaN) do not count."""
    for name, value in values.items():
        known = value[~np.isnan(value)].astype(np.float64)
        if not len(known):
            continue
        interval = intervals.bootstrap(known, seed=seed) if len(known) > 1 else None
        baselines = {
            title: float(np.nanmean(column[name].astype(np.float64)))
            for title, column in columns.items()
            if name in column
        }
        estimate = Estimate(float(known.mean()), interval)
        yield _metric(name, estimate, len(known), baselines)


def _metric(
    name: str, score: Estimate, n: int, baselines: Mapping[str, float]
) -> Metric:
    return Metric(name, score.value, (n, n), score.interval, None, baselines)


NEED_READERS = ("text", "layout", "semantic")
# Each takes its own type of `Wanted`.
MEASURES: dict[str, Callable[..., Iterator[Metric]]] = {
    "text": _text,
    "layout": _layout,
    "semantic": _semantic,
    "low_resolution": _low_resolution,
    "inpainting": _inpainting,
}
