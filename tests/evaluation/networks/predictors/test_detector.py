"""Peaks of scores as objects, and what is learned for them."""

import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.evaluation.networks.predictors import detector, pyramid

CELLS, CLASSES = 8, 3
BOX = np.float32([[0.1, 0.2, 0.5, 0.4], [0.5, 0.5, 1.0, 0.9], [0, 0, 0.2, 1.0]])
CATEGORY = np.array([2, 0, 1])


def perfect_outputs(noise=0.0):
    """What a network that has learned everything gives for the three boxes."""
    y, x = pyramid.cell_centres((CELLS, CELLS), 1, (CELLS, CELLS))
    cell = np.stack(np.meshgrid(y, x, indexing="ij"), -1)[None]
    score = np.full((1, CELLS, CELLS, CLASSES), -12.0, np.float32)
    centre, log_side = cell.copy(), np.full((1, CELLS, CELLS, 2), -3.0, np.float32)
    for box, category in zip(BOX, CATEGORY, strict=True):
        middle = (box[:2] + box[2:]) / 2
        row, column = (middle * CELLS).astype(int)
        score[0, row, column, category] = 12.0
        near = np.s_[0, max(row - 1, 0) : row + 2, column - 1 : column + 2]
        centre[near], log_side[near] = middle, np.log(box[2:] - box[:2])
    return {"score": score, "centre": centre, "log_side": log_side, "cell": cell}


def targets(present=(True, True, True)):
    return {
        "box": jnp.asarray(BOX[None]),
        "category": jnp.asarray(CATEGORY[None]),
        "present": jnp.asarray([present]),
    }


def test_peaks_are_the_objects():
    found = detector.find_peaks(perfect_outputs(), most=5)
    assert found.present.tolist() == [[True, True, True, False, False]]
    order = np.argsort(found.category[0, :3])
    np.testing.assert_array_equal(found.category[0, :3][order], [0, 1, 2])
    expected = BOX[np.argsort(CATEGORY)]
    np.testing.assert_allclose(found.box[0, :3][order], expected, atol=1e-6)


def test_weak_scores_and_neighbours_of_peaks_are_no_objects():
    outputs = perfect_outputs()
    outputs["score"][0, 5, 5, 1] = -2.0  # a probability of 0.12
    row, column = 2, 2  # beside the peak of the first box at (2, 2)
    outputs["score"][0, row + 1, column, 2] = 6.0
    assert detector.find_peaks(outputs, most=9).present.sum() == 3


def test_no_more_objects_are_found_than_asked_for():
    found = detector.find_peaks(perfect_outputs(), most=2)
    assert found.present.tolist() == [[True, True]]


def test_boxes_stay_inside_the_image():
    outputs = perfect_outputs()
    outputs["log_side"] += 5.0
    found = detector.find_peaks(outputs, most=3)
    assert found.box.min() >= 0 and found.box.max() <= 1


def test_perfect_outputs_have_hardly_any_loss_and_any_change_adds_to_it():
    loss = jax.jit(detector.make_task(CLASSES).loss)
    perfect = perfect_outputs()
    least = float(loss(perfect, targets()))
    # A sigmoid of 12 is not quite 1.
    assert least < 0.01
    row, column = 2, 2
    for name, place, change in (
        ("score", (0, row, column, 2), -15.0),
        ("score", (0, 7, 0, 1), 15.0),
        ("centre", (0, row, column, 0), 0.1),
        ("log_side", (0, row, column, 1), 0.3),
    ):
        outputs = perfect_outputs()
        outputs[name][place] += change
        assert float(loss(outputs, targets())) > least + 0.01, name


def test_objects_that_are_not_present_are_not_learned():
    loss = jax.jit(detector.make_task(CLASSES).loss)
    outputs = perfect_outputs()
    outputs["score"][0, 2, 2, 2] = -12.0
    present = (False, True, True)
    assert float(loss(outputs, targets(present))) < 0.01
    assert float(loss(outputs, targets())) > 1.0
