"""CLIP's text transformer against transformers, with random weights at a small size."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import arrays
from simple_diffusion.nets.text import clip
from tests.nets.text import make_text_encoders_fixture as peers

FIXTURE = Path(peers.__file__).with_name("text_encoders_fixture.npz")
SIZE = clip.Size(32, 2, 4, 64, vocabulary=40, length=12)
OURS = {"quick_gelu": "quick_gelu", "gelu": "gelu_exact"}


@pytest.fixture(scope="module")
def expected():
    with np.load(FIXTURE) as file:
        found = dict(file)
    # The random numbers are those of the fixture, or nothing else here has a meaning.
    drawn = peers.check_sum(peers.clip_weights())
    np.testing.assert_allclose(drawn, found["clip_weights"], rtol=1e-12)
    return found


@pytest.fixture(scope="module")
def params():
    """The weights of the fixture in our tree, by hand: the map of names is not used."""
    theirs = peers.clip_weights()

    def stack(name, kind):
        both = {}
        for ours, ending in ((kind, "weight"), ("bias", "bias")):
            found = [
                theirs[f"text_model.encoder.layers.{k}.{name}.{ending}"] for k in (0, 1)
            ]
            both[ours] = np.stack([x.T if x.ndim == 2 else x for x in found])
        return both

    layers = {
        "norm_1": stack("layer_norm1", "scale"),
        "query": stack("self_attn.q_proj", "kernel"),
        "key": stack("self_attn.k_proj", "kernel"),
        "value": stack("self_attn.v_proj", "kernel"),
        "out": stack("self_attn.out_proj", "kernel"),
        "norm_2": stack("layer_norm2", "scale"),
        "up": stack("mlp.fc1", "kernel"),
        "down": stack("mlp.fc2", "kernel"),
    }
    return {
        "tokens": theirs["text_model.embeddings.token_embedding.weight"],
        "positions": theirs["text_model.embeddings.position_embedding.weight"],
        "layers": layers,
        "norm": {
            "scale": theirs["text_model.final_layer_norm.weight"],
            "bias": theirs["text_model.final_layer_norm.bias"],
        },
    }


def network(activation="quick_gelu"):
    size = dataclasses.replace(SIZE, activation=OURS[activation])
    return clip.ClipText(size, end_id=peers.END)


@pytest.fixture(scope="module")
def encode(params):
    apply = jax.jit(network().apply)
    return lambda ids: apply({"params": params}, ids)


@pytest.mark.parametrize("activation", peers.ACTIVATIONS)
def test_features_are_those_of_transformers(expected, params, activation):
    apply = jax.jit(network(activation).apply)
    found = apply({"params": params}, peers.clip_inputs())
    for name, value in found._asdict().items():
        # float32 in another order; the numbers are of size one.
        theirs = expected[f"clip_{activation}_{name}"]
        np.testing.assert_allclose(value, theirs, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_token_sees_only_itself_and_those_before_it(encode):
    ids = peers.clip_inputs()
    changed = ids.copy()
    changed[:, 6] = (changed[:, 6] + 1) % peers.END
    before, after = encode(ids).last, encode(changed).last
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before - after)[:, 6:].max(axis=(1, 2)) > 1e-3).all()


def test_the_pooled_features_are_those_of_the_first_end(encode):
    ids = peers.clip_inputs()
    found = encode(ids)
    ends = [row.tolist().index(peers.END) for row in ids]
    for row, end in enumerate(ends):
        np.testing.assert_array_equal(found.pooled[row], found.last[row, end])


def test_more_tokens_than_positions_are_an_error(params):
    with pytest.raises(ValueError, match="13 tokens are more than the 12"):
        network().apply({"params": params}, jnp.zeros((1, 13), jnp.int32))


def test_heads_that_do_not_divide_the_width_are_an_error():
    with pytest.raises(ValueError, match="heads=5 must divide width=32"):
        dataclasses.replace(SIZE, heads=5)


# The counts of the published text encoders of Stable Diffusion 1 and 2; the third has
# one layer more than the second.
LAYER = 12 * 1024**2 + 13 * 1024
COUNTS = [
    ("vit_l_14", 123_060_480),
    ("stable_diffusion_2", 340_387_840),
    ("open_vit_h_14", 340_387_840 + LAYER),
]


@pytest.mark.parametrize("name, count", COUNTS)
def test_published_sizes_have_their_number_of_parameters(name, count):
    ids = jax.ShapeDtypeStruct((1, 77), jnp.int32)
    network = clip.ClipText(clip.SIZES[name])
    tree = jax.eval_shape(network.init, jax.random.key(0), ids)
    assert arrays.tree_size(tree) == count
