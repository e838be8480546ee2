import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simple_diffusion.data import order


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(-(2**63), 2**64), st.integers(0, 10**12))
def test_each_epoch_is_a_permutation(length, seed, epoch):
    position = epoch * length + np.arange(length)
    indices = order.shuffle(position, length, seed)
    assert (np.sort(indices) == np.arange(length)).all()


@pytest.mark.parametrize("length", [2**20, 2**20 + 1, 1_281_167])
def test_a_large_epoch_is_a_permutation(length):
    indices = order.shuffle(np.arange(length), length, seed=0)
    assert (np.bincount(indices, minlength=length) == 1).all()


def test_epochs_and_seeds_have_orders_of_their_own():
    n = 1000
    orders = [
        order.shuffle(np.arange(n), n, seed=0),
        order.shuffle(np.arange(n) + n, n, seed=0),
        order.shuffle(np.arange(n), n, seed=1),
        np.arange(n),
    ]
    for a, b in itertools.combinations(orders, 2):
        assert (a == b).sum() < 10  # of independent orders, 1 agrees on average


def test_a_position_does_not_depend_on_which_others_are_asked_for():
    position = np.array([5, 10**9, 0, 77, 5])
    together = order.shuffle(position, 50, seed=3)
    one_by_one = [order.shuffle(position[k : k + 1], 50, seed=3)[0] for k in range(5)]
    assert together.tolist() == one_by_one


@pytest.mark.parametrize("length", [3, 4])
def test_all_orders_of_few_examples_are_equally_likely(length):
    epochs = 6000
    indices = order.shuffle(np.arange(epochs * length), length, seed=7)
    _, counts = np.unique(indices.reshape(epochs, length), axis=0, return_counts=True)
    assert len(counts) == [0, 1, 2, 6, 24][length]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_neighbours_in_the_order_are_unrelated():
    n = 100_000
    indices = order.shuffle(np.arange(n), n, seed=0)
    following = np.corrcoef(indices[:-1], indices[1:])[0, 1]
    assert abs(following) < 5 / np.sqrt(n)
    assert abs((indices[:-1] % 2 == indices[1:] % 2).mean() - 0.5) < 2.5 / np.sqrt(n)


def test_the_draws_of_a_position_are_its_own():
    draws = [
        order.make_generator(0, 7).random(),
        order.make_generator(0, 8).random(),
        order.make_generator(1, 7).random(),
        order.make_generator(-1, 7).random(),
    ]
    assert len(set(draws)) == len(draws)
    assert draws[0] == order.make_generator(0, 7).random()


def test_first_draws_of_successive_positions_are_uniform():
    draws = [order.make_generator(0, k).random() for k in range(2000)]
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(2000)
