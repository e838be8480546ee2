"""T5's encoder against transformers, with random weights at a small size."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import arrays
from simple_diffusion.nets.text import t5
from tests.nets.text import make_text_encoders_fixture as peers

FIXTURE = Path(peers.__file__).with_name("text_encoders_fixture.npz")
SIZE = t5.Size(32, 2, 2, 48, head=12, vocabulary=40, buckets=8, max_distance=20)


@pytest.fixture(scope="module")
def expected():
    with np.load(FIXTURE) as file:
        found = dict(file)
    # The random numbers are those of the fixture, or nothing else here has a meaning.
    drawn = peers.check_sum(peers.t5_weights())
    np.testing.assert_allclose(drawn, found["t5_weights"], rtol=1e-12)
    return found


@pytest.fixture(scope="module")
def params():
    """The weights of the fixture in our tree, by hand: the map of names is not used."""
    theirs = peers.t5_weights()

    def stack(name, is_matrix=True):
        found = [theirs[f"encoder.block.{k}.layer.{name}.weight"] for k in range(2)]
        return np.stack([x.T if is_matrix else x for x in found])

    attention, mlp = "0.SelfAttention", "1.DenseReluDense"
    first = f"encoder.block.0.layer.{attention}.relative_attention_bias.weight"
    layers = {
        "norm_1": {"scale": stack("0.layer_norm", False)},
        "query": {"kernel": stack(f"{attention}.q")},
        "key": {"kernel": stack(f"{attention}.k")},
        "value": {"kernel": stack(f"{attention}.v")},
        "out": {"kernel": stack(f"{attention}.o")},
        "norm_2": {"scale": stack("1.layer_norm", False)},
        "gate": {"kernel": stack(f"{mlp}.wi_0")},
        "up": {"kernel": stack(f"{mlp}.wi_1")},
        "down": {"kernel": stack(f"{mlp}.wo")},
    }
    return {
        "tokens": theirs["shared.weight"],
        "distances": theirs[first],
        "layers": layers,
        "norm": {"scale": theirs["encoder.final_layer_norm.weight"]},
    }


@pytest.fixture(scope="module")
def encode(params):
    apply = jax.jit(t5.T5Encoder(SIZE).apply)
    return lambda ids, mask: np.asarray(apply({"params": params}, ids, mask))


def test_features_are_those_of_transformers(expected, encode):
    found = encode(*peers.t5_inputs())
    # float32 in another order; the numbers are of size one.
    np.testing.assert_allclose(found, expected["t5"], rtol=1e-5, atol=1e-5)


def test_the_tokens_of_padding_change_nothing(encode):
    ids, mask = peers.t5_inputs()
    other = np.where(mask, ids, 7)
    found, changed = encode(ids, mask), encode(other, mask)
    np.testing.assert_array_equal(found[mask], changed[mask])
    assert not np.array_equal(found, changed)


def test_a_row_of_padding_alone_is_finite(encode):
    ids, mask = peers.t5_inputs()
    assert np.isfinite(encode(ids, np.zeros_like(mask))).all()


def test_an_id_out_of_range_is_not_mistaken_for_another(params):
    ids = jnp.array([[3, SIZE.vocabulary]])
    with jax.debug_nans(False):
        found = jax.jit(t5.T5Encoder(SIZE).apply)({"params": params}, ids)
    assert np.isnan(found).all()


@pytest.mark.parametrize("count, largest", peers.BUCKETS)
def test_classes_of_distances_are_those_of_transformers(expected, count, largest):
    found = t5.buckets(peers.OFFSETS[None], count, largest)[0]
    np.testing.assert_array_equal(found, expected[f"buckets_{count}"])


def test_bfloat16_is_near_float32(params, encode):
    ids, mask = peers.t5_inputs()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    found = jax.jit(t5.T5Encoder(SIZE, jnp.bfloat16).apply)({"params": half}, ids, mask)
    assert found.dtype == jnp.bfloat16
    # Eight bits in each of some twenty operations in a row.
    difference = np.asarray(found, np.float32) - encode(ids, mask)
    assert np.sqrt(np.mean(difference**2)) < 0.05


# The counts of the published files of T5 v1.1, encoder only.
@pytest.mark.parametrize("name, count", [("small", 35_332_800), ("xxl", 4_762_310_656)])
def test_published_sizes_have_their_number_of_parameters(name, count):
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    tree = jax.eval_shape(t5.T5Encoder(t5.SIZES[name]).init, jax.random.key(0), ids)
    assert arrays.tree_size(tree) == count
