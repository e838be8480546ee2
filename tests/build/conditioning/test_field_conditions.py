import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import data, diffusion, network
from simple_diffusion.build.conditioning import field_conditions, lexicon
from simple_diffusion.build.denoising import build_denoising
from simple_diffusion.build.image_geometry import build_geometry
from simple_diffusion.configs import conditions
from simple_diffusion.core.types import Batch, Request, Weights
from simple_diffusion.data.text import tokenizer, words
from tests.build.every_key import tiny


@pytest.fixture
def config():
    config = tiny()
    config.data.num_classes = 0
    config.data.flip_captions = "swap"
    config.conditions.text = conditions.text(12)
    config.conditions.text.update(width=8, heads=2, depth=1)
    return config


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def batch_of(ids):
    n = len(ids)
    return Batch(
        image=np.zeros((n, 8, 8, 3), np.uint8),
        label=np.zeros(n, np.int32),
        box=np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1)),
        mask=np.ones(n, bool),
        fields={"text": ids},
    )


def test_training_reads_the_tokens_of_captions(config, workdir):
    opened, found = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    tokens = found.tokenizer
    batch = next(opened.train(0))
    assert batch.fields["text"].shape == (8, 12)
    known = words.list_words(tokens)
    assert {"left", "right", "red", "two", "boat"} <= set(known)
    # Every word of a scene is known: 1 is the unknown word.
    assert (batch.fields["text"] != 1).all() and batch.fields["text"].any(1).all()
    # The same captions, the same ids.
    _, again = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    assert again.tokenizer.describe() == tokens.describe()


def test_a_tokenizer_in_the_workdir_is_used(config, workdir):
    made = words.make_tokenizer(["one two three"])
    made.save(workdir / lexicon.TOKENIZER)
    _, found = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    assert found.tokenizer.describe() == made.describe()
    loaded = lexicon.load(config, workdir)
    assert loaded.tokenizer.describe() == made.describe()


def test_a_source_without_captions_is_an_error_that_names_those_with_them(
    config, workdir
):
    config.data.source = "digits"
    with pytest.raises(
        ValueError, match=r"conditions\.text needs caption.*digits.*scenes"
    ):
        field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)


def test_the_words_of_a_folder_are_read_without_decoding_its_images(config, workdir):
    for k, caption in enumerate(["a cat", "two dogs", "one dog", ""]):
        (workdir / f"{k}.png").write_bytes(b"no image at all")
        (workdir / f"{k}.txt").write_text(caption)
    config.data.update(source=f"folder:{workdir}", holdout_fraction=0.0)
    _, found = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    known = set(words.list_words(found.tokenizer))
    # One of the four is held out; an empty caption makes its example bad.
    assert len(known & {"cat", "dogs", "dog"}) >= 2


def test_without_conditions_there_is_no_tokenizer(workdir):
    config = tiny()
    opened, found = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    assert found == lexicon.Lexicon() and next(opened.train(0)).fields == {}
    assert lexicon.load(config, workdir) == found and found.to_files() == {}


@pytest.mark.parametrize(("joint", "alone"), [(0.0, 0.0), (0.4, 0.0), (0.3, 0.2)])
def test_conditions_are_dropped_at_the_rates_of_the_config(config, joint, alone):
    config.conditions.update(drop_all=joint)
    config.conditions.text.drop = alone
    net = network.build_network(config, 0)
    objective = diffusion.build_objective(config, net)
    batch = batch_of(np.ones((4000, 12), np.int32))
    draw = objective.draw(jax.random.key(1), batch)
    drop = objective.condition(batch, draw.keys).dropped["text"]
    expected = 1 - (1 - joint) * (1 - alone)
    # Four standard errors of a share of 4000.
    assert np.mean(drop) == pytest.approx(expected, abs=0.032)
    # The held-out loss is that of the conditioned network.
    assert objective.condition(batch).dropped == {}


def test_two_conditions_are_dropped_independently(config):
    config.conditions.vector = conditions.vector("number", 1)
    config.conditions.text.drop = config.conditions.vector.drop = 0.5
    config.conditions.drop_all = 0.0
    net = network.build_network(config, 0)
    objective = diffusion.build_objective(config, net)
    batch = batch_of(np.ones((4000, 12), np.int32))
    batch = batch.replace(
        fields={**batch.fields, "vector:number": jnp.zeros((4000, 1))}
    )
    draw = objective.draw(jax.random.key(1), batch)
    dropped = objective.condition(batch, draw.keys).dropped
    both = np.mean(dropped["text"] & dropped["vector"])
    assert both == pytest.approx(0.25, abs=0.03)


def test_the_class_is_dropped_wherever_all_conditions_are(config):
    config.loss.label_drop = config.conditions.drop_all = 0.5
    net = network.build_network(config, 3)
    objective = diffusion.build_objective(config, net)
    batch = batch_of(np.ones((64, 12), np.int32))
    keys = objective.draw(jax.random.key(1), batch).keys
    cond = objective.condition(batch, keys)
    np.testing.assert_array_equal(cond.dropped["text"], cond.label == 3)


def test_a_condition_that_is_not_given_is_dropped(config):
    net = network.build_network(config, 0)
    fields, dropped = field_conditions.complete(net.conditions, {}, 2, (8, 8))
    assert dropped["text"].all() and fields["text"].shape == (2, 12)
    ids = jnp.arange(24).reshape(2, 12)
    fields, dropped = field_conditions.complete(
        net.conditions, {"text": ids}, 2, (8, 8)
    )
    assert not dropped["text"].any()
    np.testing.assert_array_equal(fields["text"], ids)


