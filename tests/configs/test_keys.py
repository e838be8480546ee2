"""Every number and name of a config is declared, and checked before any work."""

import math

import ml_collections
import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from simple_diffusion.configs.keys import (
    Choices,
    Range,
    Sizes,
    choice,
    number,
    section,
)

from simple_diffusion.build import evaluation, recipes
from simple_diffusion.build.keys import overrides
from simple_diffusion.configs import base, conditions, keys, networks
from simple_diffusion.modes import train
from simple_diffusion.pipelines import keywords
from simple_diffusion.pipelines.requests import readers
from tests.build.every_key import kinds

# Keys that hold other texts than one of some names.
TEXTS = {
    *("data.source", "data.data_dir", "data.tfds_fields"),
    *("model.name", "model.patching", *(f"sample.{key}" for key in readers.KEYS)),
    *("conditions.semantic.map", "conditions.image.map", "conditions.vector.vector"),
    "conditions.text_features.encoder",
    *("diffusion.schedule.name", "sample.size", "sample.also_sizes"),
    *("sample.coarse_size", "sample.classes", "sample.guidance_workdir"),
    *(
        "sample.weights",
        "sample.output",
        "evaluate.samples",
        "evaluate.labels",
        "evaluate.reference",
    ),
    *("evaluate.size", "evaluate.also_sizes", "evaluate.inception_weights"),
    "evaluate.lpips_weights",
    *("evaluate.dinov2_weights", "evaluate.best_metric", "restore.task"),
    *("restore.input", "restore.hole_mask", "restore.size", "restore.output"),
    *("restore.classes", "restore.lpips_weights", "export.output"),
}


def configs():
    """A config with each kind of section, by a name."""
    for kind, model in kinds(networks).items():
        config = base.default()
        config.data.patches = base.patches(8, 16)
        with config.unlocked():
            config.model = model
            for name, make in conditions.KINDS.items():
                config.conditions[name] = make()
        yield kind, config
    for kind, schedule in kinds(base).items():
        config = base.default()
        with config.unlocked():
            config.diffusion.schedule = schedule
        yield kind, config


CONFIGS = dict(configs())


def walk(config, path=""):
    """Yields (section, path of the key, its name, its declaration or None)."""
    kind = f"{path}:{config.name}" if path and "name" in config else path
    found = keys.declared(kind) or keys.declared(path)
    for key in config:
        name = f"{path}.{key}" if path else key
        if isinstance(config[key], ConfigDict):
            yield from walk(config[key], name)
        else:
            yield config, key, name, found.get(key)


def all_rows():
    """Yields every key once; those of sections with several kinds once for each."""
    seen = set()
    for config in CONFIGS.values():
        for owner, key, name, declaration in walk(config):
            kind = owner.name if "name" in owner and "optimizer" not in name else ""
            if (kind, name) not in seen:
                seen.add((kind, name))
                yield f"{kind} {name}".strip(), (config, owner, key, name, declaration)


ROWS = dict(all_rows())
DECLARED = [label for label, row in ROWS.items() if row[-1] is not None]


def test_every_key_is_declared_unless_it_is_a_switch_or_a_free_text():
    texts = {
        name
        for _, owner, key, name, declaration in ROWS.values()
        if declaration is None and not isinstance(owner[key], bool)
    }
    sections = {"data.patches", *(f"conditions.{name}" for name in conditions.KINDS)}
    assert texts - sections == TEXTS


def bad_values(declaration):
    """Values that are not valid, of the type of the key."""
    if isinstance(declaration.valid, Choices):
        return ["unknown", "", ("unknown",)]
    if isinstance(declaration.valid, Sizes):
        return [0, -1, 70_000, 8.0, True, "8", "0x8", "8x70000", "8x8x8", "x", "", (8,)]
    allowed = declaration.valid
    below = [math.nextafter(allowed.low, -math.inf)] if allowed.has_low else []
    above = [math.nextafter(allowed.high, math.inf)] if allowed.has_high else []
    edges = [] if allowed.has_low else [allowed.low]
    edges += [] if allowed.has_high else [allowed.high]
    whole = [math.floor(allowed.low) - 1, math.ceil(allowed.high) + 1, 10**30]
    return [math.nan, math.inf, -math.inf, 1e300, *below, *above, *edges, *whole]


@pytest.mark.parametrize("label", DECLARED)
def test_a_value_that_is_not_valid_is_an_error_of_one_line(label):
    config, owner, key, name, declaration = ROWS[label]
    before = owner[key]
    values = bad_values(declaration)
    values += [] if declaration.is_optional else [None]
    if isinstance(before, tuple) and before:
        values += [(*before[1:], value) for value in values if value is not None]
    try:
        for value in values:
            with owner.unlocked(), owner.ignore_type():
                owner[key] = value
            with pytest.raises(ValueError) as error:
                recipes.check(config)
            message = str(error.value)
            assert message.startswith(f"{name}={owner[key]!r} must be ")
            assert str(declaration.valid) in message and "\n" not in message
    finally:
        with owner.unlocked(), owner.ignore_type():
            owner[key] = before


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_have_only_valid_values(name):
    recipes.check(recipes.load(name))


