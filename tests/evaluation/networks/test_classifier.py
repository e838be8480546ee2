"""The classifier of the data source: what it learns, sees, and keeps in a file."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.types import Batch
from simple_diffusion.evaluation.networks import classifier

NAMES = ("dark", "bright", "red")
COLOURS = np.array([[60, 60, 60], [190, 190, 190], [190, 60, 60]])
RECIPE = classifier.Recipe(
    side=8, num_classes=3, steps=40, batch_size=16, widths=(8, 8), hidden=8
)


def draw(seed, n=16, side=12):
    """Noise around the colour of each class, and the classes."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    image = COLOURS[label][:, None, None] + rng.normal(0, 20, (n, side, side, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label.astype(np.int32)


def batch(image, label, mask=None):
    mask = np.ones(len(label), bool) if mask is None else mask
    return Batch(image, label, np.zeros((len(label), 4), np.float32), mask)


def batches():
    return (batch(*draw(seed)) for seed in itertools.count())


def train(recipe=RECIPE, data=None, log=lambda line: None):
    return classifier.train(recipe, data or batches(), "toys", NAMES, log)


def outputs(network, image):
    return jax.jit(network.apply)(network.params, jnp.asarray(image))


@pytest.fixture(scope="module")
def network():
    return train()


def test_it_learns_classes_that_are_easy_to_tell_apart(network):
    image, label = draw(-1 % 2**32, 100)
    found = outputs(network, image)
    assert (np.argmax(found.logits, -1) == label).mean() > 0.95
    assert found.spatial is None
    assert (network.name, network.class_names) == ("toys", NAMES)


def test_features_of_training_images_have_mean_zero_and_deviation_one(network):
    rows = outputs(network, np.concatenate([draw(s)[0] for s in range(60)])).features
    # 960 images; those that the statistics are of are others.
    np.testing.assert_allclose(np.mean(rows, 0), 0, atol=0.2)
    deviation = np.std(rows, 0)
    assert (deviation < 1.15).all() and (deviation > 0.85).mean() > 0.9


def test_the_same_recipe_and_images_make_the_same_weights_bit_by_bit(network):
    again = train()
    assert again.digest == network.digest and len(network.digest) == 12
    jax.tree.map(np.testing.assert_array_equal, again.params, network.params)
    other = train(dataclasses.replace(RECIPE, seed=1))
    assert other.digest != network.digest


def test_examples_that_only_pad_a_batch_do_not_train():
    recipe = dataclasses.replace(RECIPE, steps=3)
    mask = np.arange(16) < 10

    def padded(seed):
        noise = np.random.default_rng(seed)
        for k in itertools.count():
            image, label = draw(k)
            image[10:] = noise.integers(0, 256, image[10:].shape)
            label[10:] = noise.integers(-5, 5, 6)
            yield batch(image, label, mask)

    assert train(recipe, padded(0)).digest == train(recipe, padded(1)).digest
    assert train(recipe, padded(0)).digest != train(recipe).digest


