import numpy as np
import pytest

from benchmarks import metric_sensitivity as sensitivity

SIDE, COUNT = 16, 144  # more pictures than features


@pytest.fixture(scope="module")
def good():
    return sensitivity.drawn("holdout", 0, COUNT, SIDE)


def test_faults_grow_with_their_strength_and_begin_at_none(good):
    for fault in (sensitivity.blur, sensitivity.noise):
        np.testing.assert_array_equal(fault(good, 0).images, good.images)
    for fault, strengths in sensitivity.FAULTS.values():
        changes = []
        for strength in strengths:
            made = fault(good, strength)
            if len(made.labels) < COUNT:
                changes.append(COUNT - len(made.labels))
            else:
                off = np.abs(made.images.astype(float) - good.images).mean()
                changes.append(off + (made.labels != good.labels).sum())
        assert changes[0] > 0 and (np.diff(changes) > 0).all(), fault


def test_classes_that_are_left_out_and_labels_that_are_swapped(good):
    left = sensitivity.dropped(good, 4)
    assert set(left.labels) == set(range(4, 12))
    assert len(left.images) == len(left.labels) == COUNT * 8 // 12
    wrong = sensitivity.swapped(good, 0.25).labels != good.labels
    assert wrong.sum() == COUNT / 4


def test_a_direction_is_one_that_is_never_left():
    assert sensitivity.direction([0.1, 0.2, 0.2]) == "up"
    assert sensitivity.direction([0.3, 0.1, 0.0, 0.0]) == "down"
    assert sensitivity.direction([0.1, 0.3, 0.2]) == "both"
    assert sensitivity.direction([1.0, 0.995, 1.0]) == "hardly"
    assert sensitivity.direction([0.0, 0.0]) == "hardly"


@pytest.mark.slow
def test_metrics_see_their_faults_and_say_so_in_a_table(good, monkeypatch):
    faults = {
        "noise": (sensitivity.noise, (8, 32)),
        "classes": (sensitivity.dropped, (1,)),
        "labels": (sensitivity.swapped, (0.5,)),
    }
    monkeypatch.setattr(sensitivity, "FAULTS", faults)
    network = sensitivity.trained(SIDE, steps=30, say=lambda line: None)
    real = sensitivity.drawn("train", 10**6, COUNT, SIDE)
    table = sensitivity.measure(network, good, real)
    assert {len(v) for v in table["noise"].values()} == {3}
    assert sensitivity.direction(table["noise"]["fd"]) == "up"
    assert table["classes"]["recall"][1] < table["classes"]["recall"][0]
    right, half = table["labels"]["accuracy"]
    assert half < 0.7 * right
    assert sensitivity.direction(table["labels"]["fd"]) == "hardly"
    lines = list(sensitivity.report(table))
    assert lines[0] == "\n| noise | 0 | 8 | 32 | moves |"
    assert sum(line.startswith("| fd |") for line in lines) == 3
