"""Distances between sets of images, as functions of statistics of their features."""

import warnings

import numpy as np

from simple_diffusion.evaluation.statistics import Statistics


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Returns the squared Fréchet distance between two Gaussians.

    |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), the quantity called FID when
    the features are those of a certain Inception network (Heusel et al. 2017, eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of
    S_a^(1/2) S_b S_a^(1/2), which is symmetric: no complex numbers, and what rounding
    makes negative is clipped at zero.

    Warns:
      UserWarning: if a covariance cannot have full rank because there are not more
        features than dimensions; the distance is then biased upwards.
    """
    dimension = len(a.mean)
    if len(b.mean) != dimension:
        raise ValueError(
            f"features of {dimension} and of {len(b.mean)} dimensions do not compare"
        )
    if min(a.n, b.n) <= dimension:
        warnings.warn(
            f"{min(a.n, b.n)} features for {dimension} dimensions: the Fréchet "
            "distance is biased upwards; raise evaluate.count",
            stacklevel=2,
        )
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(product, 0)).sum()
    distance = (
        np.sum((a.mean - b.mean) ** 2)
        + np.trace(a.covariance)
        + np.trace(b.covariance)
        - 2 * trace_of_root
    )
    return float(distance)
