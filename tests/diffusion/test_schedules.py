import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.diffusion import discrete, schedules
from tests.vectors import vector

COSINE = schedules.cosine()
SCHEDULES = {
    "cosine": COSINE,
    "lopsided cosine": schedules.cosine(-20.0, 10.0),
    "shifted": schedules.shift_schedule(COSINE, 64, 256),
    "shifted, ends kept": schedules.shift_schedule(
        COSINE, 64, 512, keep_end_points=True
    ),
    "interpolated": schedules.interpolate_schedules(
        clean=schedules.shift_schedule(COSINE, 256, 512),
        noisy=schedules.shift_schedule(COSINE, 32, 512),
    ),
    "interpolated, swapped": schedules.interpolate_schedules(
        clean=schedules.shift_schedule(COSINE, 32, 512),
        noisy=schedules.shift_schedule(COSINE, 256, 512),
    ),
    "flow": schedules.flow(),
    "scaled linear betas": discrete.from_betas(0.00085, 0.012),
    "linear betas": discrete.from_betas(1e-4, 0.02, kind="linear"),
    "shifted flow": schedules.flow(-12.0, 12.0, shift=-2.0),
}
every_schedule = pytest.mark.parametrize(
    "schedule", SCHEDULES.values(), ids=SCHEDULES.keys()
)


def slopes(schedule, t):
    return jax.vmap(jax.grad(schedule))(t)


@every_schedule
def test_logsnr_falls_strictly(schedule):
    logsnr = schedule(jnp.linspace(0.0, 1.0, 100_000))
    assert np.all(np.diff(logsnr) < 0)


@every_schedule
def test_inverse_undoes_the_schedule(schedule):
    t = jnp.linspace(0.0, 1.0, 10_001)
    # A few units in the last place of a float32 near 1.
    np.testing.assert_allclose(schedule.inverse(schedule(t)), t, rtol=0, atol=5e-7)


@every_schedule
def test_schedule_undoes_the_inverse(schedule):
    # Not up to the ends, where logsnr moves by 3e-4 from one float32 t to the next.
    logsnr = schedule(jnp.linspace(0.02, 0.98, 10_001))
    there_and_back = schedule(schedule.inverse(logsnr))
    np.testing.assert_allclose(there_and_back, logsnr, rtol=0, atol=3e-5)


@every_schedule
def test_density_is_the_inverse_of_the_slope(schedule):
    t = jnp.linspace(0.0, 1.0, 2001)
    # 2e-4: at the noisy end of the interpolated schedules t itself is that coarse.
    np.testing.assert_allclose(
        schedule.log_density(schedule(t)),
        -jnp.log(-slopes(schedule, t)),
        rtol=0,
        atol=2e-4,
    )


@every_schedule
def test_density_integrates_to_one(schedule):
    noisy, clean = schedule(jnp.array([1.0, 0.0]))
    logsnr = jnp.linspace(noisy, clean, 20_001)
    density = np.exp(np.asarray(schedule.log_density(logsnr), np.float64))
    total = np.trapezoid(density, np.asarray(logsnr, np.float64))
    np.testing.assert_allclose(total, 1.0, rtol=1e-4)


def test_cosine_in_float32_is_as_good_as_its_last_digit():
    t = np.linspace(0.0, 1.0, 100_000).astype(np.float32)
    data = vector("schedule.bounds")
    exact = -2 * np.log(np.tan(data["t_min"] + t.astype(np.float64) * data["w"]))
    error = np.max(np.abs(np.asarray(COSINE(jnp.asarray(t))) - exact))
    # The formula's own error, and the rounding of the result near 15.
    assert (
        error < vector("schedule.float32_accuracy")["two_branch_max_abs_error"] + 1e-6
    )


def test_flow_in_float32_is_as_good_as_its_last_digit():
    t = np.linspace(0.0, 1.0, 100_000).astype(np.float32)
    bounds = vector("schedule.flow_matching_bounds")
    a = bounds["t_lo"] + t.astype(np.float64) * (bounds["t_hi"] - bounds["t_lo"])
    error = np.abs(
        np.asarray(schedules.flow()(jnp.asarray(t))) - 2 * np.log((1 - a) / a)
    )
    assert np.max(error) < 2e-6


