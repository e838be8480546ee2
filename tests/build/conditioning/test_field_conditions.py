import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from simple_diffusion.build import data, diffusion, network
from simple_diffusion.build.conditioning import field_conditions, prompts
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
    opened, tokens = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    batch = next(opened.train(0))
    assert batch.fields["text"].shape == (8, 12)
    known = words.list_words(tokens)
    assert {"left", "right", "red", "two", "boat"} <= set(known)
    # Every word of a scene is known: 1 is the unknown word.
    assert (batch.fields["text"] != 1).all() and batch.fields["text"].any(1).all()
    # The same captions, the same ids.
    _, again = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    assert again.describe() == tokens.describe()


def test_a_tokenizer_in_the_workdir_is_used(config, workdir):
    made = words.make_tokenizer(["one two three"])
    made.save(workdir / field_conditions.TOKENIZER)
    _, tokens = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    assert tokens.describe() == made.describe()
    loaded = field_conditions.load_tokenizer(config, workdir)
    assert loaded.describe() == made.describe()


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
    _, tokens = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    known = set(words.list_words(tokens))
    # One of the four is held out; an empty caption makes its example bad.
    assert len(known & {"cat", "dogs", "dog"}) >= 2


def test_without_conditions_there_is_no_tokenizer(workdir):
    config = tiny()
    opened, tokens = field_conditions.open_data(config, data.SINGLE_PROCESS, workdir)
    assert tokens is None and next(opened.train(0)).fields == {}
    assert field_conditions.load_tokenizer(config, workdir) is None


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


def test_prompts_are_separated_or_lines_of_a_file(tmp_path):
    assert prompts.parse_prompts("a boat;  two trees ", True) == ["a boat", "two trees"]
    assert prompts.parse_prompts("", True) == [""]
    assert prompts.parse_prompts(None, False) == []
    path = tmp_path / "many.txt"
    path.write_text("a boat; and a car\n\ntwo trees\n")
    found = prompts.parse_prompts(str(path), True)
    assert found == ["a boat; and a car", "two trees"]


def test_prompts_that_cannot_be_are_errors_that_name_the_key(tmp_path):
    with pytest.raises(ValueError, match="sample.prompts='a boat' is for a model"):
        prompts.parse_prompts("a boat", False)
    with pytest.raises(ValueError, match="sample.prompts must be set"):
        prompts.parse_prompts(None, True)
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        prompts.parse_prompts(str(tmp_path / "none.txt"), True)
    with pytest.raises(FileNotFoundError):
        prompts.parse_prompts(str(tmp_path / "missing.txt"), True)


def test_the_encoder_of_captions_pads_and_cuts():
    tokens = words.make_tokenizer(["one two three"])
    assert isinstance(tokens, tokenizer.Tokenizer)
    assert tokens.encode(["two"], 4).ids.tolist() == [[4, 0, 0, 0]]
