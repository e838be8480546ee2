"""Autoencoders: sizes of the published ones, parity with PyTorch, invariants."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import arrays
from simple_diffusion.nets.autoencoder import autoencoder, discriminator
from simple_diffusion.nets.autoencoder.autoencoder import LAYOUTS, Autoencoder, Layout
from tests.nets.autoencoder import make_autoencoder_fixture as peers
from tests.nets.peer_weights import weight
from tests.vectors import vector

FIXTURE = Path(peers.__file__).with_name("autoencoder_fixture.npz")
BLOCK = {"norm_1": "norm1", "conv_1": "conv1", "norm_2": "norm2", "conv_2": "conv2"}
BLOCK |= {"shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v"}
ATTENTION |= {"out": "to_out.0"}


def layout(kind):
    codebook = peers.CODEBOOK if kind == "vq" else 0
    return Layout((1, 2), peers.LATENT, codebook, attention=(2,), blocks=1)


def their_name(path):
    """The name in diffusers of an array of ours, by the rules of both."""
    *parts, leaf = path
    if leaf == "codebook":
        return "quantize.embedding.weight"
    ending = "bias" if leaf == "bias" else "weight"
    side, *inner = parts
    if not inner:
        name = {"last": "decoder.conv_out"}.get(side, side)
        return f"{name}.{ending}"
    names = {"norm_out": "conv_norm_out"}
    first = inner[0]
    if first == "middle":
        kind, _, k = inner[1].partition("_")
        table, place = (
            (ATTENTION, "attentions.0")
            if kind == "attention"
            else (BLOCK, f"resnets.{k}")
        )
        return f"{side}.mid_block.{place}.{table[inner[2]]}.{ending}"
    direction, _, rest = first.partition("_")
    if direction not in ("down", "up"):
        return f"{side}.{names.get(first, first)}.{ending}"
    level, _, what = rest.partition("_")
    number = int(level) if direction == "down" else len(peers.WIDTHS) - 1 - int(level)
    place = f"{side}.{direction}_blocks.{number}"
    if what == "resample":
        return f"{place}.{direction}samplers.0.conv.{ending}"
    kind, _, k = what.partition("_")
    table, part = (
        (ATTENTION, "attentions") if kind == "attention" else (BLOCK, "resnets")
    )
    return f"{place}.{part}.{k}.{table[inner[1]]}.{ending}"


def their_weight(path, shape):
    """An array of the fixture's weights in our order of axes."""
    name = their_name(path)
    if len(shape) == 4:
        h, w, i, o = shape
        return weight(name, (o, i, h, w)).transpose(2, 3, 1, 0)
    if len(shape) == 2 and path[-1] == "kernel":
        is_linear = ".to_" in name
        theirs = shape[::-1] if is_linear else (*shape[::-1], 1, 1)
        return weight(name, theirs).reshape(shape[::-1]).T
    return weight(name, shape)


@pytest.fixture(scope="module")
def expected():
    with np.load(FIXTURE) as file:
        return dict(file)


def network(kind):
    net = Autoencoder(layout(kind))
    x = jnp.zeros((1, 4, 4, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            their_weight([key.key for key in path[1:]], leaf.shape)
        ),
        shapes,
    )
    return net, params


def close(found, expected, tolerance=1e-4):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=tolerance * scale, rtol=0)


def test_a_kl_autoencoder_computes_what_diffusers_does(expected):
    net, params = network("kl")
    posterior = net.apply(params, jnp.asarray(peers.image()), method="encode")
    close(posterior.mean, expected["kl_mean"])
    close(posterior.logvar, expected["kl_logvar"])
    close(posterior.kl(), expected["kl_divergence"])
    decoded = net.apply(params, jnp.asarray(peers.latent()), method="decode")
    close(decoded, expected["kl_decoded"])


def test_a_vq_autoencoder_computes_what_diffusers_does(expected):
    net, params = network("vq")
    latent = net.apply(params, jnp.asarray(peers.image()), method="encode")
    close(latent, expected["vq_latent"])
    found = net.apply(params, latent, method="quantize")
    np.testing.assert_array_equal(found.indices, expected["vq_indices"])
    assert len(np.unique(found.indices)) > 4
    decoded = net.apply(params, jnp.asarray(peers.latent()), method="decode")
    close(decoded, expected["vq_decoded"])


def test_decoding_quantizes_first():
    net, params = network("vq")
    z = jnp.asarray(peers.latent())
    values = net.apply(params, z, method="quantize").values
    np.testing.assert_allclose(
        net.apply(params, values, method="decode"),
        net.apply(params, z, method="decode"),
        atol=1e-4,
    )