def test_schedules_match_the_table():
    table = vector("schedule.table")
    columns = {
        "cosine": COSINE,
        "shift64_at_128": schedules.shift_schedule(COSINE, 64, 128),
        "shift64_at_256": schedules.shift_schedule(COSINE, 64, 256),
        "shift32_at_256": schedules.shift_schedule(COSINE, 32, 256),
        "shift64_at_512": schedules.shift_schedule(COSINE, 64, 512),
        "interp_clean256_noisy32_at_512": SCHEDULES["interpolated"],
        "interp_swapped_clean32_noisy256_at_512": SCHEDULES["interpolated, swapped"],
    }
    assert table["columns"] == ["t", *columns]
    rows = np.array(table["rows"])
    for schedule, wanted in zip(columns.values(), rows.T[1:], strict=True):
        got = schedule(jnp.asarray(rows[:, 0], jnp.float32))
        # 3e-6: t = 0.01 is not a float32.
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6)


def test_slope_matches_the_table():
    rows = vector("schedule.dlogsnr_dt")
    t = jnp.array([row["t"] for row in rows], jnp.float32)
    wanted = [row["value"] for row in rows]
    np.testing.assert_allclose(slopes(COSINE, t), wanted, rtol=2e-5)
    # A shift changes nothing about it.
    np.testing.assert_allclose(slopes(SCHEDULES["shifted"], t), wanted, rtol=2e-5)


def test_shift_comes_after_the_bounds():
    for row in vector("schedule.shift_constants"):
        schedule = schedules.shift_schedule(COSINE, row["noise_d"], row["image_d"])
        ends = schedule(jnp.array([0.0, 1.0]))
        wanted = np.array([15.0, -15.0]) + row["shift"]
        np.testing.assert_allclose(ends, wanted, rtol=0, atol=3e-6)


def test_end_points_stay_if_asked_to():
    for row in vector("schedule.shift_with_fixed_end_points"):
        schedule = schedules.shift_schedule(
            COSINE, row["noise_d"], row["image_d"], keep_end_points=True
        )
        got = schedule(jnp.array(row["t"], jnp.float32))
        np.testing.assert_allclose(got, row["logsnr"], rtol=0, atol=3e-6)


def test_both_orders_of_interpolation_fall_as_steeply_as_they_should():
    wanted = vector("schedule.interpolated_monotone")
    for name, key in [
        ("interpolated", "clean256_noisy32"),
        ("interpolated, swapped", "clean32_noisy256"),
    ]:
        t = jnp.linspace(0.0, 1.0, 1001)
        steepest = np.max(slopes(SCHEDULES[name], t))
        np.testing.assert_allclose(steepest, wanted[key]["max_slope"], rtol=1e-5)


def test_flow_is_a_straight_line_between_its_bounds():
    schedule = schedules.Flow(-40.0, 40.0)  # wide: t is the amplitude to 1e-8
    for row in vector("schedule.flow_matching"):
        t = jnp.float32(row["t"])
        np.testing.assert_allclose(schedule(t), row["logsnr"], rtol=2e-6, atol=1e-6)


def test_shift_of_flow_moves_logsnr_and_not_t():
    t = jnp.linspace(0.0, 1.0, 11)
    difference = schedules.flow(shift=-1.5)(t) - schedules.flow()(t)
    np.testing.assert_allclose(difference, -1.5, rtol=0, atol=2e-6)


def test_interpolation_of_a_schedule_with_itself_is_that_schedule():
    t = jnp.linspace(0.0, 1.0, 11)
    got = schedules.interpolate_schedules(COSINE, COSINE)(t)
    np.testing.assert_allclose(got, COSINE(t), rtol=1e-6, atol=1e-6)


def test_each_example_may_have_its_own_shift():
    shifts = jnp.array([-2.0, 0.0, 1.0])
    t = jnp.array([0.2, 0.5, 0.9])
    together = schedules.ShiftedSchedule(COSINE, shifts)
    for k in range(3):
        alone = schedules.ShiftedSchedule(COSINE, float(shifts[k]))
        for method in ("__call__", "inverse", "log_density"):
            a, b = getattr(together, method)(t), getattr(alone, method)(t)
            np.testing.assert_allclose(a[k], b[k], rtol=1e-6)


def test_wide_bounds_keep_value_and_slope_finite_at_both_ends():
    schedule = schedules.cosine(-40.0, 40.0)
    ends = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(schedule(ends), [40.0, -40.0], rtol=1e-6)
    assert np.all(np.isfinite(slopes(schedule, ends)))
