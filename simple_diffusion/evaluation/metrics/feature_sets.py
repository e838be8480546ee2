"""What every metric asks of the sets of features that it compares."""

import numpy as np
from jaxtyping import Float64, Shaped

GENERATED = "generated features"
REAL = "real features"
COUNT = "evaluate.count"
REFERENCE_COUNT = "evaluate.reference_count"


def checked(
    features: Shaped[np.ndarray, "n d"],
    what: str,
    needed: int = 1,
    key: str = COUNT,
) -> Float64[np.ndarray, "n d"]:
    """Returns features in float64, once they are fit to be compared.

    Args:
      features: rows are features.
      what: they are, for the error.
      needed: the least number of rows.
      key: of the config, which makes them more.

    Raises:
      ValueError: for fewer rows than needed, or rows that are not finite, by number.
    """
    if len(features) < needed:
        raise ValueError(
            f"got {len(features)} {what}, wanted at least {needed}; raise {key}"
        )
    features = np.asarray(features, np.float64)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(features)} {what} are not finite, "
            f"first in rows {bad[:5].tolist()}"
        )
    return features


def pair(
    generated: Shaped[np.ndarray, "n d"],
    real: Shaped[np.ndarray, "m _"],
    needed: int = 1,
    otherwise: str = "",
) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "m d"]]:
    """Returns both sets in float64, once they are fit to be compared.

    Args:
      generated: rows are features.
      real: rows are features.
      needed: the least number of rows of either.
      otherwise: what helps as well as more rows, for the error.

    Raises:
      ValueError: as `checked`, and for features of different dimensions.
    """
    same_dimension(generated.shape[1], real.shape[1])
    return (
        checked(generated, GENERATED, needed, COUNT + otherwise),
        checked(real, REAL, needed, REFERENCE_COUNT + otherwise),
    )


def same_dimension(a: int, b: int) -> None:
    """Raises a ValueError for features of different dimensions."""
    if a != b:
        raise ValueError(
            f"features of {a} and of {b} dimensions do not compare: "
            "are both of the same network?"
        )