def test_a_discriminator_computes_what_pytorch_does(expected):
    c = peers.DISCRIMINATOR
    net = discriminator.Discriminator(c["layers"], c["base"])
    x = jnp.asarray(peers.image(c["size"]))
    params = net.init(jax.random.key(0), x)["params"]

    def theirs(path, leaf):
        part, array = (key.key for key in path)
        kind, _, k = part.partition("_")
        # A convolution, a norm and an activation each; the first layer has no norm.
        number = 3 * int(k) - 1 if int(k) else 0
        number += kind == "norm"
        ending = "bias" if array == "bias" else "weight"
        name = f"discriminator.{number}.{ending}"
        if leaf.ndim == 4:
            h, w, i, o = leaf.shape
            return weight(name, (o, i, h, w)).transpose(2, 3, 1, 0)
        return weight(name, leaf.shape)

    params = jax.tree_util.tree_map_with_path(theirs, params)
    close(net.apply({"params": params}, x), expected["discriminator"])


OTHER_NAMES = {"kl_f8": "kl-f8 (= SD VAE)"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_autoencoder_has_its_number_of_parameters(name):
    rows = {row["name"]: row["params"] for row in vector("count.autoencoders")}
    net = Autoencoder(LAYOUTS[name])
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert (
        arrays.tree_size(shapes) == rows[OTHER_NAMES.get(name, name.replace("_", "-"))]
    )


@pytest.mark.parametrize(("layers", "patches"), [(2, 22), (3, 10)])
def test_the_discriminator_has_its_number_of_parameters_and_patches(layers, patches):
    rows = {row["n_layers"]: row["params"] for row in vector("count.patchgan")}
    net = discriminator.Discriminator(layers)
    x = jnp.zeros((1, 96, 96, 3))
    result, shapes = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
    assert arrays.tree_size(shapes) == rows[layers]
    assert result.shape == (1, patches, patches, 1)


def test_an_image_below_the_patches_of_the_discriminator_is_an_error():
    net = discriminator.Discriminator(3)
    with pytest.raises(ValueError, match="20x64 are too small .* needs 24 pixels"):
        net.init(jax.random.key(0), jnp.zeros((1, 20, 64, 3)))


def test_images_of_any_size_that_the_factor_divides_and_no_others():
    net = Autoencoder(Layout((1, 1, 1), 2, base=8, blocks=1))
    x = jnp.zeros((1, 8, 20, 3))
    params = net.init(jax.random.key(0), x)
    posterior = net.apply(params, x, method="encode")
    assert posterior.mean.shape == (1, 2, 5, 2) == posterior.logvar.shape
    assert net.apply(params, posterior.mean, method="decode").shape == x.shape
    with pytest.raises(ValueError, match="10x20 pixels: both sides .* multiples of 4"):
        net.apply(params, jnp.zeros((1, 10, 20, 3)), method="encode")
    with pytest.raises(ValueError, match=r"attention=\(8,\) must be some of"):
        Layout((1, 1), 2, attention=(8,))


def test_grey_images_and_images_with_depth_have_their_channels():
    for channels in (1, 4):
        net = Autoencoder(Layout((1, 1), 2, base=8, blocks=1), channels=channels)
        x = jnp.zeros((1, 4, 4, channels))
        params = net.init(jax.random.key(0), x)
        assert net.apply(params, x).shape == x.shape


def test_samples_of_a_posterior_have_its_mean_and_variance():
    posterior = autoencoder.Posterior(
        jnp.full((4000, 1, 1, 2), 3.0), jnp.full((4000, 1, 1, 2), 2 * np.log(0.5))
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(posterior.sample(keys))
    np.testing.assert_allclose(drawn.mean((0, 1, 2)), 3, atol=0.03)
    np.testing.assert_allclose(drawn.std((0, 1, 2)), 0.5, atol=0.02)
    standard = autoencoder.Posterior(jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 3)))
    assert standard.kl() == 0


def test_the_logarithm_of_the_variance_is_bounded():
    net = Autoencoder(Layout((1,), 2, base=8, blocks=1))
    x = jnp.ones((1, 4, 4, 3))
    params = net.init(jax.random.key(0), x)
    params["params"]["quant_conv"]["bias"] = jnp.array([0.0, 0.0, 1e3, -1e3])
    logvar = net.apply(params, x, method="encode").logvar
    assert (logvar[..., 0] == 20).all() and (logvar[..., 1] == -30).all()
