import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.nets.conditioning.ports import Ports
from simple_diffusion.nets.layers import Style
from tests.nets import small

Z_T = jnp.zeros((2, 4, 4, 3))
EVERY = (
    specs.Text(vocabulary=9, length=3, width=8, depth=1, heads=2),
    specs.TextFeatures(features=5, length=2, width=8, name="t5"),
    specs.ClassToken(classes=4, width=8),
    specs.Layout(classes=3, objects=2, width=8),
    specs.SemanticMap(classes=4, factor=2),
    specs.LowResolution(sinusoid_channels=8),
    specs.Inpainting(),
    specs.Map(channels=1, name="depth"),
    specs.Vector(features=7, name="camera"),
)


def ports(*conditions, **style) -> Ports:
    return Ports(conditions, Style(**style), vector_width=6)


def shapes(module: Ports, cond: Conditioning):
    """Returns the shapes of what is at the ports."""

    def call():
        key = jax.random.key(0)
        out, context = module.init_with_output(key, cond, Z_T)[0]
        assert out.fields == {} and out.tokens is None
        return context and context.tokens, out.image, out.vector

    return [x and x.shape for x in jax.eval_shape(call)]


def test_without_conditions_nothing_changes():
    cond = Conditioning(label=jnp.zeros(2, int), image=Z_T)
    assert small.shapes(ports(), cond, Z_T) == {}
    out, context = ports().apply({}, cond, Z_T)
    assert context is None and out.label is cond.label and out.image is cond.image


def test_all_conditions_at_once_fill_the_three_ports():
    cond = Conditioning(fields=specs.examples(EVERY, 2, (4, 4)))
    tokens, image, vector = shapes(ports(*EVERY), cond)
    assert tokens == (2, 3 + 2 + 1 + 2, 8)
    assert image == (2, 4, 4, 3 + 3 + 4 + 2)
    assert vector == (2, 6)


def test_tokens_follow_each_other_and_images_and_vectors_that_were_given_come_first():
    camera = specs.Vector(features=7, name="camera")
    label, depth = specs.ClassToken(4, width=8), specs.Map(1, name="depth")
    module = ports(label, depth, camera)
    fields = specs.examples((label, depth, camera), 2, (4, 4))
    given = Conditioning(
        tokens=jnp.ones((2, 3, 8)),
        token_mask=jnp.asarray([[True, False, True], [False] * 3]),
        image=Z_T + 2.0,
        vector=jnp.ones((2, 6)),
        fields=fields,
    )
    params = small.lively(module, given, Z_T)
    apply = jax.jit(lambda cond: module.apply({"params": params}, cond, Z_T))
    (both, context), (alone, one) = apply(given), apply(Conditioning(fields=fields))
    np.testing.assert_array_equal(context.lengths, [3, 1])
    np.testing.assert_array_equal(context.tokens[0, :2], 1.0)
    np.testing.assert_array_equal(context.tokens[0, 2], one.tokens[0, 0])
    np.testing.assert_array_equal(context.tokens[1, 0], one.tokens[1, 0])
    np.testing.assert_array_equal(both.image[..., :3], 2.0)
    np.testing.assert_array_equal(both.image[..., 3:], alone.image)
    np.testing.assert_allclose(both.vector, alone.vector + 1.0, rtol=1e-6)


def test_missing_and_unknown_fields_are_named():
    layout = specs.Layout(classes=3, objects=2, width=8)
    fields = specs.examples([layout], 2, (4, 4))
    boxes = fields.pop("layout.boxes")
    with pytest.raises(ValueError, match=r"\['layout'\] and got no \['layout.boxes'\]"):
        shapes(ports(layout), Conditioning(fields=fields))
    fields |= {"layout.boxes": boxes, "caption": boxes}
    with pytest.raises(ValueError, match=r"has fields \['caption'\]"):
        shapes(ports(layout), Conditioning(fields=fields))
    fields.pop("caption")
    dropped = {"text": jnp.zeros(2, bool)}
    with pytest.raises(ValueError, match=r"has dropped \['text'\].*\['layout'\]"):
        shapes(ports(layout), Conditioning(fields=fields, dropped=dropped))


def test_tokens_are_refused_without_and_required_with_cross_attention():
    cond = Conditioning(tokens=jnp.ones((2, 3, 8)))
    with pytest.raises(ValueError, match="without cross-attention got tokens"):
        shapes(ports(), cond)
    assert shapes(ports(cross_attention=True), cond) == [(2, 3, 8), None, None]
    with pytest.raises(ValueError, match="with cross-attention got no tokens"):
        shapes(ports(cross_attention=True), Conditioning())


def test_names_and_widths_that_do_not_go_together_are_named():
    one, other = specs.Map(1), specs.Map(2)
    with pytest.raises(ValueError, match=r"name of its own, got \['image', 'image'\]"):
        specs.check([one, other])
    wide = specs.ClassToken(3, width=16)
    with pytest.raises(ValueError, match="same width, got {'text': 8, 'class': 16}"):
        specs.check([EVERY[0], wide])
    fields = specs.examples([wide], 2, (4, 4))
    with pytest.raises(ValueError, match=r"tokens need the same width, got \[8, 16\]"):
        cond = Conditioning(tokens=jnp.ones((2, 3, 8)), fields=fields)
        shapes(ports(wide), cond)
    vector = specs.Vector(features=2)
    cond = Conditioning(vector=jnp.ones((2, 5)), fields={"vector": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"vectors need the same width, got \[5, 6\]"):
        shapes(ports(vector), cond)
    cond = Conditioning(image=jnp.ones((2, 8, 8, 1)), fields={"image": Z_T[..., :1]})
    with pytest.raises(ValueError, match=r"same size, got \[\(8, 8\), \(4, 4\)\]"):
        shapes(ports(one), cond)


def test_a_pooled_text_is_a_vector_that_padding_does_not_change():
    text = specs.Text(9, length=5, width=8, depth=1, heads=2, pooled=True)
    module = ports(text)
    ids = jnp.array([[3, 4, 0, 0, 0], [5, 0, 0, 0, 0]])
    params = module.init(jax.random.key(0), Conditioning(fields={"text": ids}), Z_T)

    def vector(ids, dropped=(False, False)):
        cond = Conditioning(fields={"text": ids}, dropped={"text": jnp.array(dropped)})
        return module.apply(params, cond, Z_T)[0].vector

    found = vector(ids)
    assert found.shape == (2, 6)
    np.testing.assert_allclose(vector(ids[:, :2]), found, atol=1e-6)
    null = vector(0 * ids)
    np.testing.assert_allclose(null[0], null[1])
    np.testing.assert_allclose(vector(ids, (True, False))[0], null[0], atol=1e-6)
    assert np.abs(found - null).max() > 1e-3


def test_words_of_a_text_are_told_apart_by_a_fresh_encoder():
    """As far as attention mixes them, a word stays what distinguishes its token."""
    text = specs.Text(100, length=16, width=64, depth=2, heads=4)
    module = ports(text)
    ids = jnp.arange(1, 15)[None].repeat(2, 0)
    ids = ids.at[1, 12].set(60)
    cond = Conditioning(fields={"text": jnp.pad(ids, ((0, 0), (0, 2)))})
    params = module.init(jax.random.key(0), cond, Z_T)
    tokens = module.apply(params, cond, Z_T)[1].tokens
    gap = jnp.sqrt(jnp.square(tokens[0] - tokens[1]).mean(-1))
    # Of the tokens' standard deviation, which is 1; 0.2 is all that embeddings of 0.02
    # would leave.
    assert gap[12] > 0.6 and gap[12] > 3 * gap[:12].max()
