"""Overrides of config keys, as texts."""

import re

import pytest
from etils import epath

from simple_diffusion.build import recipes
from simple_diffusion.build.keys import overrides
from simple_diffusion.build.keys.overrides import Override
from simple_diffusion.pipelines import runs


def apply(*settings, recipe="quickstart"):
    config = recipes.load(recipe)
    pairs = [text.partition("=") for text in settings]
    overrides.apply(config, [Override(k, v if e else None) for k, e, v in pairs])
    return config


def value(setting, recipe="quickstart"):
    found = apply(setting, recipe=recipe)
    for part in setting.partition("=")[0].split("."):
        found = found[part]
    return found


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.batch_size=64", 64),
        ("train.batch_size=0x10", 16),
        ("train.total_steps=3_000", 3000),
        ("optimizer.learning_rate=3e-4", 3e-4),
        ("optimizer.learning_rate=1", 1.0),
        ("sample.guidance_low=-3", -3.0),
        ("data.flip=False", False),
        ("data.flip=0", False),
        ("data.flip", True),
        ("data.num_classes=5", 5),
        ("data.num_classes=None", None),
        ("data.data_dir=None", None),
        ("data.source=folder:/a=b", "folder:/a=b"),
        ("sample.classes=boat,house", "boat,house"),
        ("sample.classes=3", "3"),
        ("restore.dilate=(2,2)", (2, 2)),
        ("restore.dilate=2,2", (2, 2)),
        ("sweep.steps=[8, 16]", (8, 16)),
        ("sweep.steps=8", (8,)),
        ("sweep.steps=()", ()),
        ("sweep.intervals=((None, None), (-3.0, 3.0))", ((None, None), (-3.0, 3.0))),
        ("evaluate.networks=inception,dinov2", ("inception", "dinov2")),
        ("evaluate.networks=('inception',)", ("inception",)),
        ("model.channels=(8,)", (8,)),
        ("diffusion.schedule.noise_d=16", 16),
    ],
)
def test_a_text_becomes_a_value_of_the_type_of_its_key(setting, expected):
    found = value(setting)
    assert found == expected and type(found) is type(expected)


def test_the_last_value_counts_and_elements_of_tuples_are_joined():
    config = apply(
        "train.seed=1", "train.seed=2", "sweep.steps=8", "sweep.steps=(16, 32)"
    )
    assert config.train.seed == 2
    assert config.sweep.steps == (8, 16, 32)


def test_a_key_of_a_section_that_a_recipe_has_can_be_set():
    setting = "data.patches.smallest=24"
    assert value(setting, recipe="anyres_scenes") == 24
    patches = value("data.patches={'smallest': 8, 'largest': 16}")
    assert (patches.smallest, patches.largest) == (8, 16)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.batch_size=many", "train.batch_size must be a whole number; it is 32"),
        ("train.batch_size=1.5", "train.batch_size must be a whole number"),
        ("train.batch_size=None", "train.batch_size must be a whole number; it is 32"),
        ("train.batch_size=", "train.batch_size must be a whole number"),
        ("train.batch_size", "needs a value: --config.train.batch_size=VALUE"),
        ("data.flip=maybe", "data.flip must be True or False; it is True now"),
        ("optimizer.learning_rate=high", "must be a number; it is 0.001 now"),
        ("data.num_classes=few", "must be a whole number or None; it is None now"),
        ("restore.dilate=(2,", "must be a tuple, such as"),
        ("data.patches=8", "data.patches must be a section"),
        ("train.batchsize=3", "no key train.batchsize; did you mean train.batch_size?"),
        ("tran.batch_size=3", "did you mean train.batch_size?"),
        ("batch_size=3", "did you mean evaluate.batch_size or sample.batch_size or tr"),
        ("seed=3", " or train.seed?"),
        ("optimizer.lr_warmup_steps=3", "did you mean optimizer.warmup_steps?"),
        ("xyz=3", "there is no key xyz .configs/base.py lists all keys"),
        ("=3", "there is no key  "),
        ("train.=3", "there is no key train."),
        ("train.seed.x=3", "train.seed is a value, not a section of keys"),
        (
            "train",
            "is a section; give one of its keys, such as --config.train.accumulate=",
        ),
        (
            "data.patches.smallest=8",
            "data.patches is None in this recipe, .* that has data.patches: .*"
            "anyres_scenes",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_what_was_given_and_what_is_valid(
    setting, said
):
    with pytest.raises(ValueError, match=said.replace("?", "[?]")) as error:
        apply(setting)
    message = str(error.value)
    assert message.startswith(f"--config.{setting}".partition("=")[0])
    assert re.search(r"\n|<class|placeholder|ConfigDict", message) is None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("data.num_classes=5", 5),
        ("sample.guidance_low=-3", -3.0),
        ("restore.dilate=2,2", (2, 2)),
        ("data.patches.largest=64", 64),
        ("data.patches.aspect=None", None),
        ("optimizer.learning_rate=1", 1.0),
        ("model.channels=(8,)", (8,)),
        ("sample.size=48x96", "48x96"),
    ],
)
def test_keys_of_a_stored_config_are_set_as_those_of_a_recipe(
    setting, expected, tmp_path
):
    folder = epath.Path(tmp_path)
    runs.save_config(recipes.load("anyres_photos"), folder, ())
    config = runs.load_config(folder)
    key, _, text = setting.partition("=")
    overrides.apply(config, [Override(key, text)])
    *path, name = key.split(".")
    for part in path:
        config = config[part]
    assert config[name] == expected and type(config[name]) is type(expected)


def test_every_key_of_the_quickstart_can_be_set_to_its_own_value():
    config = recipes.load("quickstart")
    for key in overrides.list_keys(config):
        section, _, name = key.rpartition(".")
        current = config
        for part in section.split("."):
            current = current[part]
        assert value(f"{key}={current[name]}") == current[name]
