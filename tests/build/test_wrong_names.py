"""A wrong name in any key is an error that names the key and what is valid."""

import pytest

from simple_diffusion.build import (
    data,
    diffusion,
    evaluation,
    feature_networks,
    network,
    recipes,
    sampling,
    training,
)
from simple_diffusion.build.restoration import restoration
from simple_diffusion.configs import base, conditions
from tests.build import every_key

# Keys whose text is no name out of a list, or is checked where it is used.
ANY_TEXT = {"evaluate.labels", "export.dtype"}
# Names of fields, which the data source knows.
ANY_TEXT |= {
    "conditions.semantic.map",
    "conditions.image.map",
    "conditions.vector.vector",
}


def build(config):
    """Builds all that a training and a restoration build before they start."""
    recipes.check(config)
    training.build_watchdog(config)
    training.build_mesh(config)
    dataset = data.open_data(config)
    net = network.build_network(config, dataset.num_classes)
    plan = training.read_plan(config, dataset.epoch)
    sampling.read_checkpoint_choice(config)
    sampling.check_weights_are_tracked(config)
    evaluation.read_plan(config)
    feature_networks.check_networks(config)
    training.build_optimizer(config, plan.total)
    training.build_averages(config)
    diffusion.build_objective(config, net)
    sampling.build_sampling(config, net)
    config.restore.input = "photo.png"
    if "inpaint" in config.restore.task:
        config.restore.hole_mask = "box:2x2"
    restoration.read_plan(config, net, dataset.class_names)
    restoration.build_restoration(config, net, (8, 8))


def configure(name):
    """Returns a tiny config that has the key, and its name without the kind."""
    config = every_key.tiny()
    section, _, key = name.rpartition(".")
    section, _, kind = section.partition(":")
    with config.unlocked():
        if section == "model":
            config.model = every_key.tiny_network(kind)
        elif kind:
            config.diffusion.schedule = every_key.kinds(base)[kind]
        elif section == "data.patches":
            config.data.patches = base.patches(8, 16)
        elif section.startswith("conditions."):
            kind = section.removeprefix("conditions.")
            config.conditions[kind] = conditions.KINDS[kind]()
    return config, f"{section}.{key}"


def read(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def named():
    """Yields the keys whose value is one or several names."""
    for name in every_key.all_keys():
        value = read(*configure(name))
        texts = value if isinstance(value, tuple) else (value,)
        is_named = value != () and all(isinstance(text, str) for text in texts)
        if (is_named or name.endswith((".safa", ".dtype"))) and name not in ANY_TEXT:
            yield name


@pytest.mark.parametrize("name", [*named()])
def test_a_wrong_name_is_an_error_that_names_its_key(name):
    config, key = configure(name)
    several = isinstance(read(config, key), tuple)
    every_key.set_keys(config, {key: ("nonsense",) if several else "nonsense"})
    if key == "model.safa":
        every_key.set_keys(config, {key: ("nonsense",) * len(config.model.channels)})
    with pytest.raises(ValueError, match=f"{key}.*nonsense") as error:
        build(config)
    # What is valid: at least one name, or a form.
    assert any(word in str(error.value) for word in ("must be", "known", "one of"))


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("model:uvit.trunk_heads", 3, "trunk_heads=3 must divide model.trunk_channels"),
        ("model:unet.heads", (2, 3), r"heads\[1\]=3 must divide model.channels\[1\]"),
        ("model:uvit.safa", ("none", "all"), "1 in model.blocks, 2 in model.safa"),
        ("model:uvit.patching", "haar_0", "model.patching='haar_0' must be"),
        ("ema.decay", 2.0, r"ema.decay=2.0 must be in the range \[0, 1\)"),
        ("ema.power", (0.5,), r"ema.power=\(0.5,\) must be in the range \(0, 0.288"),
        ("sample.weights", "power_2", "sample.weights='power_2': .* 0 and 0.288"),
        ("sample.weights", "power_0.1", "add 0.1 to ema.power"),
        ("evaluate.reference", "nonsense", "must be data, statistics:FILE, folder:"),
        ("evaluate.reference", "npz:", "evaluate.reference='npz:' must be data, stat"),
        ("restore.factor", 0, "restore.factor=0 must be in the range"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_its_key(name, value, says):
    config, key = configure(name)
    every_key.set_keys(config, {key: value})
    if key == "restore.factor":
        config.restore.task = "super_resolution"
    with pytest.raises(ValueError, match=says):
        build(config)


@pytest.mark.parametrize("power, every", [((0.1,), 0), ((0.05,), 10)])
def test_an_average_may_be_tracked_or_reconstructed(power, every):
    config = every_key.tiny()
    config.ema.update(power=power, snapshot_every_steps=every)
    config.sample.weights = "power_0.1"
    sampling.check_weights_are_tracked(config)