def test_features_do_not_depend_on_the_rest_of_the_batch(network):
    image, _ = draw(7)
    alone = outputs(network, image[3:4])
    among = outputs(network, np.concatenate([image, np.zeros_like(image)]))
    for a, b in ((alone.features, among.features), (alone.logits, among.logits)):
        # Another batch size may be another order of sums.
        np.testing.assert_allclose(a[0], b[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("h, w", [(8, 8), (4, 6), (33, 20)])
def test_images_may_be_of_any_size(network, h, w):
    image = np.broadcast_to(COLOURS[:, None, None].astype(np.uint8), (3, h, w, 3))
    found = outputs(network, image)
    assert np.isfinite(found.features).all()
    # Without noise, which these were not trained on, the classes stay.
    np.testing.assert_array_equal(np.argmax(found.logits, -1), [0, 1, 2])


def test_grey_images_have_one_channel():
    recipe = dataclasses.replace(RECIPE, channels=1, num_classes=2)
    both = (draw(seed) for seed in itertools.count())
    data = (batch(image[..., 1:2], (label == 1) * 1) for image, label in both)
    network = classifier.train(recipe, data, "grey", ("dark", "bright"), lambda _: None)
    image, label = draw(5)
    found = np.argmax(outputs(network, image[..., 1:2]).logits, -1)
    assert (found == (label == 1)).mean() > 0.9
    with pytest.raises(ValueError, match="images of 1 channels, got 3"):
        outputs(network, image)


def test_features_see_blur_and_noise_though_the_class_stays(network):
    image = draw(3, 200)[0].astype(np.float64)
    kinds = {"blur": [], "noise": []}
    noise = np.random.default_rng(0).normal(size=image.shape)
    blurred = image.mean((1, 2), keepdims=True)
    for strength in (0.0, 0.2, 0.4, 0.8):
        kinds["blur"].append(image + strength * (blurred - image))
        kinds["noise"].append(image + 40 * strength * noise)
    for cases in kinds.values():
        means = []
        for case in cases:
            case = np.clip(np.rint(case), 0, 255).astype(np.uint8)
            means.append(np.mean(outputs(network, case).features, 0))
        far = [np.linalg.norm(m - means[0]) for m in means]
        assert (np.diff(far) > 0.05).all(), far


def test_weights_are_restored_bit_by_bit(network, tmp_path):
    path = tmp_path / "new" / "weights.npz"
    classifier.save(network, RECIPE, path)
    restored = classifier.load(path, RECIPE, "toys", NAMES)
    assert restored is not None and restored.digest == network.digest
    assert restored.class_names == NAMES and restored.resize == network.resize
    image, _ = draw(1)
    there, back = outputs(network, image), outputs(restored, image)
    np.testing.assert_array_equal(there.features, back.features)
    np.testing.assert_array_equal(there.logits, back.logits)
    assert [p.name for p in path.parent.iterdir()] == ["weights.npz"]


def test_weights_of_another_recipe_source_or_classes_are_not_loaded(network, tmp_path):
    path = tmp_path / "weights.npz"
    classifier.save(network, RECIPE, path)
    assert classifier.load(path, RECIPE, "toys", NAMES)
    changes = dict(side=9, steps=41, seed=1, data="other", learning_rate=1e-3)
    for name, value in changes.items():
        other = dataclasses.replace(RECIPE, **{name: value})
        assert classifier.load(path, other, "toys", NAMES) is None
    assert classifier.load(path, RECIPE, "cars", NAMES) is None
    assert classifier.load(path, RECIPE, "toys", NAMES[::-1]) is None


def test_a_damaged_or_foreign_file_is_not_loaded(network, tmp_path):
    path = tmp_path / "weights.npz"
    assert classifier.load(path, RECIPE, "toys", NAMES) is None
    classifier.save(network, RECIPE, path)
    content = path.read_bytes()
    for foreign in (b"", b"<html>", content[: len(content) // 2]):
        path.write_bytes(foreign)
        assert classifier.load(path, RECIPE, "toys", NAMES) is None
    path.write_bytes(content)
    with np.load(path) as file:
        arrays: dict[str, Any] = dict(file)
    assert classifier.load(path, RECIPE, "toys", NAMES)
    for name in arrays:
        damaged = dict(arrays)
        if arrays[name].dtype == np.float32:
            damaged[name] = np.nextafter(arrays[name], np.float32(1e9))
        else:
            del damaged[name]
        np.savez(path, **damaged)
        assert classifier.load(path, RECIPE, "toys", NAMES) is None, name
    arrays["more"] = np.zeros(3)
    np.savez(path, **arrays)
    assert classifier.load(path, RECIPE, "toys", NAMES) is None


def test_it_says_how_it_goes_and_when_it_has_learned_nothing():
    lines = []
    train(log=lines.append)
    assert len(lines) == 5 and lines[-1].startswith(
        "classifier of toys: step 40/40, loss"
    )
    rng = np.random.default_rng(0)
    both = (draw(seed) for seed in itertools.count())
    guesses = (batch(image, rng.integers(0, 3, len(image))) for image, _ in both)
    train(data=guesses, log=lines.append)
    assert "classifier of toys hardly distinguishes the classes" in lines[-1]


def test_the_device_is_one_and_the_weights_stay_on_the_host(network):
    assert all(isinstance(v, np.ndarray) for v in jax.tree.leaves(network.params))
    assert all(v.dtype == np.float32 for v in jax.tree.leaves(network.params))


def test_what_cannot_be_trained_is_an_error_that_says_why():
    for count in (0, 1):
        with pytest.raises(ValueError, match="2 classes, got .*thumbnail need none"):
            dataclasses.replace(RECIPE, num_classes=count)
    with pytest.raises(ValueError, match="side=7 must be at least 8"):
        dataclasses.replace(RECIPE, side=7)
    with pytest.raises(ValueError, match="3 names for 4 classes"):
        train(dataclasses.replace(RECIPE, num_classes=4))
    recipe = dataclasses.replace(RECIPE, steps=2)
    with pytest.raises(ValueError, match="batches ended before"):
        train(recipe, itertools.islice(batches(), 2))
    with pytest.raises(ValueError, match="16 images of 3 channels, the recipe 8 of 3"):
        train(dataclasses.replace(recipe, batch_size=8))
    with pytest.raises(ValueError, match="16 images of 3 channels, the recipe 16 of 1"):
        train(dataclasses.replace(recipe, channels=1))
    image, label = draw(0)
    label[4] = 3
    with pytest.raises(ValueError, match="label 3 is not in 0..2"):
        train(recipe, iter([batch(image, label)]))
