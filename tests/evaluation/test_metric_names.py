"""Names of metrics can be read back, and say which way is better."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_diffusion.evaluation import metric_names

KINDS = ("fid", "fd", "fd_infinity", "sfid", "kid", "inception_score", "class_score")
KINDS += ("precision", "recall", "density", "coverage", "accuracy")
NETWORKS = ("inception", "dinov2_b", "scenes", "thumbnail", "vit_14", "my_fd_2")


@given(st.sampled_from(KINDS), st.sampled_from(NETWORKS), st.integers(1, 10**6))
def test_a_name_is_taken_apart_into_what_it_was_made_of(kind, network, n):
    name = metric_names.metric_name(kind, network, n)
    assert metric_names.split_name(name) == (kind, network, n)


@pytest.mark.parametrize(
    "made, name",
    [
        (("fid", "inception", 50_000), "fid_50k"),
        (("fd", "scenes", 2400), "fd_scenes_2400"),
        (("kd", "dinov2_b", 10_000), "kd_dinov2_b_10k"),
    ],
)
def test_names_are_short_where_numbers_are_round(made, name):
    assert metric_names.metric_name(*made) == name


def test_patches_and_other_sizes_are_kinds_of_their_own_with_the_same_direction():
    name = "patch32_fd_scenes_1k@64x64"
    assert metric_names.split_name(name) == ("patch32_fd@64x64", "scenes", 1000)
    assert metric_names.is_lower_better(name) is True
    assert metric_names.explain(name) == metric_names.explain("fd_scenes_1k") != ""


@pytest.mark.parametrize("name", ["held_out_loss", "held_out_loss[-4,-2)", "step", "x"])
def test_what_has_no_features_has_no_network(name):
    assert metric_names.split_name(name) == (name, None, None)


def test_distances_and_losses_shall_be_small_and_shares_large():
    lower = ["fid_50k", "kd_scenes_1k", "sfid_10k", "held_out_loss[-4,-2)"]
    lower += ["bits_per_dimension_bound", "lpips_alex", "copies_scenes_1k"]
    higher = ["precision_2k", "accuracy_scenes_10k", "inception_score_50k", "psnr"]
    neither = ["held_out_images", "near_training_scenes_1k", "something"]
    assert [metric_names.is_lower_better(name) for name in lower] == [True] * len(lower)
    assert [metric_names.is_lower_better(name) for name in higher] == [False] * len(
        higher
    )
    assert [metric_names.is_lower_better(name) for name in neither] == [None] * len(
        neither
    )


def test_the_best_value_passes_over_what_is_missing():
    nan = float("nan")
    assert metric_names.best_index("fid_50k", [None, 3.0, nan, 1.0, 1.0]) == 3
    assert metric_names.best_index("recall_50k", [None, 0.3, nan, 0.1]) == 1
    assert metric_names.best_index("recall_50k", [None, nan]) is None
    assert metric_names.best_index("held_out_images", [1.0, 2.0]) is None


def test_what_is_measured_on_held_out_images_does_not_need_samples():
    for name in ("held_out_loss", "held_out_loss[-4,-2)", "bits_per_dimension_bound"):
        assert not metric_names.needs_samples(name)
    for name in ("fd_scenes_1k", "accuracy_object", "hole_psnr", "lpips_alex"):
        assert metric_names.needs_samples(name)
