import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.nets.conditioning import specs, tokens
from simple_diffusion.nets.conditioning.text_encoder import TextEncoder
from tests.nets import small

KEPT = jnp.zeros(2, bool)
FIRST = jnp.asarray([True, False])
IDS = jnp.asarray([[3, 1, 4, 0, 0], [5, 1, 0, 0, 0]])
BOXES = jax.random.uniform(jax.random.key(0), (2, 3, 4))
CATEGORY = jnp.asarray([[0, 1, 2], [2, 2, 0]])
PRESENT = jnp.asarray([[True, True, True], [True, True, False]])


def applied(module, *args):
    """Returns module(*args') for other arguments, with the same parameters."""
    params = small.lively(module, *args)
    return jax.jit(lambda *args: module.apply({"params": params}, *args))


def text(**fields) -> tokens.Text:
    spec = specs.Text(vocabulary=6, length=6, width=8, depth=2, heads=2, **fields)
    return tokens.Text(spec)


def test_padding_of_a_text_changes_none_of_its_tokens():
    encode = applied(text(), IDS, KEPT)
    want, mask = encode(IDS, KEPT)
    np.testing.assert_array_equal(mask, IDS != 0)
    got, longer = encode(jnp.pad(IDS, ((0, 0), (0, 1))), KEPT)
    np.testing.assert_array_equal(longer, jnp.pad(mask, ((0, 0), (0, 1))))
    np.testing.assert_allclose(got[:, :5][mask], want[mask], atol=1e-5)


def test_a_token_knows_the_others_and_its_position():
    encode = applied(text(), IDS, KEPT)
    want = encode(IDS, KEPT)[0]
    # Token 1 of the first text, after its neighbours exchanged places.
    swapped = encode(IDS.at[0, :3].set(jnp.asarray([4, 1, 3])), KEPT)[0]
    assert np.abs(swapped[0, 1] - want[0, 1]).max() > 1e-3
    other = encode(IDS.at[0, 2].set(2), KEPT)[0]
    assert np.abs(other[0, 0] - want[0, 0]).max() > 1e-3
    np.testing.assert_allclose(other[1], want[1], atol=1e-6)


def test_a_dropped_text_is_an_empty_text():
    encode = applied(text(), IDS, KEPT)
    dropped, mask = encode(IDS, FIRST)
    empty = encode(IDS.at[0].set(0), KEPT)
    assert not mask[0].any() and mask[1].any() and np.isfinite(dropped).all()
    jax.tree.map(np.testing.assert_array_equal, (dropped, mask), empty)


def test_a_text_that_is_too_long_and_heads_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="7 tokens exceed length=6"):
        small.shapes(text(), jnp.ones((2, 7), int), KEPT)
    with pytest.raises(ValueError, match="heads=3 must divide width=8"):
        small.shapes(TextEncoder(6, 6, 8, 1, 3), IDS)


def test_features_of_padding_and_of_dropped_texts_have_no_influence():
    module = tokens.TextFeatures(specs.TextFeatures(4, width=8))
    features = jax.random.normal(jax.random.key(1), (2, 3, 4))
    mask = jnp.asarray([[True] * 3, [True, False, False]])
    embed = applied(module, features, mask, FIRST)
    want = embed(features, mask, FIRST)
    np.testing.assert_array_equal(want[1], [[False] * 3, [True, False, False]])
    with jax.debug_nans(False):
        bad = features.at[0].set(jnp.inf).at[1, 1:].set(jnp.nan)
        jax.tree.map(np.testing.assert_array_equal, embed(bad, mask, FIRST), want)
    with pytest.raises(ValueError, match="'text' has 4 features per token, and"):
        small.shapes(tokens.TextFeatures(specs.TextFeatures(5)), features, mask, FIRST)


def test_a_dropped_class_is_the_last_row_of_the_table():
    module = tokens.ClassToken(specs.ClassToken(classes=3, width=8))
    label = jnp.asarray([0, 2])
    params = small.lively(module, label, KEPT)
    token, mask = module.apply({"params": params}, label, FIRST)
    np.testing.assert_array_equal(token[:, 0], params["table"][jnp.asarray([3, 2])])
    assert mask.all()


def test_permuting_objects_permutes_their_tokens():
    module = tokens.Layout(specs.Layout(classes=3, width=8))
    embed = applied(module, BOXES, CATEGORY, PRESENT, KEPT)
    want, mask = embed(BOXES, CATEGORY, PRESENT, KEPT)
    order = jnp.asarray([2, 0, 1])
    mixed = (x[:, order] for x in (BOXES, CATEGORY, PRESENT))
    got, other = embed(*mixed, KEPT)
    np.testing.assert_array_equal(other, mask[:, order])
    np.testing.assert_allclose(got, want[:, order], atol=1e-6)
    # Box and class both matter.
    for boxes, category in ((BOXES + 0.1, CATEGORY), (BOXES, (CATEGORY + 1) % 3)):
        change = np.abs(embed(boxes, category, PRESENT, KEPT)[0] - want).max(-1)
        assert (change[mask] > 1e-3).all()


def test_an_object_that_is_not_there_may_be_anything():
    module = tokens.Layout(specs.Layout(classes=3, width=8))
    embed = applied(module, BOXES, CATEGORY, PRESENT, KEPT)
    want = embed(BOXES, CATEGORY, PRESENT, FIRST)
    np.testing.assert_array_equal(want[1], PRESENT & ~FIRST[:, None])
    category = CATEGORY.at[0].set(-1).at[1, 2].set(99)
    with jax.debug_nans(False):
        boxes = BOXES.at[0].set(jnp.nan).at[1, 2].set(jnp.nan)
        got = embed(boxes, category, PRESENT, FIRST)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_corner_features_are_sines_of_octaves():
    box = np.asarray([[[0.0, 0.25, 0.5, 1.0]]])
    got = tokens.corner_features(jnp.asarray(box, jnp.float32), 2)[0, 0]
    g = 2 * box[0, 0] - 1
    angle = np.pi * np.stack([g, 2 * g], -1).ravel()
    want = np.concatenate([g, np.sin(angle), np.cos(angle)])
    np.testing.assert_allclose(got, want, atol=1e-6)
