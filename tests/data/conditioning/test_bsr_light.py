"""The distribution of the plans, and what a plan does to an image."""

import collections
import dataclasses
import io
import itertools

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from simple_diffusion.data.conditioning import bsr_light

# The chance that a correct distribution fails one test; the seeds are fixed.
RARE = 1e-3
POINT = bsr_light.Blur(5, (1e-6, 1e-6), 0.0)
NO_NOISE = bsr_light.Noise("grey", np.zeros((1, 3)))
# Nothing but JPEG of the highest quality.
NOTHING = bsr_light.Plan(
    factor=1,
    halving=None,
    order=bsr_light.SLOTS,
    blur=POINT,
    shrink=bsr_light.Resize(1.0, "linear"),
    fit="linear",
    noise=NO_NOISE,
    quality=None,
    final_quality=95,
)


def draw_plans(factor, count=4000, seed=0):
    rng = np.random.default_rng(seed)
    return [bsr_light.draw_plan(factor, rng) for _ in range(count)]


@pytest.fixture(scope="module")
def plans():
    return draw_plans(4)


def is_likely(count, total, share):
    return scipy.stats.binomtest(count, total, share).pvalue > RARE


def grid(h, w, c=3):
    """Smooth waves."""
    y, x = np.mgrid[:h, :w] / 8
    waves = np.sin(y) + np.cos(x)
    return np.repeat(127.5 + 50 * waves[:, :, None], c, 2).astype(np.uint8)


def apply(plan, image, seed=0):
    return bsr_light.apply_plan(image, plan, np.random.default_rng(seed))


def test_the_order_is_random_except_that_the_final_size_comes_second(plans):
    pairs = collections.Counter()
    for place in zip(*(plan.order for plan in plans), strict=True):
        counts = collections.Counter(place)
        for slot in bsr_light.SLOTS:
            if slot not in ("shrink", "fit"):
                assert is_likely(counts[slot], len(plans), 1 / 7)
    for plan in plans:
        assert sorted(plan.order) == sorted(bsr_light.SLOTS)
        pairs[plan.order.index("shrink"), plan.order.index("fit")] += 1
    expected = list(itertools.combinations(range(7), 2))
    assert pairs.keys() == set(expected)
    assert scipy.stats.chisquare([pairs[p] for p in expected]).pvalue > RARE


def test_qualities_of_jpeg_are_even_between_80_and_95(plans):
    middle = [plan.quality for plan in plans if plan.quality is not None]
    assert is_likely(len(middle), len(plans), 0.9)
    for found in (middle, [plan.final_quality for plan in plans]):
        counts = collections.Counter(found)
        assert counts.keys() == set(range(80, 96))
        assert scipy.stats.chisquare([*counts.values()]).pvalue > RARE


def test_only_a_factor_of_4_is_sometimes_halved_first(plans):
    halved = collections.Counter(plan.halving for plan in plans)
    assert is_likely(halved[None], len(plans), 0.75)
    assert is_likely(halved["antialiased"], len(plans), 0.125)
    for name in ("linear", "cubic", "area"):
        assert is_likely(halved[name], len(plans), 0.125 / 3)
    for factor in (2, 3, 8):
        assert all(plan.halving is None for plan in draw_plans(factor, 100))


@pytest.mark.parametrize("is_halved", [False, True])
def test_blur_and_shrinking_have_their_ranges(plans, is_halved):
    step = 2 if is_halved else 4
    chosen = [plan for plan in plans if (plan.halving is not None) == is_halved]
    blurs = [plan.blur for plan in chosen]
    round_ = [b for b in blurs if b.variances[0] == b.variances[1]]
    assert is_likely(len(round_), len(blurs), 0.5)
    assert {b.taps for b in round_} == {5, 6, 7}
    assert {b.taps for b in blurs} - {5, 6, 7} == set(range(8, 15))
    sigma = [b.variances[0] ** 0.5 for b in round_]
    variances = [b.variances[1] for b in blurs if b not in round_]
    shrinks = [plan.shrink for plan in chosen]
    resizes = [s for s in shrinks if isinstance(s, bsr_light.Resize)]
    decimations = [s for s in shrinks if isinstance(s, bsr_light.Decimation)]
    assert is_likely(len(resizes), len(shrinks), 0.8)
    assert {s.step for s in decimations} == {step}
    for values, low, high in (
        (sigma, 0, (2 + 0.2 * step) / 4),
        (variances, 0, (4 + step) / 4),
        ([s.factor for s in resizes], 1, 2 * step),
        ([s.sigma for s in decimations], 0.1, 0.6 * step),
    ):
        uniform = scipy.stats.uniform(low, high - low)
        assert scipy.stats.kstest(values, uniform.cdf).pvalue > RARE


