"""Every key of the configs has a case that shows what it does."""

from tests.build import (
    test_every_key_conditions,
    test_every_key_evaluation,
    test_every_key_networks,
    test_every_key_restoration,
    test_every_key_sampling,
    test_every_key_training,
)
from tests.build.every_key import all_keys, same

TABLES = (
    test_every_key_training.CASES,
    test_every_key_networks.CASES,
    test_every_key_sampling.CASES,
    test_every_key_restoration.CASES,
    test_every_key_evaluation.CASES,
    test_every_key_conditions.CASES,
)


def test_every_key_has_a_case_that_shows_its_effect():
    keys, cases = set(all_keys()), {key for table in TABLES for key in table}
    assert sorted(keys - cases) == [], "add a case for these keys"
    assert sorted(cases - keys) == [], "these keys are gone"


def test_the_walk_reaches_sections_of_every_kind():
    keys = set(all_keys())
    assert {"model:uvit.film", "diffusion.schedule:flow.noise_d"} <= keys
    assert {"data.patches.law", "sweep.intervals", "train.total_epochs"} <= keys


def test_trees_are_the_same_only_if_all_leaves_are():
    assert same({"a": [1, None, "x"]}, {"a": [1, None, "x"]})
    assert not same({"a": [1, None]}, {"a": [1, 2]})
    assert not same([1.0], [1.0, 2.0])
