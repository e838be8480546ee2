"""Boxes asked for and boxes found."""

import itertools

import numpy as np
import pytest

from simple_diffusion.evaluation.metrics.conditions import layout
from simple_diffusion.evaluation.metrics.conditions.layout import Layouts


def random_layouts(seed, n=6, k=5, side=12):
    """Boxes on a grid of `side` cells, so that areas can be counted."""
    rng = np.random.default_rng(seed)
    ends = np.sort(
        np.stack(
            [rng.choice(side + 1, 2, replace=False) for _ in range(n * k * 2)]
        ).reshape(n, k, 2, 2),
        -1,
    )
    box = np.moveaxis(ends, -1, -2).reshape(n, k, 4) / side
    return Layouts(
        box.astype(np.float32), rng.integers(0, 3, (n, k)), rng.random((n, k)) < 0.7
    )


def cells(box, side=12):
    """The cells of a grid that a box covers."""
    y0, x0, y1, x1 = np.rint(np.asarray(box) * side).astype(int)
    return set(itertools.product(range(y0, y1), range(x0, x1)))


def test_iou_is_that_of_counted_cells():
    a, b = random_layouts(0).box, random_layouts(1).box
    found = layout.iou(a, b)
    for k in np.ndindex(found.shape):
        one, other = cells(a[k]), cells(b[k])
        # Corners are in float32.
        expected = len(one & other) / len(one | other)
        assert found[k] == pytest.approx(expected, abs=1e-6)


def test_empty_boxes_have_no_overlap():
    box = np.array([[0.2, 0.2, 0.2, 0.6], [0.0, 0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(layout.iou(box, box), [0, 0])


def test_each_wanted_box_has_its_best_among_those_of_its_class():
    wanted, found = random_layouts(0), random_layouts(1, k=7)
    best = layout.best_ious(wanted, found)
    for i, j in np.ndindex(best.shape):
        candidates = [
            layout.iou(wanted.box[i, j : j + 1], found.box[i, m : m + 1])[0]
            for m in range(7)
            if found.present[i, m] and found.category[i, m] == wanted.category[i, j]
        ]
        expected = max(candidates, default=0.0) if wanted.present[i, j] else 0.0
        assert best[i, j] == expected


def test_a_layout_agrees_with_itself_in_any_order():
    wanted = random_layouts(3)
    order = np.random.default_rng(0).permutation(5)
    scores = layout.compare(wanted, Layouts(*(v[:, order] for v in wanted)), 3)
    for score in scores:
        assert score.value == pytest.approx(1) and score.interval == (1, 1)


def test_other_classes_and_shifted_boxes_do_not_count_as_found():
    wanted = random_layouts(3)
    other = wanted._replace(category=(wanted.category + 1) % 3)
    lonely = wanted._replace(present=wanted.present & (np.arange(5) == 0)[None])
    scores = layout.compare(lonely, other._replace(present=lonely.present), 3)
    assert [score.value for score in scores] == [0, 0, 0]
    half = np.array([[[0.0, 0.0, 0.4, 0.4]]], np.float32)
    shifted = half + np.float32([0.0, 0.2, 0.0, 0.2])
    one = np.zeros((1, 1), int), np.ones((1, 1), bool)
    scores = layout.compare(Layouts(half, *one), Layouts(shifted, *one), 1)
    assert scores.iou.value == pytest.approx(1 / 3)
    assert scores.recall.value == scores.precision.value == 0


def test_rare_classes_weigh_as_much_as_frequent_ones():
    box = np.tile(np.float32([0, 0, 1, 1]), (1, 4, 1))
    category = np.array([[0, 0, 0, 1]])
    wanted = Layouts(box, category, np.ones((1, 4), bool))
    found = wanted._replace(present=category == 0)
    scores = layout.compare(wanted, found, 2)
    assert scores.iou.value == scores.recall.value == 0.5
    assert scores.precision.value == 1


def test_precision_falls_with_boxes_that_nobody_asked_for():
    wanted = random_layouts(5)
    wanted = wanted._replace(category=np.zeros_like(wanted.category))
    lone = np.arange(5) == np.argmax(wanted.present, 1)[:, None]
    wanted = wanted._replace(present=wanted.present & lone)
    # As many again, in places where nothing is.
    twice = Layouts(*(np.concatenate([v, v], 1) for v in wanted))
    twice.box[:, 5:] = 0
    scores = layout.compare(wanted, twice, 1)
    assert scores.recall.value == 1 and scores.precision.value == 0.5


def test_nothing_found_has_no_precision_and_nothing_wanted_is_an_error():
    wanted = random_layouts(3)
    nothing = Layouts(
        np.zeros((6, 0, 4), np.float32), np.zeros((6, 0), int), np.zeros((6, 0), bool)
    )
    scores = layout.compare(wanted, nothing, 3)
    assert scores.iou.value == scores.recall.value == 0
    assert scores.precision is None
    with pytest.raises(ValueError, match="asked for"):
        layout.compare(nothing, wanted, 3)
