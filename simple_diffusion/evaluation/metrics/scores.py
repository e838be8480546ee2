"""Metrics of a classifier on generated images: inception score and accuracy."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Shaped

from simple_diffusion.evaluation.metrics import feature_sets, intervals

_LOGITS = "rows of logits"


class Score(NamedTuple):
    """An inception score.

    Fields:
      value: the mean over the splits.
      deviation: the (population) standard deviation over the splits, which is usually
        printed behind the score. It describes the score of one split and is not the
        standard error of the mean.
    """

    value: float
    deviation: float


class Accuracy(NamedTuple):
    """The fraction of correct classes with its 95 % interval (Wilson)."""

    value: float
    interval: intervals.Interval


def inception_score(
    logits: Shaped[np.ndarray, "n classes"], *, splits: int = 10, seed: int = 2020
) -> Score:
    """Returns the inception score, exp of the mean KL(p(y|x) || p(y)), over splits.

    Salimans et al. 2016, section 4, in the convention of torch-fidelity: shuffled, then
    split into parts of nearly equal size. The score is at least 1, and at most the
    number of classes or the size of a split.

    Args:
      logits: of Inception without bias, or of any classifier.
      splits: number of splits.
      seed: of the shuffle; torch-fidelity uses 2020.

    Raises:
      ValueError: for fewer rows than splits, no splits, or rows that are not finite.
    """
    if splits < 1:
        raise ValueError(f"an inception score needs at least 1 split, got {splits}")
    logits = feature_sets.check_features(logits, _LOGITS, splits)
    # The legacy generator, which other implementations shuffle with.
    logits = logits[np.random.RandomState(seed).permutation(len(logits))]
    edges = [i * len(logits) // splits for i in range(1, splits)]
    return _score_splits(np.split(logits, edges))


def accuracy(
    logits: Shaped[np.ndarray, "n classes"], labels: Int[np.ndarray, "_"]
) -> Accuracy:
    """Returns the fraction of images that are classified as their label.

    Args:
      logits: of a classifier of these classes.
      labels: the classes that the images were generated for.

    Raises:
      ValueError: for no images, a different number of labels, labels that are none of
        the classes, or rows that are not finite.
    """
    correct = correct_predictions(logits, labels)
    interval = intervals.wilson(int(correct.sum()), len(correct))
    return Accuracy(float(correct.mean()), interval)


def correct_predictions(
    logits: Shaped[np.ndarray, "n classes"], labels: Int[np.ndarray, "_"]
) -> Float64[np.ndarray, "n"]:
    """Returns 1 for each image whose most probable class is its label, else 0."""
    logits = feature_sets.check_features(logits, _LOGITS)
    n, classes = logits.shape
    if len(labels) != n:
        raise ValueError(f"got {len(labels)} labels for {n} {_LOGITS}")
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if bad.size:
        raise ValueError(
            f"label {labels[bad[0]]} in row {bad[0]} is not one of the {classes} "
            "classes of the classifier"
        )
    return (logits.argmax(axis=1) == labels).astype(np.float64)


def _score_splits(parts: list[Float64[np.ndarray, "_ classes"]]) -> Score:
    scores = [_score(part) for part in parts]
    return Score(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: Float64[np.ndarray, "n classes"]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    # A class whose probabilities all round to zero contributes nothing.
    marginal = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - marginal)).sum(axis=1).mean()))
