"""Means over classes of shares that are summed over images."""

import numpy as np
import pytest
from scipy import stats

from simple_diffusion.evaluation.metrics.conditions import class_means


def test_shares_are_summed_over_images_and_averaged_over_classes():
    part = np.array([[1, 0, 0], [2, 3, 0]])
    total = np.array([[4, 1, 0], [2, 4, 0]])
    found = class_means.mean_of_classes(part, total)
    # The third class was asked for nowhere.
    assert found.value == pytest.approx((3 / 6 + 3 / 5) / 2)


def test_the_interval_of_one_class_is_about_that_of_a_normal_mean():
    rng = np.random.default_rng(0)
    part = rng.binomial(20, 0.3, 400)[:, None]
    found = class_means.mean_of_classes(part, np.full((400, 1), 20))
    error = np.std(part / 20) / np.sqrt(400)
    expected = found.value + error * stats.norm.ppf([0.025, 0.975])
    # A thousand resamples leave a few percent of the width.
    np.testing.assert_allclose(found.interval, expected, atol=0.15 * 2 * error)


def test_equal_images_leave_no_doubt_and_one_image_has_no_interval():
    part, total = np.full((5, 2), 1), np.full((5, 2), 4)
    assert class_means.mean_of_classes(part, total) == (0.25, (0.25, 0.25))
    assert class_means.mean_of_classes(part[:1], total[:1]) == (0.25, None)


def test_a_class_of_a_single_image_may_be_missing_from_a_resample():
    part, total = np.eye(2), np.eye(2) * 2
    found = class_means.mean_of_classes(part, total)
    assert found.value == 0.5 and found.interval == (0.5, 0.5)


def test_nothing_that_was_asked_for_is_an_error():
    with pytest.raises(ValueError, match="no image has anything"):
        class_means.mean_of_classes(np.zeros((2, 3)), np.zeros((2, 3)))


def test_values_are_summed_by_class_within_each_image():
    values = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    classes = np.array([[0, 0, 2], [1, 2, 1]])
    found = class_means.sum_by_class(values, classes, 4)
    np.testing.assert_array_equal(found, [[3, 0, 4, 0], [0, 40, 16, 0]])
