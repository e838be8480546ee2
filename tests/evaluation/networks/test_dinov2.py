"""DINOv2 against timm and transformers, on a small network with random weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.evaluation.networks import dinov2, resizing
from simple_diffusion.weights import convert_dinov2, dinov2_layout, weight_files
from tests.evaluation.networks import make_dinov2_fixture as peers
from tests.weights import torch_saves

FIXTURE = Path(peers.__file__).with_name("dinov2_fixture.npz")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Makes the small network one of the known ones."""
    dinov2_layout.MODELS["dinov2_tiny"] = dinov2_layout.Size(*peers.TINY)
    yield
    del dinov2_layout.MODELS["dinov2_tiny"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("dinov2")
    theirs = torch_saves.save(folder / "tiny.pth", peers.weights(*peers.TINY))
    convert_dinov2.convert(str(theirs), str(folder / "tiny.npz"))
    return folder / "tiny.npz"


@pytest.fixture(scope="module")
def network(converted):
    return dinov2.load(converted)


@pytest.fixture(scope="module")
def expected():
    with np.load(FIXTURE) as file:
        arrays = dict(file)
    # Another NumPy might draw other numbers, and then nothing else here has a meaning.
    drawn = peers.check_sum(peers.weights(*peers.TINY))
    np.testing.assert_allclose(drawn, arrays["weights"], rtol=1e-12)
    drawn = peers.check_sum(dict(enumerate(peers.images())))
    np.testing.assert_array_equal(drawn, arrays["images"])
    return arrays


def features(network, image):
    return jax.jit(network.apply)(network.params, jnp.asarray(image)).features


@pytest.mark.parametrize("case", range(len(peers.IMAGES)))
@pytest.mark.parametrize("peer", ["timm", "transformers"])
def test_features_are_those_of_other_implementations(network, expected, peer, case):
    found = features(network, peers.images()[case])[0]
    # float32 in another order; the numbers are of size one.
    np.testing.assert_allclose(found, expected[peer][case], rtol=2e-5, atol=2e-5)


def test_positions_are_those_of_interpolate(network, expected):
    found = network.params["position"][1:]
    # Theirs are float32, places of tokens too: 1e-6 of a token times 0.1 per token.
    np.testing.assert_allclose(found, expected["positions"], rtol=0, atol=3e-7)


def test_full_sizes_have_as_many_parameters_as_published():
    # Of the published files, with 37 x 37 positions and a token for masks, which is
    # not used here.
    for model, count in (("dinov2_b", 86_580_480), ("dinov2_l", 304_368_640)):
        width = dinov2_layout.MODELS[model].width
        shapes = dinov2_layout.shapes(model).values()
        ours = sum(int(np.prod(shape)) for shape in shapes)
        assert ours + (37**2 - 16**2) * width + width == count


def test_a_full_size_network_traces_to_its_number_of_features():
    for model, count in (("dinov2_b", 768), ("dinov2_l", 1024)):
        params = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32)
            for name, shape in dinov2_layout.shapes(model).items()
        }
        images = jax.ShapeDtypeStruct((2, 64, 48, 3), jnp.uint8)
        heads = dinov2_layout.MODELS[model].heads

        def apply(params, images, heads=heads):
            return dinov2._apply(heads, "torch_bicubic", params, images)

        assert jax.eval_shape(apply, params, images).features.shape == (2, count)


def test_every_product_asks_for_full_precision(network):
    # Or a GPU would round to TF32 and a TPU to bfloat16, which a CPU does not show.
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    text = jax.jit(network.apply).lower(network.params, images).as_text()
    # Patches; four maps, queries with keys, and values in a block.
    assert text.count("stablehlo.dot_general") == 1 + 6
    assert text.count("precision = [HIGHEST, HIGHEST]") == 1 + 6


def test_features_do_not_depend_on_the_rest_of_the_batch(network):
    image = peers.images()[1]
    among = features(network, np.concatenate([image, 255 - image, image // 2]))
    np.testing.assert_allclose(among[0], features(network, image)[0], atol=1e-5)
    assert np.abs(np.asarray(among[1] - among[0])).max() > 0.1


def test_a_grey_image_is_the_same_in_three_channels(network):
    grey = peers.images()[1][..., :1]
    alone, three = (features(network, np.repeat(grey, n, -1)) for n in (1, 3))
    np.testing.assert_allclose(alone, three, rtol=1e-5, atol=1e-6)


def test_the_rule_to_resize_by_is_the_one_asked_for(network, converted):
    image = peers.images()[2]  # which shrinks: with and without antialiasing
    other = dinov2.load(converted, resize="torch_bilinear")
    assert (network.resize, other.resize) == ("torch_bicubic", "torch_bilinear")
    assert not np.allclose(features(network, image), features(other, image), atol=1e-3)
    by_hand = resizing.resize(jnp.asarray(image), (224, 224), "torch_bilinear")
    rounded = np.clip(np.rint(by_hand), 0, 255).astype(np.uint8)
    # What the rounding of pixels does to features.
    np.testing.assert_allclose(
        features(network, rounded), features(other, image), atol=1e-2
    )
    with pytest.raises(ValueError, match="no rule 'nearest' to resize by: known are"):
        dinov2.load(converted, resize="nearest")


def test_weights_stay_on_the_host_and_have_a_digest(network, converted, tmp_path):
    assert network.name == "dinov2_tiny"
    assert all(isinstance(v, np.ndarray) for v in network.params.values())
    assert len(network.digest) == 12
    assert dinov2.load(converted).digest == network.digest
    arrays = weight_files.read(converted)
    arrays["cls"] = arrays["cls"] + np.float32(1e-3)
    weight_files.write(tmp_path / "other.npz", arrays)
    assert dinov2.load(tmp_path / "other.npz").digest != network.digest


def test_a_file_of_other_or_missing_arrays_is_an_error_that_names_them(
    converted, tmp_path
):
    path = tmp_path / "weights.npz"
    arrays = weight_files.read(converted)
    lacking = {k: v for k, v in arrays.items() if k not in ("cls", "blocks.gain2")}
    weight_files.write(path, lacking)
    with pytest.raises(ValueError, match="weights.npz lacks cls, blocks.gain2"):
        dinov2.load(path)
    weight_files.write(path, arrays | {"norm.bias": np.zeros(25)})
    with pytest.raises(ValueError, match=r"norm.bias has shape \(25,\), expected"):
        dinov2.load(path)
    weight_files.write(path, arrays | {"model": np.array("dinov2_s")})
    with pytest.raises(ValueError, match="holds no weights of DINOv2.*convert dinov2"):
        dinov2.load(path)
    with pytest.raises(FileNotFoundError, match="no file .*missing.*convert dinov2"):
        dinov2.load(tmp_path / "missing.npz")
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="cannot be read as .npz.*convert dinov2"):
        dinov2.load(path)
