"""Attributes read from images against those asked for."""

import numpy as np
import pytest
from scipy import stats

from simple_diffusion.evaluation.metrics.conditions import attributes


def test_what_was_not_asked_for_does_not_count():
    wanted = np.array([2, -1, 0, 1, -1, 1])
    found = attributes.accuracy(np.array([2, 0, 0, 0, 1, 1]), wanted)
    assert found is not None and found.value == 0.75
    reference = stats.binomtest(3, 4).proportion_ci(method="wilson")
    np.testing.assert_allclose(found.interval, (reference.low, reference.high))


def test_nothing_asked_for_has_no_accuracy():
    nothing = np.full(3, -1)
    assert attributes.accuracy(np.zeros(3, int), nothing) is None
    with pytest.raises(ValueError, match="no value was asked for"):
        attributes.most_frequent_share(nothing)


def test_a_constant_guess_has_the_share_of_the_most_frequent_value():
    wanted = np.array([3, 3, -1, 1, 3, 0, 0])
    share = attributes.most_frequent_share(wanted)
    guesses = (attributes.accuracy(np.full(7, k), wanted) for k in range(4))
    assert share == max(guess.value for guess in guesses if guess) == 0.5
