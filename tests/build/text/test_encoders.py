"""Text encoders from folders as they are published, from captions to features."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from simple_diffusion.build.text import encoders
from simple_diffusion.data.text import clip as clip_tokenizer
from tests.nets.text import make_text_encoders_fixture as peers
from tests.weights.hugging_face.test_folder import save_shards


@pytest.fixture(scope="module")
def expected():
    with np.load(Path(peers.__file__).with_name("text_encoders_fixture.npz")) as file:
        return dict(file)


def set_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_t5_from_a_folder_is_that_of_transformers(expected, t5_folder):
    encoder = encoders.load_text_encoder(t5_folder)
    found = jax.jit(encoder.apply)(encoder.params, *peers.t5_inputs())
    # float32 in another order; the numbers are of size one.
    np.testing.assert_allclose(found, expected["t5"], rtol=1e-5, atol=1e-5)
    assert (encoder.width, encoder.max_length) == (32, 128)


def test_all_of_t5_in_shards_gives_the_same_encoder(t5_folder):
    whole = encoders.load_text_encoder(t5_folder)
    weights = safetensors.numpy.load_file(t5_folder / "model.safetensors")
    (t5_folder / "model.safetensors").unlink()
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    weights["lm_head.weight"] = np.ones((64, 32), np.float32)
    weights["decoder.block.0.layer.0.layer_norm.weight"] = np.ones(32, np.float32)
    save_shards(t5_folder, weights, count=3)
    sharded = encoders.load_text_encoder(t5_folder)
    jax.tree.map(np.testing.assert_array_equal, whole.params, sharded.params)


@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_clip_from_a_folder_is_that_of_transformers(expected, clip_folder, layer):
    encoder = encoders.load_text_encoder(clip_folder, layer=layer)
    ids = peers.clip_inputs()
    found = jax.jit(encoder.apply)(encoder.params, ids, np.ones(ids.shape, bool))
    theirs = expected[f"clip_quick_gelu_{layer}"]
    np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)
    assert (encoder.width, encoder.max_length) == (32, 12)
    assert encoder.tokenizer.describe() == (
        clip_tokenizer.read_tokenizer(clip_folder / "tokenizer").describe()
    )


def test_the_activation_is_the_one_of_the_config(expected, clip_folder):
    set_config(clip_folder / "text_encoder", hidden_act="gelu")
    encoder = encoders.load_text_encoder(clip_folder)
    ids = peers.clip_inputs()
    found = jax.jit(encoder.apply)(encoder.params, ids, np.ones(ids.shape, bool))
    theirs = expected["clip_gelu_last"]
    np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)


def test_names_without_the_prefix_are_those_of_clip_as_well(clip_folder):
    before = encoders.load_text_encoder(clip_folder)
    path = clip_folder / "text_encoder/model.safetensors"
    weights = safetensors.numpy.load_file(path)
    plain = {k.removeprefix("text_model."): v for k, v in weights.items()}
    safetensors.numpy.save_file(plain, path)
    after = encoders.load_text_encoder(clip_folder)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


def test_parameters_are_stored_in_the_type_of_the_computation(t5_folder):
    encoder = encoders.load_text_encoder(t5_folder, dtype="bfloat16")
    assert {x.dtype.name for x in jax.tree.leaves(encoder.params)} == {"bfloat16"}
    found = jax.eval_shape(encoder.apply, encoder.params, *peers.t5_inputs())
    assert found.dtype.name == "bfloat16"


def test_another_network_is_an_error_that_says_which_are_known(t5_folder, clip_folder):
    def check(folder, message, **options):
        with pytest.raises(ValueError, match=message):
            encoders.load_text_encoder(folder, **options)

    check(t5_folder, "is one of CLIP", layer="penultimate")
    check(t5_folder, "dtype='float16' must be float32 or bfloat16", dtype="float16")
    check(clip_folder, "max_length=13 must be at most 12", max_length=13)
    set_config(t5_folder, feed_forward_proj="relu")
    check(t5_folder, "feed_forward_proj='relu': it is not T5 v1.1")
    set_config(t5_folder, feed_forward_proj="gated-gelu", vocab_size=50)
    check(t5_folder, "the tokenizer has 64 tokens and the network 50")
    set_config(t5_folder, model_type="bert")
    check(t5_folder, "model_type='bert'; known are t5 .* and clip_text_model")
    encoder = clip_folder / "text_encoder"
    set_config(encoder, layer_norm_eps=1e-6)
    check(clip_folder, "layer_norm_eps=1e-06, not 1e-05")
    set_config(encoder, hidden_act="relu")
    check(clip_folder, "hidden_act='relu'; known are quick_gelu, gelu")
    (encoder / "config.json").write_text('{"model_type": "clip_text_model"}')
    check(clip_folder, "config.json lacks hidden_act")


def test_a_deeper_network_than_the_config_says_is_an_error(t5_folder):
    set_config(t5_folder, num_layers=1)
    message = r"unexpected: encoder.block.1.layer.0.SelfAttention.k.weight"
    with pytest.raises(ValueError, match=message):
        encoders.load_text_encoder(t5_folder)
