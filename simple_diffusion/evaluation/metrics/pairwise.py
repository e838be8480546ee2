"""Distances between all features of two sets, in blocks that fit into memory.

|x - y|^2 = |x|^2 + |y|^2 - 2 x.y turns them into one matrix product, but cancels where
x and y are close. So both sets are centred first, everything is in float64, and the
distances of nearest neighbours are recomputed from the differences: a copy has distance
0 exactly.

This runs on the host in NumPy: results need float64, which not every accelerator has.
On CPU it was as fast as a compiled program, since the matrix product and the search for
the smallest distances dominate.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float64, Int

# Entries of a block: 32 MB; each thread holds a few.
_BLOCK = 2**22
# Relative to |x|^2 + |y|^2; well above the rounding of a product over thousands of
# dimensions.
_ROUNDING = 1e-12

T = TypeVar("T")


class Neighbours(NamedTuple):
    """The k nearest points of each query, nearest first.

    Fields:
      indices: rows of the points.
      distances: Euclidean.
    """

    indices: Int[np.ndarray, "n k"]
    distances: Float64[np.ndarray, "n k"]


def find_nearest(
    queries: Float64[np.ndarray, "n d"],
    points: Float64[np.ndarray, "m d"],
    k: int,
    include_self: bool = True,
) -> Neighbours:
    """Returns the k nearest points of each query.

    Args:
      queries: finite features.
      points: finite features, more than k.
      k: number of neighbours.
      include_self: whether row i of the points may be a neighbour of query i; False
        finds the neighbours of a set within itself.
    """

    def block(rows: slice, squared: Float64[np.ndarray, "b m"]) -> Neighbours:
        if not include_self:
            i = np.arange(len(squared))
            squared[i, i + rows.start] = np.inf
        if k < squared.shape[1]:
            chosen = np.argpartition(squared, k - 1, axis=1)[:, :k]
        else:
            chosen = np.broadcast_to(np.arange(k), squared.shape)
        differences = points[chosen] - queries[rows, None]  # [b, k, d]
        exact = np.sqrt(np.einsum("bkd,bkd->bk", differences, differences))
        order = np.lexsort((chosen, exact), axis=1)
        return Neighbours(
            np.take_along_axis(chosen, order, 1), np.take_along_axis(exact, order, 1)
        )

    parts = map_blocks(block, queries, points)
    return Neighbours(*map(np.concatenate, zip(*parts, strict=True)))


def map_blocks(
    function: Callable[[slice, Float64[np.ndarray, "b m"]], T],
    x: Float64[np.ndarray, "n d"],
    y: Float64[np.ndarray, "m d"],
    as_lower_bound: bool = False,
) -> list[T]:
    """Applies a function to the squared distances, block by block of rows.

    Args:
      function: (rows of x, squared distances from these to all of y) -> any result. It
        may overwrite the distances, and runs in threads.
      x: finite features.
      y: finite features.
      as_lower_bound: whether to subtract a bound on the rounding error, for
        comparisons in which equal distances must count as equal whatever the order of
        the sums.
    """
    centre = y.mean(axis=0)
    x, y = x - centre, y - centre
    scale = 1 - _ROUNDING if as_lower_bound else 1.0
    x_norms = scale * np.einsum("nd,nd->n", x, x)
    y_norms = scale * np.einsum("md,md->m", y, y)

    def block(start: int) -> T:
        rows = slice(start, min(start + size, len(x)))
        squared = (-2 * x[rows]) @ y.T
        squared += x_norms[rows, None]
        squared += y_norms
        return function(rows, squared)

    # `find_nearest` gathers k full features per row, so many dimensions need smaller
    # blocks.
    size = max(_BLOCK // max(len(y), 8 * y.shape[1]), 1)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
        return list(threads.map(block, range(0, len(x), size)))
