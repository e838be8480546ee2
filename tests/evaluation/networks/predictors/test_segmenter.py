"""A segmenter that learns what is dark and what is bright."""

import itertools

import numpy as np

from simple_diffusion.evaluation.networks.predictors import segmenter, training
from simple_diffusion.evaluation.networks.predictors.training import (
    Recipe,
    TrainingBatch,
)


def draw(seed, n=8, side=8):
    """Dark pictures with a bright rectangle, of no class in the last row."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((n, side, side), np.int32)
    for each in ids:
        y, x = rng.integers(0, side // 2, 2)
        each[y : y + side // 2, x : x + side // 2] = 1
    noise = rng.integers(-30, 31, (n, side, side, 3))
    images = np.where(ids[..., None] == 1, 180, 70) + noise
    ids[:, -1] = -1
    return TrainingBatch(images.astype(np.uint8), {"ids": ids})


def test_it_learns_classes_and_leaves_out_pixels_without_one():
    task = segmenter.make_task(2, widths=(8,))
    recipe = Recipe((8, 8), steps=30, learning_rate=1e-2)
    batches = map(draw, itertools.count())
    predictor = training.train(task, recipe, batches, lambda line: None)
    batch = draw(-1 % 2**32)
    found = segmenter.segment(predictor, batch.images)
    known = batch.targets["ids"] >= 0
    assert (found == batch.targets["ids"])[known].mean() > 0.95
    assert found.dtype == np.int32 and set(np.unique(found)) == {0, 1}
