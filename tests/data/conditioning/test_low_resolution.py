"""Small images with the level and the seed of their noise."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from simple_diffusion.core.examples import Example
from simple_diffusion.data import order, pipeline
from simple_diffusion.data.conditioning import degradation, encoders
from simple_diffusion.data.conditioning.low_resolution import (
    LowResolutionEncoder,
    to_logsnr,
)
from simple_diffusion.data.scenes import scenes_source
from simple_diffusion.data.sources import catalogue
from simple_diffusion.diffusion.schedules import Cosine
from tests.data.test_pipeline import take, train
from tests.data.test_skipping import Numbered

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def encode(encoder, position=0, image=IMAGE):
    return encoder.encode(Example(image), order.make_generator(0, position))


@pytest.mark.parametrize("kind", degradation.DEGRADATIONS)
def test_the_arrays_are_those_specified(kind):
    encoder = LowResolutionEncoder(4, kind, augmentation=(0.0, 0.5))
    found = encode(encoder)
    specs = encoder.specs((16, 24))
    assert found.keys() == specs.keys()
    for name, spec in specs.items():
        assert (found[name].shape, str(found[name].dtype)) == spec[:2]
    assert specs["low_resolution.small"].shape == (4, 6, 3)


@pytest.mark.parametrize(
    "source",
    [Numbered(20), scenes_source.ScenesSource(length=20)],
    ids=["stored", "scenes"],
)
def test_a_batch_holds_small_versions_of_its_images(source):
    encoder = LowResolutionEncoder(2, augmentation=(0.0, 0.5))
    catalogue.check_fields(source, "scenes", encoder.needs, "the condition")
    options = dict(batch_size=4, size=(8, 8), encoders=(encoder,), flip=True)
    (batch,) = take(train(source, **options), 1)
    rng = np.random.default_rng(0)
    for image, small in zip(
        batch.image, batch.fields["low_resolution.small"], strict=True
    ):
        assert (small == degradation.degrade(image, 2, "bicubic", rng)).all()
    seeds = batch.fields["low_resolution.seed"]
    assert seeds.dtype == np.uint32 and len(set(seeds.tolist())) == 4
    (again,) = take(train(source, **options), 1)
    assert (again.fields["low_resolution.seed"] == seeds).all()


def test_padding_is_an_image_without_noise():
    encoder = LowResolutionEncoder(2, augmentation=(0.0, 0.5))
    options = dict(batch_size=8, size=(6, 6), encoders=(encoder,))
    _, last = pipeline.eval_batches(Numbered(20), count=11, **options)
    assert (last.mask.sum(), len(last.mask)) == (3, 8)
    assert np.isinf(last.fields["low_resolution.logsnr"][3:]).all()
    assert np.isfinite(last.fields["low_resolution.logsnr"][:3]).all()
    assert not last.fields["low_resolution.small"][3:].any()


def test_without_augmentation_there_is_no_noise():
    encoder = LowResolutionEncoder(4)
    assert encode(encoder)["low_resolution.logsnr"] == np.inf
    still = LowResolutionEncoder(4, augmentation=(0.0, 0.0))
    assert encode(still)["low_resolution.logsnr"] == np.inf


@pytest.mark.parametrize("limits", [(0.0, 0.5), (0.2, 0.9), (0.3, 0.3)])
def test_times_of_the_noise_are_uniform(limits):
    low, high = limits
    encoder = LowResolutionEncoder(4, "area", augmentation=limits)
    levels = [encode(encoder, k)["low_resolution.logsnr"] for k in range(500)]
    time = 2 / np.pi * np.arctan(np.exp(-0.5 * np.array(levels, float)))
    assert low - 1e-6 <= time.min() <= time.max() <= high + 1e-6
    if low < high:
        uniform = scipy.stats.uniform(low, high - low)
        assert scipy.stats.kstest(time, uniform.cdf).pvalue > 1e-3


def test_levels_are_those_of_the_cosine_schedule():
    times = np.linspace(0.01, 0.99, 50)
    # Bounds this far away change the schedule by less than a float32 can hold.
    schedule = Cosine(-60.0, 60.0)
    expected = np.asarray(schedule(jnp.asarray(times, jnp.float32)))
    assert np.abs([to_logsnr(t) for t in times] - expected).max() < 1e-4
    assert to_logsnr(0.5) == pytest.approx(0, abs=1e-12)
    assert to_logsnr(0.0) == np.inf
    assert (to_logsnr(1e-300), to_logsnr(1.0)) == (20, -20)


def test_level_and_seed_do_not_depend_on_the_degradation():
    found = [
        encode(LowResolutionEncoder(4, kind, augmentation=(0.0, 1.0)))
        for kind in degradation.DEGRADATIONS
    ]
    for name in ("low_resolution.logsnr", "low_resolution.seed"):
        assert len({float(arrays[name]) for arrays in found}) == 1


def test_seeds_use_all_32_bits():
    encoder = LowResolutionEncoder(4, "area")
    seeds = [encode(encoder, k)["low_resolution.seed"] for k in range(300)]
    assert len({int(seed) for seed in seeds}) == 300
    assert np.bitwise_or.reduce(seeds) == 2**32 - 1
    assert np.bitwise_and.reduce(seeds) == 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_transparent_images_stay_what_they_are(channels):
    image = np.zeros((8, 8, channels), np.uint8)
    encoder = LowResolutionEncoder(4, "area", channels)
    encoded = encoders.EncoderSet((encoder,), (8, 8)).encode(Example(image), 0, 0)
    assert encoded[0].shape == (2, 2, channels)


def test_a_factor_that_does_not_divide_the_size_is_an_error():
    with pytest.raises(
        ValueError, match="conditions.low_resolution.factor=5 must divide .* 16x24"
    ):
        LowResolutionEncoder(5).specs((16, 24))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"factor": 0}, "factor=0 must be at least 1"),
        ({"degradation": "blur"}, "degradation='blur' must be one of"),
        ({"degradation": "bsr_light", "channels": 4}, ".*has no transparency"),
        ({"augmentation": (0.5, 0.2)}, r"augmentation=\(0.5, 0.2\) must be a range"),
        ({"augmentation": (0.0, 1.5)}, r"augmentation=\(0.0, 1.5\) must be a range"),
    ],
)
def test_wrong_settings_are_an_error_that_names_the_key(options, problem):
    with pytest.raises(ValueError, match=f"conditions.low_resolution.{problem}"):
        LowResolutionEncoder(**{"factor": 4} | options)
