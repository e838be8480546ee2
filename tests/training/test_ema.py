import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from simple_diffusion.training import ema
from tests.vectors import vector

AVERAGES = [
    ema.Exponential(0.9),
    ema.Exponential(0.99, warm_up=True),
    ema.PowerFunction(0.05),
    ema.PowerFunction(0.2),
]


def track(average, values):
    """Returns the average after each value, starting at the first one."""

    def one(a, inputs):
        count, value = inputs
        out = ema.update({"a": a}, value, {"a": average}, count)["a"]
        return out, out

    counts = jnp.arange(1, len(values))
    _, averages = jax.lax.scan(one, values[0], (counts, values[1:]))
    return np.asarray(averages)


@pytest.mark.parametrize("average", AVERAGES, ids=str)
def test_the_average_of_a_constant_is_the_constant(average):
    averages = track(average, jnp.full(50, 3.25, jnp.float32))
    np.testing.assert_array_equal(averages, 3.25)


@pytest.mark.parametrize("average", AVERAGES, ids=str)
def test_the_average_forgets_where_it_began(average):
    # Initial value 1, then only zeros: what is left is the weight of the beginning.
    left = track(average, jnp.concatenate([jnp.ones(1), jnp.zeros(400)]))
    assert left[-1] < 1e-6
    assert np.all(np.diff(left) <= 0)


def test_a_constant_decay_follows_a_ramp_at_the_distance_of_its_closed_form():
    # params_n = n: ema_n = n - d/(1-d) (1 - d^n).
    d, n = 0.95, np.arange(1, 200)
    averages = track(ema.Exponential(d), jnp.arange(200, dtype=jnp.float32))
    np.testing.assert_allclose(averages, n - d / (1 - d) * (1 - d**n), rtol=2e-5)


def test_a_decay_near_one_moves_at_its_exact_rate():
    # In float32, 1 - 0.9999 computed on the device would be off by 2e-4 of itself.
    rate = ema.Exponential(0.9999)(jnp.int32(1))
    np.testing.assert_allclose(rate, 1e-4, rtol=1e-6)


def test_warm_up_is_the_smaller_of_the_two_decays():
    n = np.arange(1, 5000)
    rates = jax.vmap(ema.Exponential(0.999, warm_up=True))(jnp.asarray(n))
    expected = np.minimum(0.999, (1 + n) / (10 + n))
    np.testing.assert_allclose(1 - np.asarray(rates), expected, rtol=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_a_power_function_average_weighs_each_update_by_its_profile(sigma_rel):
    t = 60
    weights = track(ema.PowerFunction(sigma_rel), jnp.eye(t + 1))[-1][1:]
    power = ema.gamma_of(sigma_rel) + 1
    i = np.arange(1, t + 1)
    expected = (i**power - (i - 1.0) ** power) / t**power
    np.testing.assert_allclose(weights, expected, rtol=2e-5, atol=1e-12)


def test_gamma_is_that_of_the_published_relation():
    for row in vector("train.power_ema_gamma"):
        np.testing.assert_allclose(
            ema.gamma_of(row["sigma_rel"]), row["gamma"], rtol=1e-6
        )


@given(st.floats(0.01, 0.28))
@settings(deadline=None, max_examples=30)
def test_sigma_rel_is_the_standard_deviation_of_the_profile(sigma_rel):
    g = ema.gamma_of(sigma_rel)
    mean, square = (g + 1) / (g + 2), (g + 1) / (g + 3)
    # The difference of two nearly equal moments costs up to four digits of float64.
    np.testing.assert_allclose(np.sqrt(square - mean**2), sigma_rel, rtol=1e-8)


@pytest.mark.parametrize("sigma_rel", [0.0, 0.3, -0.1])
def test_a_length_that_no_profile_has_is_refused(sigma_rel):
    with pytest.raises(ValueError, match="sigma_rel lies between 0 and 0.288"):
        ema.PowerFunction(sigma_rel)


def test_a_decay_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="EMA decay lies in"):
        ema.Exponential(1.0)