def test_bounds_belong_to_a_range_as_its_brackets_say():
    half_open = keys.parse_range("[0, 1)")
    assert 0 in half_open and 0.999 in half_open
    assert 1 not in half_open and -1e-9 not in half_open
    assert 0 not in keys.parse_range("(0, 1]") and 1 in keys.parse_range("(0, 1]")
    assert math.nan not in half_open and "0.5" not in half_open
    everything = keys.parse_range("(-inf, inf)")
    assert 1e300 in everything and math.inf not in everything


@pytest.mark.parametrize("text", ["0, 1", "[1, 0]", "[0; 1]", "[1, 1]", "[0,1]"])
def test_a_text_that_is_no_interval_is_an_error(text):
    with pytest.raises(ValueError, match="interval|empty"):
        keys.parse_range(text)


def test_a_key_without_a_value_must_be_declared_so():
    made = section(
        "test",
        dict(
            a=number(placeholder(int), "[1, 2]"),
            b=number(1.0, "[1, 2]", is_optional=True),
            c=choice(placeholder(str), "x | y"),
            d=number((1.0, 2.0), "[1, 2]"),
            e="anything",
        ),
    )
    with made.unlocked():
        made.b = None
    keys.check(made, "test")
    assert isinstance(keys.declared("test")["a"].valid, Range)
    assert "e" not in keys.declared("test")
    made.d = (1.5, 3.0)
    with pytest.raises(
        ValueError, match=r"test\.d=\(1\.5, 3\.0\) must be in the range"
    ):
        keys.check(made, "test")


def test_entries_of_nested_tuples_are_checked_and_none_is_no_bound():
    config = base.default()
    config.sweep.intervals = ((None, None), (-3.0, 3.0))
    recipes.check(config)
    config.sweep.intervals = ((None, math.nan),)
    with pytest.raises(ValueError, match=r"sweep\.intervals.*\[-100, 100\]"):
        recipes.check(config)


def test_python_users_meet_the_same_checks():
    config = base.default()
    with pytest.raises(ValueError, match=r"sample\.guidance=nan must be in the range"):
        keywords.set_keys(config, "sample", {"guidance": math.nan})
    config = base.default()
    config.loss.label_drop = 2.0
    with pytest.raises(
        ValueError, match=r"loss\.label_drop=2\.0 must be in .*\[0, 1\]"
    ):
        train.run(config, "nowhere")


def test_sections_hold_plain_values():
    for config in CONFIGS.values():
        assert not any(
            isinstance(owner[key], keys.Declaration)
            for owner, key, _, _ in walk(config)
        )
    assert isinstance(base.default().train, ml_collections.ConfigDict)


def test_a_section_with_the_keys_of_another_kind_is_an_error():
    config = recipes.load("quickstart")
    config.model.name = "unet"
    with pytest.raises(ValueError, match="model.name='unet'.* keys of another kind"):
        recipes.check(config)
    config.model.name = "vit"
    with pytest.raises(ValueError, match="model.name='vit' must be one of: .*uvit"):
        recipes.check(config)


def test_the_bounds_of_an_interval_may_not_be_exchanged():
    config = base.default()
    config.sample.update(guidance_low=3.0, guidance_high=-3.0)
    with pytest.raises(ValueError, match="guidance_low=3.0 must be below .*high=-3.0"):
        recipes.check(config)
    config = base.default()
    config.diffusion.schedule.logsnr_min = 20.0
    with pytest.raises(ValueError, match="logsnr_min=20.0 must be below .*max=15.0"):
        recipes.check(config)
    config = base.default()
    config.sweep.intervals = ((3.0, -3.0),)
    with pytest.raises(ValueError, match="sweep.intervals has .*must be below"):
        evaluation.read_sweep(config)


TEXTS_OF_USERS = ("nan", "inf", "-inf", "-1", "0", "1e30", "9" * 40, "nonsense", "")
TEXTS_OF_USERS += ("None", "True", "(1, 2", "(0,)", "nan,nan", "['x']", "{}", "1.5")


@pytest.mark.parametrize("label", ROWS)
def test_what_users_write_is_valid_or_an_error_of_one_line(label):
    config, owner, key, name, declaration = ROWS[label]
    before = owner[key]
    for text in TEXTS_OF_USERS:
        try:
            overrides.apply(config, [overrides.Override(name, text)])
            recipes.check(config)
        except ValueError as error:
            message = str(error)
            assert name in message and "\n" not in message and len(message) < 500
        else:
            is_free = declaration is None or owner[key] in ((), None)
            assert is_free or owner[key] == before or is_valid(owner[key], declaration)
        finally:
            with owner.unlocked(), owner.ignore_type():
                owner[key] = before


def is_valid(value, declaration):
    entries = value if isinstance(value, tuple) else (value,)
    return all(entry in declaration.valid for entry in entries)


@pytest.mark.parametrize("name", ["train.batchsize", "trian.seed", "seed", "model", ""])
def test_a_key_that_does_not_exist_is_an_error_of_one_line(name):
    config = recipes.load("quickstart")
    with pytest.raises(ValueError) as error:
        overrides.apply(config, [overrides.Override(name, "1")])
    assert name in str(error.value) and "\n" not in str(error.value)
