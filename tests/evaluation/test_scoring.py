import dataclasses

import numpy as np
import pytest

from simple_diffusion.evaluation import scoring
from simple_diffusion.evaluation.feature_bank import Bank
from simple_diffusion.evaluation.metrics import statistics
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork

N, M, D = 300, 200, 4
ALL = (
    "fd",
    "sfid",
    "kd",
    "score",
    "precision_recall",
    "density_coverage",
    "accuracy",
    "fd_infinity",
)


def bank(n, shift=0.0, kept=None, spatial=True):
    rng = np.random.default_rng(n)
    rows = (rng.standard_normal((n, D)) + shift).astype(np.float32)
    return Bank(
        statistics.compute(rows),
        statistics.compute(rows[:, :2]) if spatial else None,
        rows[:kept],
        rows[:kept, :3],
    )


def network(name, class_names=("a", "b", "c")):
    return FeatureNetwork(name, "", "", {}, lambda p, x: None, class_names)


def measured(name="scenes", wanted=ALL, real=None, note=pytest.fail, **options):
    generated = bank(N)
    labels = generated.logits.argmax(1).astype(np.int32)
    real = bank(M, shift=1.0) if real is None else real
    sides = network(name), generated, real, labels, wanted
    found = scoring.compute_metrics(*sides, scoring.Options(**options), note)
    return {metric.name: metric for metric in found}


def test_fid_and_its_like_are_names_of_inceptions_features_alone():
    of_inception = set(measured("inception"))
    assert {"fid_300", "sfid_300", "kid_300", "inception_score_300"} <= of_inception
    others = set(measured())
    assert {"fd_scenes_300", "kd_scenes_300", "class_score_scenes_300"} <= others
    assert not any(name.split("_")[0] in ("fid", "kid", "sfid") for name in others)
    assert {"recall_300", "fid_infinity_300"} <= of_inception
    assert {"coverage_scenes_300", "fd_infinity_scenes_300"} <= others


def test_values_stand_with_their_errors_and_numbers():
    found = measured()
    assert found["fd_scenes_300"].value == pytest.approx(D, rel=0.3)
    assert 0 < found["fd_scenes_300"].standard_error < 1
    assert found["fd_scenes_300"].counts == (N, M)
    assert found["accuracy_scenes_300"].value == 1
    assert found["accuracy_scenes_300"].counts == (N, None)
    for kind in ("precision", "recall", "density", "coverage"):
        metric = found[f"{kind}_scenes_300"]
        assert metric.interval.low <= metric.value <= metric.interval.high


def test_only_what_is_wanted_is_measured():
    assert set(measured(wanted=("fd",))) == {"fd_scenes_300"}
    assert set(measured(wanted=("precision_recall",))) == {
        "precision_scenes_300",
        "recall_scenes_300",
    }


def test_of_statistics_alone_there_are_distances_and_what_needs_no_reference():
    real = dataclasses.replace(bank(M, kept=0), has_count=False)
    notes = []
    found = measured(real=real, note=notes.append)
    kinds = {name.split("_")[0] for name in found}
    assert [note.split()[0] for note in notes] == [
        "kd",
        "precision_recall",
        "density_coverage",
        "fd_infinity",
    ]
    assert kinds == {"fd", "class", "accuracy"}
    assert found["fd_scenes_300"].counts == (N, None)


def test_single_images_are_compared_with_those_that_are_kept():
    found = measured(real=bank(M, shift=1.0, kept=50))
    assert found["precision_scenes_300"].counts == (N, 50)
    assert found["fd_scenes_300"].counts == (N, M)
    whole = measured()
    assert found["fd_scenes_300"].value == pytest.approx(
        whole["fd_scenes_300"].value, rel=1e-6
    )


def test_fewer_samples_than_dimensions_are_noted_and_have_no_error():
    notes, labels = [], np.zeros(3, np.int32)
    arguments = bank(3), bank(M), labels, ("fd",), scoring.Options(), notes.append
    (metric,) = scoring.compute_metrics(network("scenes"), *arguments)
    assert metric.standard_error is None
    assert "fd of scenes: 3 features for 4 dimensions" in notes[0]


def test_a_metric_that_lacks_samples_is_noted_and_the_others_measured():
    notes, labels = [], np.zeros(5, np.int32)
    wanted = ("precision_recall", "score", "accuracy")
    arguments = bank(5), bank(M), labels, wanted, scoring.Options(), notes.append
    found = list(scoring.compute_metrics(network("scenes"), *arguments))
    assert [metric.name for metric in found] == ["accuracy_scenes_5"]
    assert "precision_recall of scenes is not computed: got 5" in notes[0]
    assert "score of scenes is not computed: got 5" in notes[1]
