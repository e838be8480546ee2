import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets import conditions
from simple_diffusion.nets.conditions import Embedding
from tests.nets import small
from tests.vectors import vector

LOGSNR = jnp.asarray([-3.0, 0.0, 4.0])
LABEL = jnp.asarray([0, 2, 3])


def embed(net: Embedding, cond: Conditioning, logsnr: jax.Array = LOGSNR) -> jax.Array:
    params = small.lively(net, logsnr, cond)
    return net.apply({"params": params}, logsnr, cond)


@pytest.mark.parametrize("kind", ["linear", "inv_cos"])
def test_logsnr_inputs_agree_with_the_vectors(kind):
    for logsnr, want in vector("cond.logsnr_input")[kind]:
        got = conditions.logsnr_input(kind, jnp.float32(logsnr), -10.0, 10.0)
        np.testing.assert_allclose(got, want, rtol=2e-6)


def test_inv_cos_is_the_time_of_the_plain_cosine_schedule():
    t = jnp.linspace(0.01, 0.99, 9)
    logsnr = -2 * jnp.log(jnp.tan(jnp.pi * t / 2))
    got = conditions.logsnr_input("inv_cos", logsnr, -10.0, 10.0)
    np.testing.assert_allclose(got, t, rtol=1e-5)


def test_sigmoid_is_the_share_of_the_signal():
    logsnr = jnp.log(jnp.asarray([1 / 3, 1.0, 4.0]))
    got = conditions.logsnr_input("sigmoid", logsnr, -10.0, 10.0)
    np.testing.assert_allclose(got, [1 / 4, 1 / 2, 4 / 5], rtol=1e-6)


def test_flow_is_the_time_of_the_rectified_flow():
    t = jnp.linspace(0.01, 0.99, 9)
    logsnr = 2 * jnp.log((1 - t) / t)
    got = conditions.logsnr_input("flow", logsnr, -10.0, 10.0)
    np.testing.assert_allclose(got, t, rtol=1e-5)


def test_the_embedding_has_its_activation_inside_and_at_its_end():
    net = Embedding(6, 8, activation="gelu_exact")
    logsnr, cond = jnp.asarray([-2.0, 3.0]), Conditioning()
    params = small.lively(net, logsnr, cond)
    got = net.apply({"params": params}, logsnr, cond)

    def gelu(x):
        return x * scipy.special.ndtr(x)

    h = np.asarray(conditions.sinusoid((logsnr + 10) / 20, 8))
    for k in range(2):
        layer = small.host(params[f"Dense_{k}"])
        h = gelu(h @ layer["kernel"] + layer["bias"])
    np.testing.assert_allclose(got, h, atol=1e-5)


def test_an_unknown_logsnr_input_is_named(unchecked):
    with pytest.raises(ValueError, match="'cosine' must be one of .*linear"):
        conditions.logsnr_input("cosine", LOGSNR, -10.0, 10.0)


def test_the_sinusoid_turns_fastest_first_and_slowest_last():
    wave = conditions.sinusoid(jnp.asarray([0.0, 0.5]), 8)
    np.testing.assert_allclose(wave[0], [0, 0, 0, 0, 1, 1, 1, 1])
    # Half sines, half cosines; frequencies 10000^(-i/3) of an angle of 500.
    angle = 500.0 * 10000.0 ** (-np.arange(4) / 3)
    want = np.concatenate([np.sin(angle), np.cos(angle)])
    np.testing.assert_allclose(wave[1], want, atol=1e-4)  # float32 of angles near 500


def test_each_label_and_each_noise_level_has_its_own_vector():
    net = small.EMBEDDING
    same_level = embed(net, Conditioning(label=LABEL), jnp.zeros(3))
    same_label = embed(net, Conditioning(label=jnp.zeros(3, int)))
    for vectors in (same_level, same_label):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert not np.allclose(vectors[i], vectors[j], atol=1e-3)


def test_the_table_has_a_row_for_no_class():
    shapes = small.shapes(small.EMBEDDING, LOGSNR, Conditioning(label=LABEL))
    assert shapes["classes"].shape == (small.CLASSES + 1, small.EMBEDDING.channels)


@pytest.mark.parametrize("classes", [3, 24])
def test_the_class_table_starts_as_a_dense_layer_on_one_hot_labels(classes):
    net = Embedding(1024, 8, num_classes=classes)
    args = LOGSNR, Conditioning(label=LABEL % classes)
    # All but the table is left out of the compiled program.
    table = jax.jit(lambda key: net.init(key, *args)["params"]["classes"])
    found = np.asarray(table(jax.random.key(0)))
    deviation = (classes + 1) ** -0.5  # of LeCun's normal initializer
    # Of at least 4096 numbers: known to 1.1 %.
    np.testing.assert_allclose(found.std(), deviation, rtol=0.05)
    np.testing.assert_allclose(found.mean(), 0, atol=0.08 * deviation)


def test_a_label_out_of_range_is_not_a_number():
    with jax.debug_nans(False):
        out = embed(small.EMBEDDING, Conditioning(label=jnp.asarray([0, 4, 1])))
    assert np.isnan(out[1]).all() and np.isfinite(out[::2]).all()


def test_labels_are_required_by_a_network_with_classes_and_refused_without():
    with pytest.raises(ValueError, match="num_classes=3 and got no label; label 3"):
        embed(small.EMBEDDING, Conditioning())
    with pytest.raises(ValueError, match="num_classes=0 got labels"):
        embed(Embedding(16, 8), Conditioning(label=LABEL))


def test_a_vector_starts_without_effect_and_gets_one():
    cond = Conditioning(label=LABEL, vector=jnp.asarray([[1.0, 2], [3, 4], [5, 6]]))
    net = small.EMBEDDING
    params = net.init(jax.random.key(0), LOGSNR, cond)["params"]
    plain = {k: v for k, v in params.items() if k != "vector"}
    want = net.apply({"params": plain}, LOGSNR, Conditioning(label=LABEL))
    out = net.apply({"params": params}, LOGSNR, cond)
    np.testing.assert_array_equal(out, want)
    params["vector"]["kernel"] += 0.1
    change = net.apply({"params": params}, LOGSNR, cond) - want
    assert (np.abs(change).max(-1) > 1e-2).all()


def test_a_conditioning_image_of_another_size_is_refused():
    cond = Conditioning(image=jnp.ones((2, 4, 8, 1)))
    with pytest.raises(ValueError, match="conditioning image is 4x8 and the input 8x8"):
        conditions.join_image(jnp.ones((2, 8, 8, 3)), cond)


def test_a_conditioning_image_joins_the_channels():
    z_t, image = jnp.ones((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 1))
    joined = conditions.join_image(z_t, Conditioning(image=image))
    np.testing.assert_array_equal(joined[..., :3], z_t)
    np.testing.assert_array_equal(joined[..., 3:], image)
    assert conditions.join_image(z_t, Conditioning()) is z_t
