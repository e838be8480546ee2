"""Checks of the sets of features that metrics compare."""

import numpy as np
from jaxtyping import Float64, Shaped

GENERATED = "generated features"
REAL = "real features"
COUNT = "evaluate.count"
REFERENCE_COUNT = "evaluate.reference_count"


def check_features(
    features: Shaped[np.ndarray, "n d"],
    what: str,
    needed: int = 1,
    key: str = COUNT,
) -> Float64[np.ndarray, "n d"]:
    """Checks features and returns them in float64.

    Args:
      features: one row per image.
      what: their description, for the error.
      needed: the minimum number of rows.
      key: the config key that increases the number, for the error.

    Raises:
      ValueError: for fewer rows than needed, or rows that are not finite, with their
        indices.
    """
    if len(features) < needed:
        raise ValueError(
            f"got {len(features)} {what}, need at least {needed}; raise {key}"
        )
    features = np.asarray(features, np.float64)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(features)} {what} are not finite, "
            f"first in rows {bad[:5].tolist()}"
        )
    return features


def check_pair(
    generated: Shaped[np.ndarray, "n d"],
    real: Shaped[np.ndarray, "m _"],
    needed: int = 1,
    otherwise: str = "",
) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "m d"]]:
    """Checks two sets of features and returns both in float64.

    Args:
      generated: one row per image.
      real: one row per image.
      needed: the minimum number of rows of each.
      otherwise: what else helps besides more rows, for the error.

    Raises:
      ValueError: as `check_features`, and for features of different dimensions.
    """
    check_dimensions(generated.shape[1], real.shape[1])
    return (
        check_features(generated, GENERATED, needed, COUNT + otherwise),
        check_features(real, REAL, needed, REFERENCE_COUNT + otherwise),
    )


def check_dimensions(a: int, b: int) -> None:
    """Raises a ValueError for features of different dimensions."""
    if a != b:
        raise ValueError(
            f"features of {a} and of {b} dimensions cannot be compared: "
            "are both of the same network?"
        )
