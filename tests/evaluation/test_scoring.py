import dataclasses

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.special
import scipy.stats

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


def frechet_by_hand(x, y):
    """The distance from its definition, by another square root."""
    a, b = (np.cov(v.astype(np.float64), rowvar=False) for v in (x, y))
    shift = x.mean(0, np.float64) - y.mean(0, np.float64)
    root = scipy.linalg.sqrtm(a @ b).real
    return shift @ shift + np.trace(a) + np.trace(b) - 2 * np.trace(root)


def jackknife_variance(distance_without, n):
    """The variance of a statistic, from its values without each of n examples."""
    values = np.array([distance_without(k) for k in range(n)])
    return (n - 1) ** 2 / n * values.var(ddof=1)


def test_the_frechet_distance_has_the_error_of_both_samples():
    x, y = bank(N).features, bank(M, shift=1.0).features
    of_x = jackknife_variance(lambda k: frechet_by_hand(np.delete(x, k, 0), y), N)
    of_y = jackknife_variance(lambda k: frechet_by_hand(x, np.delete(y, k, 0)), M)
    found = measured(wanted=("fd",))["fd_scenes_300"]
    assert found.value == pytest.approx(frechet_by_hand(x, y), rel=1e-5)
    # The two estimates differ by terms in 1 / n.
    assert found.standard_error == pytest.approx(np.sqrt(of_x + of_y), rel=0.03)
    # The reference adds half as much again, unless it is known by statistics alone.
    assert np.sqrt(of_x + of_y) > 1.3 * np.sqrt(of_x)
    statistics_alone = dataclasses.replace(bank(M, shift=1.0, kept=0), has_count=False)
    exact = measured(wanted=("fd",), real=statistics_alone)["fd_scenes_300"]
    assert exact.standard_error == pytest.approx(np.sqrt(of_x), rel=0.03)


def test_the_score_has_the_error_of_a_mean_over_its_splits():
    log_p = scipy.special.log_softmax(bank(N).logits.astype(np.float64), axis=1)
    # The shuffle of torch-fidelity, then ten parts.
    parts = np.split(log_p[np.random.RandomState(2020).permutation(N)], 10)
    scores = []
    for part in parts:
        marginal = np.exp(part).mean(0)
        divergence = (np.exp(part) * (part - np.log(marginal))).sum(1)
        scores.append(np.exp(divergence.mean()))
    found = measured(wanted=("score",))["class_score_scenes_300"]
    assert found.value == pytest.approx(np.mean(scores), rel=1e-6)
    assert found.standard_error == pytest.approx(scipy.stats.sem(scores), rel=1e-6)
    assert found.counts == (N, None)


def test_each_pair_of_metrics_of_neighbours_has_its_own_k():
    x, y = bank(N).features, bank(M, shift=1.0).features
    cross = scipy.spatial.distance.cdist(x, y)
    # Sorted, the k-th neighbour is at index k, since each is its own nearest.
    real = np.sort(scipy.spatial.distance.cdist(y, y), axis=1)
    generated = np.sort(scipy.spatial.distance.cdist(x, x), axis=1)
    inside = cross <= real[:, 7]
    expected = {
        "precision": (cross <= real[:, 2]).any(1),
        "recall": (cross <= generated[:, 2, None]).any(0),
        "density": inside.sum(1) / 7,
        "coverage": inside.any(0),
    }
    found = measured(
        wanted=("precision_recall", "density_coverage"),
        neighbours=2,
        density_neighbours=7,
    )
    for kind, values in expected.items():
        metric = found[f"{kind}_scenes_300"]
        assert metric.value == pytest.approx(values.mean(), rel=1e-12)
        assert metric.counts == (N, M)
        if kind == "density":  # of a mean of 300 values, from 2000 resamples
            half = 1.96 * values.std() / np.sqrt(N)
            interval = values.mean() - half, values.mean() + half
            assert metric.interval == pytest.approx(interval, abs=0.15 * half)
        else:
            trials = scipy.stats.binomtest(int(values.sum()), len(values))
            interval = trials.proportion_ci(0.95, "wilson")
            assert metric.interval == pytest.approx([*interval], abs=1e-12)


def test_the_default_k_is_3_for_precision_and_5_for_density():
    wanted = ("precision_recall", "density_coverage")
    options = {"neighbours": 3, "density_neighbours": 5}
    assert measured(wanted=wanted) == measured(wanted=wanted, **options)


def test_the_kernel_distance_is_within_its_error_of_all_pairs():
    x, y = (v.features.astype(np.float64) for v in (bank(N), bank(M, shift=1.0)))

    def kernel(a, b):
        return (a @ b.T / D + 1) ** 3

    def mean_of_others(a):
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    expected = mean_of_others(x) + mean_of_others(y) - 2 * kernel(x, y).mean()
    # To first order a mean over x and one over y.
    of_x = 2 * (kernel(x, x).mean(1) - kernel(x, y).mean(1))
    of_y = 2 * (kernel(y, y).mean(1) - kernel(y, x).mean(1))
    error = np.hypot(scipy.stats.sem(of_x), scipy.stats.sem(of_y))
    found = measured(wanted=("kd",))["kd_scenes_300"]
    # One hundred subsets of 200 of the 300 samples.
    assert found.value == pytest.approx(expected, abs=0.2 * error)
    assert found.standard_error == pytest.approx(error, rel=0.05)


def test_the_accuracy_has_the_interval_of_its_trials():
    generated = bank(N)
    labels = generated.logits.argmax(1).astype(np.int32)
    labels[::5] = (labels[::5] + 1) % 3
    sides = network("scenes"), generated, bank(M), labels, ("accuracy",)
    (found,) = scoring.compute_metrics(*sides, scoring.Options(), pytest.fail)
    expected = scipy.stats.binomtest(240, N).proportion_ci(0.95, "wilson")
    assert found.value == 240 / N
    assert found.interval == pytest.approx([*expected], abs=1e-12)
    assert found.counts == (N, None)


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
