"""Figures for the defects of generated scenes, compared with real ones.

Each figure is near 0 for real scenes of the same size: the Fréchet distance of the two
sets, the error in the number of objects, the error in their size, and the difference of
detail at the border and in the middle. The functions are fixed: the only trained
network is the counter, always the same one.
"""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scene_counter
from simple_diffusion.evaluation.metrics import frechet as distances
from simple_diffusion.evaluation.metrics import statistics

# Pixels to which all pictures are brought for the distance.
SIDE = 64
# Share of the side that is border.
BORDER = 1 / 8


def measure(
    images: np.ndarray,
    labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
    cache: Path | None = None,
) -> dict[str, float]:
    """Returns all figures.

    Args:
      images: uint8 [n, h, w, 3], generated.
      labels: their classes.
      real: real scenes of the same height and width.
      real_labels: their classes.
      cache: folder of the counter's parameters.
    """
    params = scene_counter.cached(cache)
    counts, sizes = _things(params, images, labels), _things(params, real, real_labels)
    figures = {"frechet": frechet(images, real), **_compared(counts, sizes)}
    border, centre = (_detail(images, real, inside) for inside in (False, True))
    return {**figures, "border_error": border, "centre_error": centre}


def features(images: np.ndarray) -> np.ndarray:
    """Returns 112 features of each picture: colours and detail, place by place.

    The mean colour of each of 4x4 fields, and in each the mean absolute difference of
    grey along both axes at two scales.
    """
    x = scene_counter.resized(images, SIDE, SIDE) / 255
    parts = [_fields(x)]
    for side in (SIDE, SIDE // 4):
        grey = scene_counter.resized(x.mean(-1, keepdims=True), side, side)
        for axis in (1, 2):
            step = np.abs(np.diff(grey, axis=axis, append=grey.take([-1], axis)))
            parts.append(_fields(4 * step))
    return np.concatenate(parts, 1)


def frechet(images: np.ndarray, real: np.ndarray) -> float:
    """Returns the Fréchet distance of the features of two sets of pictures."""
    a, b = (statistics.compute(features(v).astype(np.float64)) for v in (images, real))
    return distances.distance(a, b)


def _fields(x: np.ndarray) -> np.ndarray:
    n, h, w, c = x.shape
    return x.reshape(n, 4, h // 4, 4, w // 4, c).mean((2, 4)).reshape(n, -1)


Things = dict[int, tuple[np.ndarray, np.ndarray]]


def _things(params: Any, images: np.ndarray, labels: np.ndarray) -> Things:
    """Returns counts and sizes (root of height times width) for each class."""
    found = scene_counter.estimate(params, images, labels)
    size = np.exp(found[:, 1:].mean(1))
    of = {k: labels == k for k in np.unique(labels)}
    return {k: (found[rows, 0], size[rows]) for k, rows in of.items()}


def _compared(drawn: Things, real: Things) -> dict[str, float]:
    """Returns relative errors, the mean over classes.

    Of counts and of sizes: the distance between the two sorted sets (Wasserstein-1),
    divided by the real mean. The same counter looks at both, with the same faults.
    """
    errors = [
        [_transport(a, b) / b.mean() for a, b in zip(drawn[k], real[k], strict=True)]
        for k in drawn
        if k in real
    ]
    count, size = np.mean(errors, 0)
    return {"count_error": float(count), "size_error": float(size)}


def _transport(a: np.ndarray, b: np.ndarray) -> float:
    at = (np.arange(100) + 0.5) / 100
    return float(np.abs(np.quantile(a, at) - np.quantile(b, at)).mean())


def _detail(images: np.ndarray, real: np.ndarray, inside: bool) -> float:
    """Returns |log of detail, generated over real| at the border or in the middle.

    Detail is the mean absolute difference of neighbours, of all pictures, along each
    axis: what is stretched has less of it along the axis of the stretch. The mean of
    both axes' errors.
    """
    h, w = images.shape[1:3]
    edge = max(1, round(BORDER * min(h, w)))
    middle = np.zeros((h, w), bool)
    middle[edge:-edge, edge:-edge] = True
    where = middle if inside else ~middle
    errors = []
    for axis in (1, 2):
        energy = []
        for v in (images, real):
            x = v.astype(np.float32).mean(-1)
            step = np.abs(np.diff(x, axis=axis, append=x.take([-1], axis))).mean(0)
            energy.append(step[where].mean())
        errors.append(abs(np.log(energy[0] / energy[1])))
    return float(np.mean(errors))
