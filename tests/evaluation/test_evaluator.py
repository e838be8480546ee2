import dataclasses

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


def evaluator(pixels):
    def loss(batch, number):
        # Known per example: the mean pixel is the loss, the place its logsnr.
        value = jnp.mean(batch.image.astype(jnp.float32), axis=(1, 2, 3))
        place = jnp.arange(BATCH) + BATCH * number
        return value, place.astype(jnp.float32), 2 * value

    return Evaluator(
        held_out=lambda: batches(pixels),
        loss=loss,
        bin_edges=(3.0, 8.0),
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


def test_without_a_bound_there_is_only_the_loss(pixels):
    whole = evaluator(pixels)

    def loss(batch, number):
        return *whole.loss(batch, number)[:2], None

    counts = []
    metrics = dict(dataclasses.replace(whole, loss=loss).held_out_loss(counts.append))
    expected = dict(whole.held_out_loss())
    del expected["bits_per_dimension_bound"]
    assert metrics == expected
    assert counts == [4, 8, 10]  # images so far, without padding


def test_without_images_there_is_no_loss(pixels):
    assert dict(evaluator(pixels[:0]).held_out_loss()) == {"held_out_images": 0}
