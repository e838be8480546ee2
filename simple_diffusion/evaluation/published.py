"""Published statistics as the reference, in place of a dataset.

The .npz files of ADM (Dhariwal and Nichol 2021) hold `mu` and `sigma` of Inception's
pooled features over a dataset, `mu_s` and `sigma_s` of the spatial ones, and a few
images as `arr_0`; those of pytorch-fid hold `mu` and `sigma`.
"""

import zipfile
from pathlib import Path

import numpy as np

from simple_diffusion.evaluation.feature_bank import Bank
from simple_diffusion.evaluation.metrics.statistics import Statistics


def has_statistics(path: Path) -> bool:
    """Returns whether a file is an .npz that holds a mean and a covariance."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: Path) -> Bank:
    """Returns published statistics of Inception's features, without any features.

    The number of images is unknown.

    Raises:
      ValueError: if shapes do not fit, or numbers are not finite.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name.endswith(_NAMES)}
    total = _statistics(path, arrays["mu"], arrays["sigma"])
    spatial = None
    if "mu_s" in arrays and "sigma_s" in arrays:
        spatial = _statistics(path, arrays["mu_s"], arrays["sigma_s"])
    no_features = np.zeros((0, len(total.mean)), np.float32)
    return Bank(total, spatial, no_features, None, has_count=False)


_NAMES = ("mu", "sigma", "mu_s", "sigma_s")


def _statistics(path: Path, mean: np.ndarray, covariance: np.ndarray) -> Statistics:
    d = mean.size
    if mean.ndim != 1 or covariance.shape != (d, d):
        raise ValueError(
            f"{path}: mean of shape {mean.shape} and covariance of shape "
            f"{covariance.shape} do not fit together"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: mean or covariance is not finite")
    n = d + 2  # any n that allows full rank; `Bank.has_count` is False
    return Statistics(
        n, mean.astype(np.float64), covariance.astype(np.float64) * (n - 1)
    )
