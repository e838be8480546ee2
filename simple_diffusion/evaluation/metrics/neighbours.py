"""Whether a model repeats what it was trained on.

Samples are held against the training set by their nearest neighbours in features. How
near is too near is said by held-out images, which come from the same distribution and
cannot have been learnt by heart.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Shaped

from simple_diffusion.evaluation.metrics import feature_sets, pairwise

# Of the median distance of held-out images: far below what two images have between
# them, far above what float32 makes of one image in two batches.
_COPY = 1e-2


class Memorisation(NamedTuple):
    """How near samples are to training images, beside held-out images.

    Fields:
      indices: of each sample's nearest training image.
      distances: to these.
      held_out: distances of held-out images to their nearest training images.
      threshold: the percentile of held_out below which a sample counts as near.
      share: of samples below the threshold; percentile / 100 is what a model has that
        draws from the true distribution, more is memorisation.
      ratio: median of distances over median of held_out; 1 likewise, less is
        memorisation.
      copies: samples that are one of the training images as far as features can tell,
        nearer than a hundredth of the median of held_out; nearest first.
    """

    indices: Int[np.ndarray, "n"]
    distances: Float64[np.ndarray, "n"]
    held_out: Float64[np.ndarray, "m"]
    threshold: float
    share: float
    ratio: float
    copies: Int[np.ndarray, "c"]


def nearest(
    samples: Shaped[np.ndarray, "n d"], training: Shaped[np.ndarray, "m _"], k: int = 5
) -> pairwise.Neighbours:
    """Returns the k training images nearest to each sample, nearest first.

    Args:
      samples: features of samples.
      training: features of training images.
      k: how many.

    Raises:
      ValueError: for k < 1, fewer than k training images, different dimensions, or
        features that are not finite.
    """
    if k < 1:
        raise ValueError(f"evaluate.neighbours must be positive, got {k}")
    feature_sets.same_dimension(samples.shape[1], training.shape[1])
    samples = feature_sets.checked(samples, feature_sets.GENERATED)
    training = feature_sets.checked(
        training,
        "training features",
        k,
        f"evaluate.reference_count or lower evaluate.neighbours={k}",
    )
    return pairwise.nearest(samples, training, k)


def memorisation(
    samples: Shaped[np.ndarray, "n d"],
    training: Shaped[np.ndarray, "m _"],
    held_out: Shaped[np.ndarray, "h _"],
    *,
    percentile: int | float = 5,
) -> Memorisation:
    """Returns whether samples are nearer to the training set than held-out images are.

    Both are searched in the same training images, so their numbers may differ.

    Args:
      samples: features of samples.
      training: features of training images: best all of them.
      held_out: features of images that the model never saw.
      percentile: of the held-out distances, at which the threshold lies.

    Raises:
      ValueError: for empty sets, different dimensions, a percentile outside 0 to 100,
        or features that are not finite.
    """
    if not 0 < percentile < 100:
        raise ValueError(f"a percentile lies between 0 and 100, got {percentile}")
    found = nearest(samples, training, 1)
    feature_sets.same_dimension(held_out.shape[1], training.shape[1])
    held_out = feature_sets.checked(held_out, "held-out features")
    expected = nearest(held_out, training, 1).distances[:, 0]
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
    """Returns a / b, where data that repeat themselves have 0 / 0 = 1."""
    if held_out == 0:
        return 1.0 if samples == 0 else float("inf")
    return samples / held_out
