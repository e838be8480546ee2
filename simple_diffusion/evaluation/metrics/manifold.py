"""Fidelity and diversity, measured separately: precision, recall, density, coverage.

The manifold of a set of features is approximated by balls around them. The radius of a
ball is the distance to the k-th nearest neighbour within the set. All four metrics
depend on the number of features of both sets: compare only values of equal numbers.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from simple_diffusion.evaluation.metrics import feature_sets, pairwise


class Manifold(NamedTuple):
    """The contribution of each example; a metric is the mean of its array.

    A bootstrap over an array measures how the metric depends on the choice of these
    examples, with the balls fixed.

    Fields:
      precision: 1 for a generated example inside any real ball, else 0.
      recall: 1 for a real example inside any generated ball, else 0.
      density: number of real balls around a generated example, over k.
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
    """Returns precision, recall, density and coverage of each example.

    Balls are closed: points on the boundary, up to float64 rounding, are inside. So a
    set has precision, recall and coverage 1 with itself. For two samples of one
    distribution the expected density is 1 and the expected coverage
    1 - C(m-1, k) / C(n+m-1, k).

    Args:
      generated: features of generated images.
      real: features of real images.
      neighbours: k of precision and recall (Kynkäänniemi et al. 2019, eqs. 1-2).
      density_neighbours: k of density and coverage (Naeem et al. 2020, eqs. 4 and 6).

    Raises:
      ValueError: for k < 1, sets with fewer than k neighbours, different dimensions,
        or features that are not finite.
    """
    if min(neighbours, density_neighbours) < 1:
        raise ValueError(
            f"evaluate.neighbours must be positive, got {neighbours} for precision "
            f"and {density_neighbours} for density"
        )
    most = max(neighbours, density_neighbours)
    generated, real = feature_sets.check_pair(
        generated, real, most + 1, f" or lower evaluate.neighbours={most}"
    )
    radii = pairwise.find_nearest(real, real, most, include_self=False).distances ** 2
    precision_radii, density_radii = (
        radii[:, neighbours - 1],
        radii[:, density_neighbours - 1],
    )
    own = pairwise.find_nearest(generated, generated, neighbours, include_self=False)
    recall_radii = own.distances[:, -1] ** 2

    def block(rows: slice, squared: Float64[np.ndarray, "b m"]) -> tuple:
        inside = squared <= density_radii
        return (
            (squared <= precision_radii).any(axis=1),
            inside.sum(axis=1) / density_neighbours,
            (squared <= recall_radii[rows, None]).any(axis=0),
            inside.any(axis=0),
        )

    parts = pairwise.map_blocks(block, generated, real, as_lower_bound=True)
    precision, density, recall, coverage = zip(*parts, strict=True)
    return Manifold(
        np.concatenate(precision).astype(np.float64),
        np.any(recall, axis=0).astype(np.float64),
        np.concatenate(density),
        np.any(coverage, axis=0).astype(np.float64),
    )
