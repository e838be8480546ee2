"""Samples of a model: where they go, how they are turned, what is said of memory."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import network
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.configs import base, conditions
from simple_diffusion.core.types import Weights
from simple_diffusion.data.text import words
from simple_diffusion.pipelines import sampling
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.training import sharding
from tests.build.every_key import tiny


@pytest.mark.parametrize(
    "windows, batch_size, says",
    [
        (None, 1, "^set sample.window=64, .* or a smaller restore.size=HxW$"),
        (None, 8, "^lower sample.batch_size=8, set sample.window=64"),
        (5, 8, "^lower sample.window=32 or sample.window_batch=16, or .* restore.size"),
    ],
)
def test_advice_names_the_keys_that_have_an_effect(windows, batch_size, says):
    config = base.default()
    config.sample.window = 32
    got = sampling.advise(config, windows, "restore.size", batch_size)
    assert re.search(says, got)


def test_samples_go_to_the_next_free_folder(tmp_path):
    config, workdir = base.default(), epath.Path(tmp_path)
    for name in ("samples", "samples_2", "samples_3"):
        assert sampling.choose_output(config, workdir) == workdir / name
        (workdir / name).mkdir()
        assert sampling.choose_output(config, workdir) == workdir / name  # still empty
        (workdir / name / "mine.png").write_bytes(b"kept")


def test_a_folder_that_holds_files_is_not_written_into(tmp_path):
    config, workdir = base.default(), epath.Path(tmp_path)
    config.sample.output = str(tmp_path / "mine")
    assert sampling.choose_output(config, workdir) == epath.Path(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"kept")
    with pytest.raises(ValueError, match="sample.output=.* already holds files"):
        sampling.choose_output(config, workdir)


@pytest.fixture(scope="module")
def turning():
    """A model of landscape images that knows portrait ones as turned."""
    config = tiny()
    config.data.update(resolution="8x12", num_classes=0, portrait="turn", flip=False)
    config.conditions.vector = conditions.vector("portrait")
    net = network.build_network(config, 0)
    # Of random weights, the output included: a fresh network ignores its conditions.
    leaves, tree = jax.tree.flatten(net.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    weights = Weights(jax.tree.unflatten(tree, leaves))
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return config, Trained(net, weights, mesh, (), 1)


def drawn(turning, vector):
    config, trained = turning
    config = config.copy_and_resolve_references()
    config.sample.vector = vector
    samples = sampling.Samples(trained, config)
    return samples, np.concatenate(list(samples))


def test_portrait_samples_are_upright_and_others_as_the_network_makes_them(turning):
    samples, portrait = drawn(turning, "1")
    assert samples.is_portrait and samples.size == (12, 8)
    assert samples.describe()["size"] == "12x8" and portrait.shape == (2, 12, 8, 3)
    samples, landscape = drawn(turning, "0")
    assert not samples.is_portrait and landscape.shape == (2, 8, 12, 3)
    # Of both kinds at once, all are as the network makes them: one array has one size.
    samples, both = drawn(turning, "1;0")
    assert not samples.is_portrait and samples.size == (8, 12)
    np.testing.assert_array_equal(np.rot90(both[0], -1), portrait[0])
    np.testing.assert_array_equal(both[1], landscape[1])
    assert (both[0] != landscape[0]).any()


def test_without_a_flag_samples_are_as_the_network_makes_them(turning):
    """As where only prompts are given: the flag is dropped."""
    config, trained = turning
    config = config.copy_and_resolve_references()
    config.conditions.text = conditions.text(4)
    config.conditions.text.update(width=8, heads=2, vocabulary=16)
    net = network.build_network(config, 0)
    lexicon = Lexicon(words.make_tokenizer(["a red boat"]))
    weights = Weights(net.init(jax.random.key(0)))
    reads = dataclasses.replace(trained, net=net, weights=weights, lexicon=lexicon)
    config.sample.prompts = "a red boat"
    samples = sampling.Samples(reads, config)
    assert not samples.is_portrait and samples.size == (8, 12)
    assert next(iter(samples)).shape[1:] == (8, 12, 3)
