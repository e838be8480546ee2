import json

import numpy as np
import pytest

from simple_diffusion.evaluation.metrics import scores
from tests.evaluation.metrics import make_metric_goldens as peers

GOLDENS = json.loads(peers.GOLDENS.read_text())["logits"]


def one_hot(labels, classes, certainty=1000.0):
    return certainty * np.eye(classes)[labels]


def test_inception_score_agrees_with_torch_fidelity():
    # Other sums of the same terms; 1003 rows do not divide into 10 splits.
    found = scores.inception_score(peers.logits())
    assert found.value == pytest.approx(GOLDENS["inception_score_mean"], rel=1e-12)
    assert found.deviation == pytest.approx(GOLDENS["inception_score_std"], rel=1e-10)


def test_inception_score_of_certain_uniform_classes_is_their_number():
    labels = np.arange(700) % 7
    # Shuffled, a split has the classes only about equally often.
    whole = scores.inception_score(one_hot(labels, 7), splits=1)
    assert whole.value == pytest.approx(7, rel=1e-12)
    assert 6.5 < scores.inception_score(one_hot(labels, 7)).value < 7


def test_inception_score_of_equal_predictions_is_one():
    logits = np.broadcast_to(np.random.default_rng(0).normal(size=5), (100, 5))
    assert scores.inception_score(logits).value == pytest.approx(1, rel=1e-12)


def test_inception_score_ignores_what_a_softmax_ignores():
    logits = peers.logits(200)
    shift = np.linspace(-1000, 1000, 200)[:, None]
    found = scores.inception_score(logits + shift).value
    assert found == pytest.approx(scores.inception_score(logits).value, rel=1e-9)


def test_classes_in_order_are_shuffled_before_they_are_split():
    logits = one_hot(np.repeat(np.arange(10), 50), 10)
    assert scores.inception_score(logits).value > 8  # in order it would be 1


def test_accuracy_is_the_share_of_right_classes():
    labels = np.arange(12) % 3
    given = labels.copy()
    given[:3] = (given[:3] + 1) % 3
    found = scores.accuracy(one_hot(given, 3), labels)
    assert found.value == pytest.approx(9 / 12)
    assert found.interval.low < found.value < found.interval.high
    right = scores.correct_predictions(one_hot(given, 3), labels)
    np.testing.assert_array_equal(right, [0] * 3 + [1] * 9)


def test_bad_logits_and_labels_are_named():
    logits = np.zeros((4, 3))
    with pytest.raises(ValueError, match="got 3 labels for 4"):
        scores.accuracy(logits, np.zeros(3, int))
    for label in (3, -1):
        with pytest.raises(ValueError, match=f"label {label} in row 2.*3 classes"):
            scores.accuracy(logits, np.array([0, 1, label, 2]))
    with pytest.raises(ValueError, match="got 4.*at least 10; raise evaluate.count"):
        scores.inception_score(logits)
    with pytest.raises(ValueError, match="got 0.*at least 1"):
        scores.accuracy(logits[:0], np.zeros(0, int))
    with pytest.raises(ValueError, match="at least 1 split, got 0"):
        scores.inception_score(logits, splits=0)
    logits[1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 4 rows of logits.*rows \[1\]"):
        scores.inception_score(logits, splits=2)