def lively(net):
    """Parameters of which none are 0."""
    params = net.init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    pairs = zip(leaves, keys, strict=True)
    drawn = [v + 0.2 * jax.random.normal(k, v.shape) for v, k in pairs]
    return jax.tree.unflatten(structure, drawn)


@pytest.mark.slow
def test_guidance_goes_from_the_null_through_the_prompt(config):
    net = network.build_network(config, 0)
    weights = Weights(lively(net))
    z_t, t = jax.random.normal(jax.random.key(2), (2, 8, 8, 3)), jnp.zeros(2)
    asked = Request(np.zeros(2, np.int32), {"text": np.arange(24).reshape(2, 12)})
    nothing = Request(np.zeros(2, np.int32))

    def estimate(guidance, request):
        config.sample.guidance = guidance
        denoising = build_denoising(config, net, guided=True, clip="none")
        geometry = build_geometry(config, net, None, 3)
        denoise = jax.jit(lambda z: denoising.on(geometry, weights, request)(z, t))
        return denoise(z_t)

    null, prompt = estimate(1.0, nothing), estimate(1.0, asked)
    assert not np.allclose(null, prompt, atol=1e-3)
    # Rounding: the null is computed in a batch of four, and twice subtracted.
    np.testing.assert_allclose(estimate(0.0, asked), null, atol=2e-5)
    expected = null + 3 * (prompt - null)
    np.testing.assert_allclose(estimate(3.0, asked), expected, atol=1e-4)


def test_the_encoder_of_captions_pads_and_cuts():
    tokens = words.make_tokenizer(["one two three"])
    assert isinstance(tokens, tokenizer.Tokenizer)
    assert tokens.encode(["two"], 4).ids.tolist() == [[4, 0, 0, 0]]


def test_names_of_classes_are_stored_and_found(config, workdir):
    config.conditions.text = None
    config.conditions.layout = conditions.layout(18)
    config.conditions.semantic = conditions.semantic(18)
    _, found = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    found.save(workdir)
    loaded = lexicon.load(config, workdir)
    assert loaded.names == found.names and "car" in loaded.names["layout"]
    number = loaded.find("layout", "car", "sample.layout", 18)
    assert loaded.names["layout"][number] == "car"
    assert loaded.find("layout", 3, "sample.layout", 18) == 3


@pytest.mark.parametrize("name", ["layout", "semantic"])
def test_another_number_of_classes_than_the_source_is_an_error(config, workdir, name):
    config.conditions.text = None
    config.conditions[name] = getattr(conditions, name)(10)
    message = rf"conditions\.{name}\.classes=10, but the data source has 18: sky"
    with pytest.raises(ValueError, match=message):
        field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)


def test_every_condition_reads_its_arrays_from_a_batch_of_scenes(config, workdir):
    config.conditions.update(
        layout=conditions.layout(18),
        semantic=conditions.semantic(18),
        low_resolution=conditions.low_resolution(2),
        inpainting=conditions.inpainting(),
        image=conditions.image("depth"),
    )
    config.conditions.low_resolution.augmentation = 0.5
    config.conditions.layout.width = 8
    opened, _ = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    request = field_conditions.request_of_batch(config, next(opened.train(0)))
    net = network.build_network(config, 0)
    expected = {
        name: value.shape
        for spec in net.conditions
        for name, value in spec.examples(8, (8, 8)).items()
    }
    assert {k: v.shape for k, v in request.fields.items()} == expected
    # A request has the noise of the sampling, not of the training.
    assert (request.fields["low_resolution.logsnr"] == np.inf).all()
    config.sample.low_resolution_noise = 0.6
    with pytest.raises(
        ValueError, match=r"low_resolution_noise=0\.6.*augmentation=0\.5"
    ):
        field_conditions.request_of_batch(config, next(opened.train(0)))
    assert np.abs(request.fields["image"]).max() <= 1
    mask = request.fields["inpainting.mask"]
    assert set(np.unique(mask)) == {0, 1}


def steps_of(config, net, weak=None):
    denoising = build_denoising(config, net, weak, guided=True, clip="none")
    return denoising.steps, denoising.removed


def test_conditions_of_one_weight_are_one_step_of_guidance(config):
    config.conditions.layout = conditions.layout(3)
    config.conditions.layout.width = 8
    config.conditions.image = conditions.image("depth")
    net = network.build_network(config, 4)
    config.sample.guidance = 3.0
    everything = ("classes", "text", "layout", "image")
    assert steps_of(config, net) == (((everything, 3.0),), frozenset())
    config.sample.guidance_of.update(classes=1.0, text=2.0, layout=2.0, image=0.0)
    # Weight 1 before all others needs no estimate without the condition.
    assert steps_of(config, net) == (((("text", "layout"), 2.0),), {"image"})
    config.sample.guidance_of.update(image=5.0)
    expected = (("text", "layout"), 2.0), (("image",), 5.0)
    assert steps_of(config, net) == (expected, frozenset())


def test_a_weight_for_a_missing_condition_is_an_error(config):
    net = network.build_network(config, 0)
    config.sample.guidance_of.layout = 2.0
    with pytest.raises(ValueError, match=r"guidance_of\.layout=2: .* it has text"):
        steps_of(config, net)
    config.sample.guidance_of.update(layout=None, text=2.0)
    with pytest.raises(ValueError, match=r"guidance_of .* sample\.guidance_workdir"):
        steps_of(config, net, net)
