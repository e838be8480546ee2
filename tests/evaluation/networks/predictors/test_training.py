"""Training of a predictor, with a network that finds the brightness of an image."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.evaluation.networks.predictors import training
from simple_diffusion.evaluation.networks.predictors.training import (
    Recipe,
    Task,
    TrainingBatch,
)


class Brightness(nn.Module):
    @nn.compact
    def __call__(self, x):
        return {"level": nn.Dense(1)(x.mean((1, 2)))[:, 0]}


def error(outputs, targets):
    return jnp.mean((outputs["level"] - targets["level"]) ** 2)


TASK = Task("brightness", Brightness(), error, {"kind": "mean"})
RECIPE = Recipe(size=(4, 6), steps=60, learning_rate=0.3)


def draw(seed, n=16, size=(4, 6)):
    rng = np.random.default_rng(seed)
    level = rng.integers(40, 216, n)
    noise = rng.integers(-30, 31, (n, *size, 3))
    return TrainingBatch(
        (level[:, None, None, None] + noise).astype(np.uint8),
        {"level": level.astype(np.float32) / 255},
    )


def train(recipe=RECIPE, log=lambda line: None):
    return training.train(TASK, recipe, map(draw, itertools.count()), log)


@pytest.fixture(scope="module")
def predictor():
    return train()


@pytest.mark.parametrize("size", [(4, 6), (12, 18), (9, 3)])
def test_it_predicts_for_images_of_any_size_and_number(predictor, size):
    batch = draw(-1 % 2**32, n=70, size=size)
    found = predictor(batch.images)["level"]
    assert found.shape == (70,)
    np.testing.assert_allclose(found, batch.targets["level"], atol=0.06)
    alone = predictor(batch.images[5:6])["level"]
    np.testing.assert_allclose(alone, found[5:6], rtol=1e-5)


def test_grey_images_are_read_as_their_colours(predictor):
    grey = draw(3).images[..., :1]
    colour = np.repeat(grey, 3, -1)
    np.testing.assert_array_equal(predictor(grey)["level"], predictor(colour)["level"])


def test_the_same_recipe_and_images_make_the_same_weights_bit_by_bit(predictor):
    again = train()
    assert again.digest == predictor.digest
    jax.tree.map(np.testing.assert_array_equal, again.params, predictor.params)
    assert train(dataclasses.replace(RECIPE, seed=1)).digest != predictor.digest
    assert train(dataclasses.replace(RECIPE, noise=0.0)).digest != predictor.digest


def test_weights_are_kept_for_their_task_and_recipe_alone(predictor, tmp_path):
    path = tmp_path / "brightness.npz"
    training.save(predictor, path)
    kept = training.load(path, TASK, RECIPE)
    assert kept is not None and kept.digest == predictor.digest
    batch = draw(1)
    np.testing.assert_array_equal(
        kept(batch.images)["level"], predictor(batch.images)["level"]
    )
    for changed in (
        {"size": (4, 4)},
        {"data": "other"},
        {"steps": 61},
        {"noise": 5.0},
    ):
        other = dataclasses.replace(RECIPE, **changed)
        assert training.load(path, TASK, other) is None
    assert training.load(path, TASK._replace(about={}), RECIPE) is None


def test_it_says_how_it_goes_and_when_there_are_too_few_batches():
    lines = []
    train(log=lines.append)
    assert lines[-1].startswith("brightness: step 60/60, loss 0.0")
    assert len(lines) == 4
    with pytest.raises(ValueError, match="batches ended before the brightness"):
        training.train(TASK, RECIPE, map(draw, range(3)), lines.append)
