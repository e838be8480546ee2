"""Predictors that are trained on scenes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from simple_diffusion.data.scenes import captions, scenes
from simple_diffusion.evaluation.conditions import scene_readers
from simple_diffusion.evaluation.conditions.scene_readers import SceneReaders
from simple_diffusion.evaluation.networks.predictors import attribute_reader, training

SIZE = (16, 16)


@pytest.fixture
def quick_training(monkeypatch):
    """Networks keep the weights that they begin with; returns what was trained."""
    recipes = []

    def train(task, recipe, batches, log):
        batch = next(batches)
        assert batch.images.shape[1:] == (*recipe.size, 3)
        shapes = jax.eval_shape(
            task.network.init, jax.random.key(0), jnp.zeros((1, *recipe.size, 3))
        )
        params = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), shapes["params"])
        recipes.append((task.name, recipe))
        return training.Predictor(task, recipe, params)

    monkeypatch.setattr(training, "train", train)
    return recipes


@pytest.mark.parametrize("kind", ["text", "layout", "semantic"])
def test_a_reader_is_trained_once_and_kept(tmp_path, quick_training, kind):
    lines, folder = [], epath.Path(tmp_path)
    for steps in (2, 2, 3):
        SceneReaders(folder, SIZE, log=lines.append, steps=steps).prepare(kind)
    (name, first), (_, second) = quick_training
    assert (first.steps, second.steps) == (2, 3)
    assert lines[0].startswith(f"training the {name} on real scenes; stored in ")
    (path,) = tmp_path.iterdir()
    assert path.name == f"{name.replace(' ', '_')}_16x16.npz"


@pytest.mark.parametrize(
    "size, expected", [((32, 48), (32, 48)), ((128, 256), (64, 128))]
)
def test_large_images_are_read_at_64_pixels(tmp_path, size, expected):
    assert SceneReaders(epath.Path(tmp_path), size).size == expected


def test_all_that_is_drawn_otherwise_is_trained_for_anew(
    tmp_path, quick_training, monkeypatch
):
    folder = epath.Path(tmp_path)
    SceneReaders(folder, SIZE).prepare("text")
    SceneReaders(folder, SIZE, channels=1).prepare("text")
    render = scenes.render
    monkeypatch.setattr(scenes, "render", lambda *args: render(*args) // 2)
    SceneReaders(folder, SIZE, channels=1).prepare("text")
    assert len({recipe.data for _, recipe in quick_training}) == 3


def test_other_targets_of_the_same_images_are_trained_for_anew(
    tmp_path, quick_training, monkeypatch
):
    folder = epath.Path(tmp_path)
    SceneReaders(folder, SIZE).prepare("layout")
    boxes = scenes.boxes

    def halve(found):
        objects = boxes(found)
        return objects._replace(box=objects.box / 2)

    monkeypatch.setattr(scenes, "boxes", halve)
    SceneReaders(folder, SIZE).prepare("layout")
    assert len({recipe.data for _, recipe in quick_training}) == 2


def test_attributes_are_wanted_as_far_as_captions_name_them():
    found = scenes.describe(7, np.arange(24), split="holdout")
    every = scene_readers.attributes_of(found)
    sentences = captions.write(found, captions.SENTENCE)
    named = scene_readers.named_attributes(found, sentences)
    for name, values in every.items():
        np.testing.assert_array_equal(named[name], values)
    nothing = scene_readers.named_attributes(found, ["Something."] * 24)
    np.testing.assert_array_equal(nothing["object"], every["object"])
    for name in ("colour", "count", "position"):
        assert (nothing[name] == -1).all()
    found = scenes.describe(0, np.arange(1), classes=scenes.CLASS_NAMES.index("car"))
    colour = scenes.COLOUR_NAMES[found.colour[0]]
    some = scene_readers.named_attributes(found, [f"A {colour} car."])
    assert (some["colour"], some["count"]) == (found.colour[0], 1)
    assert some["position"] == -1


@pytest.mark.slow
def test_after_little_training_scenes_are_told_apart(tmp_path, monkeypatch):
    make_task = functools.partial(attribute_reader.make_task, widths=(8, 16))
    monkeypatch.setattr(attribute_reader, "make_task", make_task)
    readers = SceneReaders(epath.Path(tmp_path), SIZE, steps=60)
    found = scenes.describe(7, np.arange(128), split="holdout")
    pixels = scenes.render(found, *SIZE)
    read = readers.read_attributes(pixels)
    # One of twelve by guessing.
    assert np.mean(read["object"] == found.label) > 0.6
    assert np.mean(read["object"] == np.roll(found.label, 1)) < 0.2
