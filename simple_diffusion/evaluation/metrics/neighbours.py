"""Whether a model repeats its training images.

Each sample is compared with its nearest training images in feature space. Held-out
images calibrate how near is too near: they come from the same distribution and cannot
have been memorised.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Shaped

from simple_diffusion.evaluation.metrics import feature_sets, pairwise

# A copy is nearer than this fraction of the median distance of held-out images: far
# below the distance of two images, far above the float32 rounding of one image in two
# batches.
_COPY = 1e-2


class Memorisation(NamedTuple):
    """How near samples are to training images, compared with held-out images.

    Fields:
      indices: of each sample's nearest training image.
      distances: from each sample to that image.
      held_out: distances of held-out images to their nearest training images.
      threshold: the percentile of held_out below which a sample counts as near.
      share: fraction of samples below the threshold. A model of the true distribution
        has percentile / 100; more indicates memorisation.
      ratio: median of distances over median of held_out. A model of the true
        distribution has 1; less indicates memorisation.
      copies: indices of samples that copy a training image: nearer than a hundredth of
        the median of held_out; nearest first.
    """

    indices: Int[np.ndarray, "n"]
    distances: Float64[np.ndarray, "n"]
    held_out: Float64[np.ndarray, "m"]
    threshold: float
    share: float
    ratio: float
    copies: Int[np.ndarray, "c"]


def find_nearest(
    samples: Shaped[np.ndarray, "n d"], training: Shaped[np.ndarray, "m _"], k: int = 5
) -> pairwise.Neighbours:
    """Returns the k training images nearest to each sample, nearest first.

    Args:
      samples: features of samples.
      training: features of training images.
      k: number of neighbours.

    Raises:
      ValueError: for k < 1, fewer than k training images, different dimensions, or
        features that are not finite.
    """
    if k < 1:
        raise ValueError(f"evaluate.neighbours must be positive, got {k}")
    feature_sets.check_dimensions(samples.shape[1], training.shape[1])
    samples = feature_sets.check_features(samples, feature_sets.GENERATED)
    training = feature_sets.check_features(
        training,
        "training features",
        k,
        f"evaluate.reference_count or lower evaluate.neighbours={k}",
    )
    return pairwise.find_nearest(samples, training, k)


def measure_memorisation(
    samples: Shaped[np.ndarray, "n d"],
    training: Shaped[np.ndarray, "m _"],
    held_out: Shaped[np.ndarray, "h _"],
    *,
    percentile: int | float = 5,
) -> Memorisation:
    """Returns whether samples are nearer to the training set than held-out images are.

    Both are compared with the same training images, so the numbers of samples and of
    held-out images may differ.

    Args:
      samples: features of samples.
      training: features of training images, preferably all of them.
      held_out: features of images that were not trained on.
      percentile: of the held-out distances; it defines the threshold.

    Raises:
      ValueError: for empty sets, different dimensions, a percentile outside 0 to 100,
        or features that are not finite.
    """
    if not 0 < percentile < 100:
        raise ValueError(f"a percentile lies between 0 and 100, got {percentile}")
    found = find_nearest(samples, training, 1)
    feature_sets.check_dimensions(held_out.shape[1], training.shape[1])
    held_out = feature_sets.check_features(held_out, "held-out features")
    expected = find_nearest(held_out, training, 1).distances[:, 0]
    distances = found.distances[:, 0]
    threshold = float(np.percentile(expected, percentile))
    median = float(np.median(expected))
    order = np.argsort(distances, kind="stable")
    return Memorisation(
        indices=found.indices[:, 0],
        distances=distances,
        held_out=expected,
        threshold=threshold,
        share=float(np.mean(distances < threshold)),
        ratio=_ratio(float(np.median(distances)), median),
        copies=order[distances[order] <= _COPY * median],
    )


def _ratio(samples: float, held_out: float) -> float:
    """Returns samples / held_out; 0 / 0 is 1, for data with duplicates."""
    if held_out == 0:
        return 1.0 if samples == 0 else float("inf")
    return samples / held_out