def test_inner_products_are_the_integrals_of_products_of_profiles():
    def profile(tau, step, gamma):
        return (gamma + 1) * tau**gamma / step ** (gamma + 1) * (tau <= step)

    have, other = [(7.0, 2.0), (5.0, 6.9)], [(7.0, 2.0), (9.0, 1.8)]
    closed = ema.inner_products(*np.array(have).T, *np.array(other).T)
    for i, a in enumerate(have):
        for j, b in enumerate(other):
            numeric, _ = integrate.quad(
                lambda tau, a=a, b=b: profile(tau, *a) * profile(tau, *b),
                0,
                min(a[0], b[0]),
            )
            np.testing.assert_allclose(closed[i, j], numeric, rtol=1e-9)


def test_a_stored_average_is_reconstructed_as_itself():
    weights = ema.reconstruction_weights(
        [100, 100, 200, 200], [0.05, 0.1, 0.05, 0.1], 200, 0.1
    )
    np.testing.assert_allclose(weights, [0, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("target", [0.06, 0.075, 0.15])
def test_a_reconstructed_average_is_the_one_tracked_directly(target):
    # Parameters that drift and swing, as they do in training.
    n = np.arange(0, 1601)
    values = np.stack([np.sin(n / 130), np.sqrt(n / 400), np.exp(-n / 300)], -1)
    values = jnp.asarray(values, jnp.float32)
    stored = {s: track(ema.PowerFunction(s), values) for s in (0.05, 0.1)}
    steps = list(range(100, 1601, 100))
    entries = [(step, s) for step in steps for s in stored]
    weights = ema.reconstruction_weights(*zip(*entries, strict=True), 1600, target)
    rebuilt = ema.combine(({"w": stored[s][step - 1]} for step, s in entries), weights)
    direct = track(ema.PowerFunction(target), values)[-1]
    # The nearest of the two stored averages is 0.01 to 0.1 away.
    np.testing.assert_allclose(rebuilt["w"], direct, atol=1e-3)
    assert rebuilt["w"].dtype == np.float32


def test_averages_that_end_after_the_wanted_step_are_not_used():
    weights = ema.reconstruction_weights([10, 20, 30], [0.1] * 3, 20, 0.1)
    np.testing.assert_allclose(weights, [0, 1, 0], atol=1e-6)
    with pytest.raises(ValueError, match="no stored average ends at or before step 5"):
        ema.reconstruction_weights([10, 20], [0.1, 0.1], 5, 0.1)


@pytest.mark.parametrize("target", [0.03, 0.15, 0.25])
@pytest.mark.parametrize("tracked", [(0.05,), (0.05, 0.1)], ids=str)
def test_weights_of_a_reconstruction_sum_to_one(tracked, target):
    # Otherwise the mean of the parameters is scaled, here to 0.56 to 1.17 of it.
    entries = [(1000 * n, s) for n in range(1, 9) for s in tracked]
    steps, lengths = zip(*entries, strict=True)
    weights = ema.reconstruction_weights(steps, lengths, 8000, target)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)


def test_a_reconstruction_from_two_profiles_has_the_closed_form_weights():
    # Profiles (g+1) tau^g over [0, 1] with g = 1, 3: the least squares of the profile
    # g = 2 is [[4/3, 8/5], [8/5, 16/7]] x = [6/4, 12/6], then divided by its sum.
    lengths = {g: np.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3))) for g in (1, 2, 3)}
    gram = np.array([[4 / 3, 8 / 5], [8 / 5, 16 / 7]])
    solution = np.linalg.solve(gram, [6 / 4, 12 / 6])
    stored = [500, 500], [lengths[1], lengths[3]]
    weights = ema.reconstruction_weights(*stored, 500, lengths[2])
    np.testing.assert_allclose(weights, solution / solution.sum(), rtol=1e-9)

    # The distance, by quadrature.
    def error(t):
        return weights[0] * 2 * t + weights[1] * 4 * t**3 - 3 * t**2

    square, _ = integrate.quad(lambda t: error(t) ** 2, 0, 1, epsabs=1e-14)
    wanted = np.sqrt(square / (9 / 5))
    distance = ema.profile_distance(*stored, weights, 500, lengths[2])
    np.testing.assert_allclose(distance, wanted, rtol=1e-6)


def test_a_stored_average_has_no_distance_from_itself():
    stored = [100, 200], [0.05, 0.1]
    assert ema.profile_distance(*stored, np.array([0.0, 1.0]), 200, 0.1) < 1e-7
    other = ema.profile_distance(*stored, np.array([0.0, 1.0]), 200, 0.11)
    assert 0.08 < other < 0.1  # what the threshold of the warning is measured by
