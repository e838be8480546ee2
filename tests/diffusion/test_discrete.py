"""Discrete schedules against published values, and at and between their steps."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.diffusion import discrete
from tests.vectors import vector

ROWS = [r for r in vector("latent.alphabars") if "linear" in r["schedule"]]


def betas_of(row):
    """First and last beta, and how they rise, as the text of a row says."""
    numbers = re.search(r"linear (\S+?)-(\.\d+)", row["schedule"])
    is_scaled = "scaled-linear" in row["schedule"]
    return (*map(float, numbers.groups()), row["T"]), is_scaled


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_the_signal_of_each_step_is_the_published_one(row):
    betas, is_scaled = betas_of(row)
    kind = "scaled_linear" if is_scaled else "linear"
    table = np.array(discrete.from_betas(*betas, kind=kind).table)
    assert len(table) == row["T"]
    for step, expected in row["alphabar"].items():
        signal = 1 / (1 + np.exp(-table[int(step)]))
        np.testing.assert_allclose(signal, expected, rtol=1e-6)


def test_the_schedule_has_its_table_at_the_steps_and_lines_between_them():
    schedule = discrete.from_betas(0.00085, 0.012)
    t = jnp.arange(1000) / 999
    np.testing.assert_allclose(schedule(t), schedule.table, rtol=1e-4, atol=1e-4)
    middle = schedule((jnp.arange(999) + 0.5) / 999)
    table = np.array(schedule.table)
    np.testing.assert_allclose(middle, (table[1:] + table[:-1]) / 2, atol=2e-4)


def test_beyond_its_ends_a_table_goes_on_as_at_its_ends():
    schedule = discrete.TabulatedSchedule((4.0, 3.0, 1.0))
    t = jnp.array([-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5])
    logsnr = np.array([5.0, 4.0, 3.5, 3.0, 2.0, 1.0, -1.0])
    np.testing.assert_allclose(schedule(t), logsnr, atol=1e-6)
    np.testing.assert_allclose(schedule.inverse(jnp.asarray(logsnr)), t, atol=1e-6)


@pytest.mark.parametrize("table", [(1.0,), (1.0, 1.0), (1.0, 2.0)])
def test_a_table_that_does_not_decrease_is_an_error(table):
    with pytest.raises(ValueError, match="at least two and decrease strictly"):
        discrete.TabulatedSchedule(table)


@pytest.mark.parametrize(
    ("first", "last", "steps"),
    [(0.0, 0.1, 10), (0.2, 0.1, 10), (0.1, 1.0, 10), (0.1, 0.2, 1)],
)
def test_betas_that_are_none_are_an_error(first, last, steps):
    with pytest.raises(ValueError, match="must satisfy 0 < first <= last < 1"):
        discrete.from_betas(first, last, steps)
