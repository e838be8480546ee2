"""Maps of classes against each other."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from simple_diffusion.evaluation.metrics.conditions import semantic


def maps(seed, n=5, side=8, classes=4):
    return np.random.default_rng(seed).integers(0, classes, (n, side, side))


def test_both_agree_with_scikit_learn():
    found, wanted = maps(0), maps(1)
    found[wanted == 2] = 2
    flat = wanted.ravel(), found.ravel()
    accuracy = semantic.pixel_accuracy(found, wanted).value
    assert accuracy == pytest.approx(accuracy_score(*flat))
    value = semantic.mean_iou(found, wanted, 4).value
    assert value == pytest.approx(jaccard_score(*flat, average="macro"))


def test_pixels_without_a_wanted_class_do_not_count():
    found, wanted = maps(0), maps(1)
    wanted[:, :3] = -1
    expected = semantic.pixel_accuracy(found[:, 3:], wanted[:, 3:]).value
    assert semantic.pixel_accuracy(found, wanted).value == pytest.approx(expected)
    expected = semantic.mean_iou(found[:, 3:], wanted[:, 3:], 4).value
    assert semantic.mean_iou(found, wanted, 4).value == pytest.approx(expected)
    with pytest.raises(ValueError, match="asked for"):
        semantic.pixel_accuracy(found, np.full_like(wanted, -1))


def test_classes_that_no_map_asks_for_do_not_count_by_themselves():
    wanted = np.zeros((1, 2, 2), int)
    found = np.array([[[0, 0], [0, 3]]])
    assert semantic.mean_iou(found, wanted, 5).value == 0.75


def test_equal_maps_agree_fully_and_images_agree_among_themselves():
    wanted = maps(2)
    assert semantic.pixel_accuracy(wanted, wanted) == (1.0, (1.0, 1.0))
    assert semantic.mean_iou(wanted, wanted, 4) == (1.0, (1.0, 1.0))
    score = semantic.mean_iou(maps(0), wanted, 4)
    assert score.interval is not None
    assert score.interval.low < score.value < score.interval.high


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_map_of_repeated_pixels_is_reduced_to_the_map(factor):
    ids = maps(3)
    large = ids.repeat(factor, 1).repeat(factor, 2)
    np.testing.assert_array_equal(semantic.resize_ids(large, (8, 8)), ids)
    shape = semantic.resize_ids(ids, (5, 13)).shape
    assert shape == (5, 5, 13)
