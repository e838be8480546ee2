"""Every recipe, as far as a CPU can test it: shapes, keys, and one small step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from simple_diffusion.build import (
    data,
    diffusion,
    feature_networks,
    network,
    recipes,
    sampling,
    training,
)
from simple_diffusion.build import evaluation as build_evaluation
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import arrays
from simple_diffusion.core.types import Batch, Request
from simple_diffusion.data.conditioning.encoders import EncoderSet
from simple_diffusion.data.text import words
from simple_diffusion.modes import export
from simple_diffusion.pipelines.requests.plan import read_plan
from simple_diffusion.pipelines.sampling import choose_output
from simple_diffusion.training import sharding, state, step
from tests.vectors import vector

recipe = recipes.load

IMAGENET = itertools.product((64, 128, 256, 512), ("unet", "uvit", "sid2"))
ANYRES = itertools.product(("scenes", "photos", "flickrscenery"), ("ours", "paper"))
CELEBA = ("ours", "paper", "ours_center", "paper_center")
RECIPES = [
    "quickstart",
    "digits",
    "scenes_inpainting",
    "scenes_layout",
    "scenes_semantic",
    "scenes_superresolution",
    "scenes_text",
    "superresolution_256x1024",
    *("text2image256", "text2image256:landscape"),
    *("text2image512", "text2image512:landscape"),
    *(f"imagenet{r}:{v}" for r, v in IMAGENET),
    *(f"anyres_{r}:{v}" for r, v in ANYRES),
    *(f"anyres_celeba:{v}" for v in CELEBA),
]


# The others differ from these in numbers only, and have the same keys.
DISTINCT = [r for r in RECIPES if not r.startswith(("imagenet128", "imagenet256"))]

# Read when weights are loaded or trained; tests of the feature networks do so.
READ_WITH_WEIGHTS = {"config.evaluate.classifier_steps", "config.evaluate.resize"}

# Read once the source is open, which those of prepared data are not.
READ_WITH_DATA = {
    "config.data.flip_captions",
    "config.conditions.text_features.encoder",
}

# Read with another value of an option: class_condition=token, sample.low_resolution.
READ_WITH_OPTIONS = {
    "config.model.class_token_width",
    "config.sample.low_resolution_noise",
}

# One of each kind of network, and one of patches, is enough to notice most faults.
QUICK = ("quickstart", "imagenet64:unet", "imagenet512:sid2", "anyres_scenes:ours")


def quick_for(names):
    """The names as parameters; all but those of QUICK are marked slow."""
    return [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in names]


def classes(config):
    return config.data.num_classes or 12


@pytest.mark.parametrize("name", quick_for(DISTINCT))
def test_every_key_of_a_recipe_is_read(name, monkeypatch, no_shape_checks):
    config = recipe(name)
    read = set()
    plain = ConfigDict.__getitem__

    def recorded(section, key):
        read.add((id(section), key))
        return plain(section, key)

    unread = {
        f"{section_name}.{key}": (id(section), key)
        for section_name, section in sections(config)
        for key, value in section.items()
        if not isinstance(value, ConfigDict)
    }
    monkeypatch.setattr(ConfigDict, "__getitem__", recorded)
    build_everything(config)
    missed = {key for key, place in unread.items() if place not in read}
    assert missed - READ_WITH_DATA - READ_WITH_OPTIONS == READ_WITH_WEIGHTS


def sections(config, path="config"):
    yield path, config
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from sections(value, f"{path}.{key}")


def build_everything(config):
    names = Lexicon(words.make_tokenizer(["a red boat"]))
    field_conditions.build_encoders(config, names)
    try:
        data.open_data(config)
    except ValueError as error:
        # The user must prepare ImageNet; all keys are read before that error.
        assert config.data.source in str(error)
    plan = training.read_plan(config, epoch=1000)
    training.build_mesh(config)
    training.build_watchdog(config)
    training.build_optimizer(config, plan.total)
    training.build_averages(config)
    net = network.build_network(config, classes(config))
    diffusion.build_objective(config, net)
    held_out = lambda count, size: Request(np.zeros(count, np.int32))  # noqa: E731
    read_plan(config, net, (), names, examples=held_out)
    sampling.read_checkpoint_choice(config)
    export.plan(config)
    choose_output(config, epath.Path("no_workdir"))
    sampling.build_sampling(config, net)
    sampling.build_extra_sizes(config, net)
    build_evaluation.read_plan(config)
    build_evaluation.read_sweep(config)
    feature_networks.check_networks(config)
    config.restore.update(input="photo.png", hole_mask="mask.png")
    restoration.read_plan(config, net, ())
    restoration.build_restoration(config, net, net.size[:2])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("imagenet128:uvit", vector("count.uvit")[0]["params"]),
        ("imagenet256:uvit", vector("count.uvit")[1]["params"]),
        ("imagenet512:uvit", vector("count.uvit")[2]["params"]),
        *(
            (f"imagenet{row['config'].split('_')[0]}:unet", row["params"])
            for row in vector("count.sid_unet")
            if row["config"] in ("128", "256") or "headline" in row["config"]
        ),
        # At 64 pixels only the position table is smaller: 8x8 cells instead of 16x16.
        ("imagenet64:uvit", vector("count.uvit")[0]["params"] - 192 * 2048),
    ],
)
def test_the_papers_networks_have_the_papers_number_of_parameters(name, count):
    config = recipe(name)
    net = network.build_network(config, classes(config))
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    assert arrays.tree_size(shapes) == count


@pytest.mark.parametrize(("side", "row"), [(256, 1), (512, 2)])
def test_the_text_to_image_network_has_the_parameters_of_its_definition(side, row):
    config = recipe(f"text2image{side}")
    net = network.build_network(config, 0)
    made = arrays.tree_size(jax.eval_shape(net.init, jax.random.key(0)))
    emb, text, features = 1024, 2048, 4096

    def dense(inputs, outputs):
        return (inputs + 1) * outputs

    def cross_attention(c):
        norms = c + 4 * c // 4  # of the map, and of queries and keys of a head
        return norms + 2 * dense(c, c) + dense(text, 2 * c) + 2 * c

    def block(c):
        mlp = c + dense(c, 4 * c) + dense(4 * c, c) + dense(emb, 8 * c)
        return mlp + c + dense(c, 3 * c) + dense(c, c) + c + cross_attention(c)

    def residual_block(c):
        return 2 * dense(9 * c, c) + 4 * c + dense(emb, 2 * c)

    uvit = vector("count.uvit")[row]["params"] - 1001 * emb  # without classes
    uvit -= 4 * residual_block(512) + 2 * 2 * 512  # and norms of two skips
    level = 4 * block(512) + 32 * 32 * 512
    tokens = 2 * features + dense(features, text)
    assert made == uvit + level + 36 * cross_attention(2048) + tokens
    schedule = diffusion.build_schedule(config)
    clean, noisy = (2 * np.log(d / side) for d in (256, 32))
    found = np.asarray(schedule(jnp.array([0.0, 1.0])))
    np.testing.assert_allclose(found, [15 + clean, -15 + noisy], atol=1e-4)


def reduced(config):
    """A copy of a recipe with the same options and as little arithmetic as possible."""
    m = config.model
    levels = len(m.channels) - (m.name != "uvit")
    factor = {"none": 1, "dwt_1": 2, "haar_1": 2, "conv_2": 2}.get(m.patching, 4)
    shrink = dict(emb_channels=8, base_channels=8, channels=(8,) * len(m.channels))
    shrink["blocks"] = (1,) * len(m.blocks)
    if config.conditions.text is not None:
        config.conditions.text.update(width=8, heads=2, vocabulary=16)
    if config.conditions.text_features is not None:
        config.conditions.text_features.update(features=16, length=4, width=8)
    if m.name == "uvit":
        shrink |= dict(trunk_channels=16, trunk_blocks=2, trunk_heads=2, scan_unroll=1)
    else:
        shrink["heads"] = (2,) * len(m.heads)
    with config.unlocked():
        config.data.resolution = factor * 2**levels
        config.train.batch_size = 8
        if config.data.patches is not None:
            config.data.patches.smallest = config.data.resolution
            config.data.patches.largest = 2 * config.data.resolution
        m.update(shrink)
        if m.name == "unet":
            m.attention_resolutions = (1,)
    return config


def reduced_step(name):
    """The training step of a reduced copy, how its state is made, and a batch."""
    config = reduced(recipe(name))
    net = network.build_network(config, num_classes=3)
    optimizer = training.build_optimizer(config, total_steps=10**6)
    averages = training.build_averages(config)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    start = state.blueprint(net.init, optimizer, averages, mesh=mesh)
    objective = diffusion.build_objective(config, net)
    train_step = step.make_train_step(objective, optimizer, averages)
    b, side = config.train.batch_size, config.data.resolution
    pixels = np.random.default_rng(0).integers(0, 256, (b, side, side, 3), np.uint8)
    names = Lexicon(words.make_tokenizer(["a red boat"]))
    arrays_of = EncoderSet(field_conditions.build_encoders(config, names), (side, side))
    batch = Batch(
        image=jnp.asarray(pixels),
        label=jnp.arange(b, dtype=jnp.int32) % 3,
        box=jnp.tile(
            jnp.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.2, 1, 0.7]]), (b // 2, 1)
        ),
        mask=jnp.ones(b, bool),
        fields={
            name: jnp.full((b, *spec.shape), spec.blank, spec.dtype)
            for name, spec in arrays_of.specs.items()
        },
    )
    return train_step, start, batch


STEPPED = (*QUICK, "superresolution_256x1024", "text2image256")


@pytest.mark.parametrize(
    "name",
    [STEPPED[0], *(pytest.param(n, marks=pytest.mark.slow) for n in STEPPED[1:])],
)
def test_a_reduced_copy_of_a_recipe_makes_an_optimiser_step(name, no_shape_checks):
    train_step, blueprint, batch = reduced_step(name)
    start = blueprint.create()
    end, metrics = jax.jit(train_step)(start, batch)
    assert bool(metrics["finite"])
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), start.params, end.params)
    assert any(bool(v) for v in jax.tree.leaves(moved))


# The others are traced: compiling all of them takes a third of the time of all tests,
# and what their parts compute is tested in tests/nets and tests/training. The variants
# of another crop have the same network, loss and optimiser.
TRACED = [r for r in DISTINCT if r not in STEPPED and not r.endswith("_center")]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_the_step_of_a_reduced_copy_of_a_recipe_fits_its_state(name, no_shape_checks):
    train_step, blueprint, batch = reduced_step(name)
    end, metrics = jax.eval_shape(train_step, blueprint.abstract, batch)
    before = jax.tree.map(lambda x: (x.shape, x.dtype), blueprint.abstract)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), end) == before
    assert metrics["finite"].shape == ()


def test_a_key_that_does_not_exist_is_an_error_that_names_it():
    with pytest.raises(AttributeError, match="batchsize"):
        recipe("quickstart").train.batchsize = 3


def test_a_value_of_the_wrong_type_is_an_error():
    with pytest.raises(TypeError):
        recipe("quickstart").train.batch_size = "many"


def test_a_variant_that_does_not_exist_names_those_that_do():
    with pytest.raises(ValueError, match="unet, uvit, sid2"):
        recipe("imagenet64:vit")


def test_the_sampler_of_imagenet_64_renews_about_as_much_noise_as_the_reference():
    sample = recipe("imagenet64:unet").sample
    assert (sample.solver, sample.steps, sample.eta) == ("ddim", 250, 0.5)
    t = np.linspace(1, 0, 251)
    for steps, tolerance in ((slice(50, 200), 0.01), (slice(10, 240), 0.05)):
        early, late = t[steps], t[steps.start + 1 : steps.stop + 1]
        r = (1 - early) / (1 - late) * late / early
        theirs = 1 - (1 - 0.25 * (1 - r)) ** 2  # `stoch_coeff` of 0.25
        ours = sample.eta**2 * (1 - r**2)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)
        assert (ours < theirs).all()


def test_the_two_crops_of_celeba_are_those_of_its_two_readings():
    boxes = [recipe(f"anyres_celeba:{v}").data.crop_box for v in CELEBA]
    assert boxes == [(57, 25, 185, 153)] * 2 + [(45, 25, 173, 153)] * 2


def test_an_any_resolution_variant_that_does_not_exist_names_those_that_do():
    with pytest.raises(ValueError, match="ours, paper, ours_center, paper_center"):
        recipe("anyres_celeba:face")
