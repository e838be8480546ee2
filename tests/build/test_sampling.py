import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, networks
from simple_diffusion.build import network, sampling
from simple_diffusion.diffusion import process


def tiny(num_classes=3):
    config = base.default()
    config.data.resolution = 8
    config.model = networks.unet()
    config.model.update(
        channels=(8, 8),
        blocks=(1, 1),
        heads=(1, 1),
        attention_resolutions=(4,),
        base_channels=4,
        emb_channels=8,
    )
    return config, network.model(config, num_classes)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [(None, [0, 1, 2]), ("tree", [1]), ("tree, 0,sun", [1, 0, 0]), ("2,2", [2, 2])],
)
def test_classes_are_chosen_by_name_or_number(text, chosen):
    assert sampling.parse_classes(text, ("sun", "tree", "car"), 3) == chosen


@pytest.mark.parametrize("text", ["moon", "3", "-1", ""])
def test_a_class_that_does_not_exist_lists_those_that_do(text):
    with pytest.raises(ValueError, match="sample.classes.*0 to 2.*sun, tree, car"):
        sampling.parse_classes(text, ("sun", "tree", "car"), 3)


def test_labels_go_through_the_classes_in_turn():
    config, built = tiny()
    config.sample.count = 5
    plan = sampling.plan(config, built, ("a", "b", "c"))
    assert plan.labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("text", ["64", "0x8", "8x", "axb", "8x8x8"])
def test_a_size_that_is_none_names_the_key(text):
    with pytest.raises(ValueError, match="sample.size=.*HxW"):
        sampling.parse_size(text, 64)


def test_a_size_the_network_cannot_divide_names_the_multiple():
    config, built = tiny()
    config.sample.size = "9x8"
    with pytest.raises(ValueError, match="sample.size=9x8.*multiples of 2"):
        sampling.sampling(config, built)


def test_a_resolution_the_network_cannot_divide_names_the_key():
    config, _ = tiny()
    config.data.resolution = 9
    with pytest.raises(ValueError, match="data.resolution=9.*multiples of 2"):
        network.model(config, 3)


def test_a_model_without_classes_is_sampled_without_guidance():
    config, built = tiny(num_classes=0)
    params = built.init(jax.random.key(0))
    index, label = jnp.arange(2), jnp.zeros(2, jnp.int32)
    config.sample.update(steps=2, guidance=1.0)
    plain = sampling.sampling(config, built).draw(params, None, index, label)
    config.sample.guidance = 3.0
    sampler = sampling.sampling(config, built)
    assert sampler.guidance == 1.0  # which is what a record of it must say
    guided = sampler.draw(params, None, index, label)
    np.testing.assert_array_equal(plain, guided)


def test_a_weaker_model_of_another_scale_is_an_error():
    config, built = tiny()
    weak = dataclasses.replace(built, family=process.FLOW)
    with pytest.raises(ValueError, match="family=flow, this one vp"):
        sampling.sampling(config, built, weak)


@pytest.mark.parametrize("key", ["solver", "grid", "clip"])
def test_an_unknown_option_lists_the_known_ones(key):
    config, built = tiny()
    config.sample[key] = "magic"
    with pytest.raises(ValueError, match=f"sample.{key}='magic' must be one of"):
        sampling.sampling(config, built)


@pytest.mark.parametrize(
    ("solver", "calls"), [("ancestral", 7), ("ddim", 7), ("dpmpp_2m", 7), ("heun", 13)]
)
def test_network_calls_are_counted_as_the_solver_makes_them(solver, calls):
    config, built = tiny()
    config.sample.solver, config.sample.steps = solver, 7
    assert sampling.sampling(config, built).network_calls == calls


def test_a_level_table_with_a_missing_entry_says_which_column():
    config, _ = tiny()
    config.model.blocks = (1, 1, 1)
    with pytest.raises(ValueError, match="blocks: 3"):
        network.model(config, 3)
