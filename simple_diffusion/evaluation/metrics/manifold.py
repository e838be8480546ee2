"""Fidelity and variety apart: precision, recall, density, coverage.

A set of features is taken for the union of balls around them, each as large as the
distance to its k-th nearest neighbour within the set. All four depend on the number of
features on either side, and compare between runs with the same numbers alone.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from simple_diffusion.evaluation.metrics import feature_sets, pairwise


class Manifold(NamedTuple):
    """What each example contributes; a metric is the mean of its array.

    A bootstrap over an array says how far the metric depends on which of these
    examples were drawn, the balls as they are.

    Fields:
      precision: 1 for a generated example inside any real ball, else 0.
      recall: 1 for a real example inside any generated ball, else 0.
      density: in how many real balls a generated example lies, over k.
      coverage: 1 for a real example with any generated one in its ball, else 0.
    """

    precision: Float64[np.ndarray, "n"]
    recall: Float64[np.ndarray, "m"]
    density: Float64[np.ndarray, "n"]
    coverage: Float64[np.ndarray, "m"]


def compare(
    generated: Shaped[np.ndarray, "n d"],
    real: Shaped[np.ndarray, "m _"],
    *,
    neighbours: int = 3,
    density_neighbours: int = 5,
) -> Manifold:
    """Returns precision, recall, density and coverage, example by example.

    Balls are closed: what lies on the bound, up to the rounding of float64, is inside.
    A set therefore has precision, recall and coverage 1 with itself. For two samples of
    one distribution density is 1 and coverage 1 - C(m-1, k) / C(n+m-1, k) in the mean.

    Args:
      generated: features of generated images.
      real: features of real images.
      neighbours: k of precision and recall (Kynkäänniemi et al. 2019, eqs. 1-2).
      density_neighbours: k of density and coverage (Naeem et al. 2020, eqs. 4 and 6).

    Raises:
      ValueError: for k < 1, sets with no k neighbours, different dimensions, or
        features that are not finite.
    """
    if min(neighbours, density_neighbours) < 1:
        raise ValueError(
            f"evaluate.neighbours must be positive, got {neighbours} for precision "
            f"and {density_neighbours} for density"
        )
    most = max(neighbours, density_neighbours)
    generated, real = feature_sets.pair(
        generated, real, most + 1, f" or lower evaluate.neighbours={most}"
    )
    radii = pairwise.nearest(real, real, most, itself=False).distances ** 2
    precise, dense = radii[:, neighbours - 1], radii[:, density_neighbours - 1]
    own = pairwise.nearest(generated, generated, neighbours, itself=False)
    recalled = own.distances[:, -1] ** 2

    def block(rows: slice, squared: Float64[np.ndarray, "b m"]) -> tuple:
        inside = squared <= dense
        return (
            (squared <= precise).any(axis=1),
            inside.sum(axis=1) / density_neighbours,
            (squared <= recalled[rows, None]).any(axis=0),
            inside.any(axis=0),
        )

    parts = pairwise.map_blocks(block, generated, real, lowered=True)
    precision, density, recall, coverage = zip(*parts, strict=True)
    return Manifold(
        np.concatenate(precision).astype(np.float64),
        np.any(recall, axis=0).astype(np.float64),
        np.concatenate(density),
        np.any(coverage, axis=0).astype(np.float64),
    )
