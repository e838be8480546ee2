import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.types import Batch
from simple_diffusion.evaluation.evaluator import Evaluator

N, BATCH = 10, 4


def batches(pixels):
    """All images in batches of four, the last one padded with nonsense."""
    for start in range(0, len(pixels), BATCH):
        part = pixels[start : start + BATCH]
        padding = BATCH - len(part)
        image = np.concatenate([part, np.full((padding, 2, 2, 3), 77, np.uint8)])
        yield Batch(
            image=jnp.asarray(image),
            label=jnp.zeros(BATCH, jnp.int32),
            box=jnp.zeros((BATCH, 4)),
            mask=jnp.arange(BATCH) < len(part),
        )


def evaluator(pixels, real=None):
    def loss(batch, number):
        # Known per example: the mean pixel is the loss, the place its logsnr.
        value = jnp.mean(batch.image.astype(jnp.float32), axis=(1, 2, 3))
        place = jnp.arange(BATCH) + BATCH * number
        return value, place.astype(jnp.float32), 2 * value

    return Evaluator(
        held_out=lambda: batches(pixels),
        real=lambda: batches(pixels if real is None else real),
        loss=loss,
        bin_edges=(3.0, 8.0),
        features=lambda images: images.reshape(len(images), -1)[:, :3] / 255.0,
        feature_name="corner",
    )


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (N, 2, 2, 3), np.uint8)


def test_means_and_bins_are_those_of_the_real_images_alone(pixels):
    metrics = dict(evaluator(pixels).held_out_loss())
    mean = pixels.mean((1, 2, 3))
    assert metrics["held_out_images"] == N
    assert metrics["held_out_loss"] == pytest.approx(mean.mean(), rel=1e-5)
    bits = metrics["bits_per_dimension_bound"]
    assert bits == pytest.approx(2 * mean.mean(), rel=1e-5)
    for name, part in (
        ("[-inf,3)", mean[:3]),
        ("[3,8)", mean[3:8]),
        ("[8,inf)", mean[8:]),
    ):
        assert metrics[f"held_out_loss{name}"] == pytest.approx(part.mean(), rel=1e-5)


def test_the_held_out_images_are_at_no_distance_from_themselves(pixels):
    asked = []

    def sample(n):
        asked.append(n)
        return np.split(pixels, [3])

    metrics = dict(evaluator(pixels).distance(sample))
    assert asked == [N]
    assert metrics == {"frechet_corner_10": pytest.approx(0, abs=1e-10)}


def test_other_images_are_at_a_distance(pixels):
    metrics = dict(evaluator(pixels).distance(lambda n: [pixels // 2]))
    assert metrics["frechet_corner_10"] > 0.05


def test_the_wrong_number_of_samples_is_an_error(pixels):
    with pytest.raises(ValueError, match="asked for 10 samples, got 3"):
        dict(evaluator(pixels).distance(lambda n: [pixels[:3]]))


@pytest.mark.parametrize("n", [0, 1])
def test_with_too_few_images_there_is_no_distance(pixels, n):
    metrics = dict(evaluator(pixels[:n]).run(lambda n: pytest.fail("no use")))
    assert metrics["held_out_images"] == n
    assert not any("frechet" in name for name in metrics)


def test_samples_are_compared_with_the_real_images_and_not_with_the_held_out(pixels):
    other = pixels // 2
    metrics = dict(evaluator(pixels, real=other).distance(lambda n: [other[:n]]))
    assert metrics[f"frechet_corner_{N}"] == pytest.approx(0, abs=1e-9)