def test_noise_has_one_or_two_levels_of_255_and_three_kinds(plans):
    kinds = collections.Counter(plan.noise.kind for plan in plans)
    for kind, share in (("independent", 0.4), ("grey", 0.4), ("correlated", 0.2)):
        assert is_likely(kinds[kind], len(plans), share)
    strongest = []
    for noise in (plan.noise for plan in plans):
        covariance = noise.mixing.T @ noise.mixing * 255**2
        deviation = np.sqrt(np.diag(covariance))
        if noise.kind == "correlated":
            strongest.append(deviation.max())
            assert (covariance > -1e-9).all()
        else:
            assert np.ptp(deviation) < 1e-9
            assert np.round(deviation[0], 9) in (1, 2)
    # Variances are the lengths of a basis, between 0 and 1, times 2 squared; an
    # absolute value never increases the diagonal.
    assert max(strongest) <= 2 and np.mean(strongest) > 1


@pytest.mark.parametrize("kind", ["independent", "grey", "correlated"])
def test_drawn_noise_has_the_covariance_of_its_plan(plans, kind):
    noise = next(plan.noise for plan in plans if plan.noise.kind == kind)
    rng = np.random.default_rng(1)
    found = bsr_light.draw_noise((300, 300, 3), noise, rng).reshape(-1, 3)
    expected = noise.mixing.T @ noise.mixing
    scale = expected.max()
    # The relative deviation of a variance of n numbers is sqrt(2 / n) = 0.005.
    assert np.abs(np.cov(found.T) - expected).max() < 0.03 * scale
    assert np.abs(found.mean(0)).max() < 0.02 * scale**0.5
    assert kind != "grey" or (found == found[:, :1]).all()
    one = bsr_light.draw_noise((300, 300, 1), noise, rng)
    assert one.shape == (300, 300, 1)
    assert np.var(one) == pytest.approx(expected[0, 0], rel=0.03)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_plan_that_does_nothing_else_is_jpeg(channels):
    image = grid(24, 40, channels)
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if channels == 1 else image).save(
        file, format="JPEG", quality=95
    )
    expected = np.asarray(Image.open(file)).reshape(image.shape)
    assert (apply(NOTHING, image) == expected).all()


def test_each_step_changes_the_result():
    image = grid(32, 32)
    plain = apply(NOTHING, image)
    noise = bsr_light.Noise("independent", 2 / 255 * np.eye(3))
    for change in (
        {"blur": bsr_light.Blur(9, (2.0, 0.5), 1.0)},
        {"shrink": bsr_light.Resize(3.0, "area")},
        {"shrink": bsr_light.Decimation(2, 1.0)},
        {"noise": noise},
        {"quality": 80},
        {"final_quality": 80},
        {"halving": "area"},
    ):
        changed = apply(dataclasses.replace(NOTHING, **change), image)
        assert changed.shape == plain.shape and (changed != plain).any()


@pytest.mark.parametrize("step", [2, 3, 4])
def test_decimation_shows_the_middle_of_each_block(step):
    ramp = np.arange(16 * step)[:, None, None] * (200 / (16 * step))
    image = np.repeat(np.repeat(ramp, 16 * step, 1), 3, 2).astype(np.float32)
    plan = dataclasses.replace(
        NOTHING, factor=step, shrink=bsr_light.Decimation(step, 0.3 * step)
    )
    small = apply(plan, np.round(image).astype(np.uint8))
    middles = image.reshape(16, step, 16, step, 3).mean((1, 3))
    # Far from the edges, where the ramp is mirrored; rounded twice, and JPEG.
    assert np.abs(small - middles)[4:-4].max() < 2


def test_noise_before_the_image_shrinks_is_weaker_than_after_it():
    image = np.full((128, 128, 3), 128, np.uint8)
    noise = bsr_light.Noise("grey", np.full((1, 3), 20 / 255))
    plan = dataclasses.replace(NOTHING, factor=4, fit="area", noise=noise)
    deviations = []
    for slots in (("noise", "fit"), ("fit", "noise")):
        rest = [slot for slot in bsr_light.SLOTS if slot not in slots]
        changed = dataclasses.replace(plan, order=(*rest, *slots))
        deviations.append(apply(changed, image).std())
    # The mean of 16 pixels has a quarter of their deviation.
    assert deviations == pytest.approx([5, 20], rel=0.15)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(8, 8), (24, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_plan_ends_at_the_final_size(factor, size, channels):
    image = grid(*size, channels)
    for plan in draw_plans(factor, 30):
        small = apply(plan, image)
        assert small.dtype == np.uint8
        assert small.shape == (size[0] // factor, size[1] // factor, channels)


def test_the_same_plan_and_numbers_give_the_same_image(plans):
    image = grid(16, 16)
    for plan in plans[:10]:
        assert (apply(plan, image) == apply(plan, image)).all()
