"""LPIPS against its definition in float64, with random weights out of files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from simple_diffusion.evaluation.networks import lpips
from simple_diffusion.weights import convert_lpips, lpips_layout
from tests.weights import torch_saves

# The layers of torchvision's networks, each a number in the names of its weights:
# (channels, side, stride, padding) is a convolution, R a ReLU, P a pooling.
R, P = "relu", "pool"
LAYERS = {
    "alex": [
        *[(64, 11, 4, 2), R, P],
        *[(192, 5, 1, 2), R, P],
        *[(384, 3, 1, 1), R],
        *[(256, 3, 1, 1), R],
        *[(256, 3, 1, 1), R, P],
    ],
    "vgg": [
        *[*[(64, 3, 1, 1), R] * 2, P],
        *[*[(128, 3, 1, 1), R] * 2, P],
        *[*[(256, 3, 1, 1), R] * 3, P],
        *[*[(512, 3, 1, 1), R] * 3, P],
        *[*[(512, 3, 1, 1), R] * 3, P],
    ],
}
# After which of them LPIPS looks.
LOOKS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
WINDOW = {"alex": 3, "vgg": 2}
SMALLEST = {"alex": 31, "vgg": 16}


def weights(trunk):
    """Random ones as PyTorch has them: those of the trunk, those of the layers."""
    rng = np.random.default_rng(0)
    convs, lins, depth = {}, {}, 3
    for k, layer in enumerate(LAYERS[trunk]):
        if isinstance(layer, tuple):
            shape = layer[0], depth, layer[1], layer[1]
            # Neither fades nor grows through the layers.
            kernel = rng.standard_normal(shape, np.float32)
            convs[f"features.{k}.weight"] = kernel * np.sqrt(2 / np.prod(shape[1:]))
            convs[f"features.{k}.bias"] = rng.normal(0, 0.1, layer[0])
            depth = layer[0]
        if k in LOOKS[trunk]:
            lin = rng.uniform(0, 1, (1, depth, 1, 1)).astype(np.float32)
            lins[f"lin{len(lins)}.model.1.weight"] = lin
    convs["classifier.1.weight"] = np.zeros((2, 2))  # is there, too, and not used
    return {k: v.astype(np.float32) for k, v in convs.items()}, lins


def by_definition(trunk, convs, lins, images, originals):
    """LPIPS of uint8 images in float64, channels first as in PyTorch."""
    x, y = (
        features(trunk, convs, v / 127.5 - 1.0)  # [n, c, h, w]
        for v in (images.transpose(0, 3, 1, 2), originals.transpose(0, 3, 1, 2))
    )
    total = 0
    for a, b, lin in zip(x, y, lins.values(), strict=True):
        a, b = (v / (np.sqrt((v**2).sum(1, keepdims=True)) + 1e-10) for v in (a, b))
        total = total + (lin * (a - b) ** 2).sum(1).mean((1, 2))
    return total


def features(trunk, convs, x):
    shift = np.array([-0.030, -0.088, -0.188])[:, None, None]
    scale = np.array([0.458, 0.448, 0.450])[:, None, None]
    x, found = (x - shift) / scale, []
    for k, layer in enumerate(LAYERS[trunk]):
        if layer == R:
            x = np.maximum(x, 0)
        elif layer == P and k < max(LOOKS[trunk]):
            side = WINDOW[trunk]
            x = sliding_window_view(x, (side, side), (2, 3))[:, :, ::2, ::2]
            x = x.max((4, 5))
        elif layer != P:
            _, side, stride, padding = layer
            x = np.pad(x, [(0, 0)] * 2 + [(padding, padding)] * 2)
            views = sliding_window_view(x, (side, side), (2, 3))
            views = views[:, :, ::stride, ::stride]  # [n, c, h, w, side, side]
            kernel = convs[f"features.{k}.weight"].astype(np.float64)
            x = np.tensordot(views, kernel, [(1, 4, 5), (1, 2, 3)]).transpose(
                0, 3, 1, 2
            )
            x = x + convs[f"features.{k}.bias"][:, None, None]
        if k in LOOKS[trunk]:
            found.append(x)
    return found


def pair(h, w):
    """Noise, and the same with more and more other noise."""
    rng = np.random.default_rng(1)
    originals = rng.integers(0, 256, (3, h, w, 3), np.uint8)
    strength = np.array([4, 25, 120])[:, None, None, None]
    noisy = originals + strength * rng.normal(size=originals.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), originals


def convert(folder, trunk, convs, lins):
    """Returns the path of the converted weights."""
    paths = (
        folder / f"{trunk}.pth",
        folder / f"{trunk}_lin.pth",
        folder / f"{trunk}.npz",
    )
    torch_saves.save(paths[0], convs)
    torch_saves.save(paths[1], lins)
    convert_lpips.convert(*map(str, paths))
    return paths[2]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    return {trunk: convert(folder, trunk, *weights(trunk)) for trunk in LAYERS}


@pytest.fixture(scope="module")
def loaded(converted):
    return {trunk: lpips.load(path) for trunk, path in converted.items()}


@pytest.mark.parametrize(
    "trunk, h, w", [("alex", 31, 31), ("alex", 38, 66), ("vgg", 18, 33)]
)
def test_values_are_those_of_the_definition(loaded, trunk, h, w):
    images, originals = pair(h, w)
    expected = by_definition(trunk, *weights(trunk), images, originals)
    # float32: the difference of two unit vectors that are nearly the same.
    found = loaded[trunk](images, originals)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("trunk, h, w", [("alex", 31, 40), ("vgg", 16, 17)])
def test_a_distance_is_zero_to_itself_symmetric_and_grows_with_noise(
    loaded, trunk, h, w
):
    images, originals = pair(h, w)
    distance = loaded[trunk]
    there, back = distance(images, originals), distance(originals, images)
    np.testing.assert_array_equal(distance(originals, originals), 0)
    np.testing.assert_array_equal(there, back)
    assert (there > 0).all() and (np.diff(there) > 0).all()


def test_floats_from_minus_one_to_one_are_the_same_images(loaded):
    images, originals = pair(33, 40)
    floats = (v.astype(np.float32) / 127.5 - 1 for v in (images, originals))
    found = loaded["alex"](*(jnp.asarray(v) for v in floats))
    # The division is the device's here and the host's there.
    np.testing.assert_allclose(found, loaded["alex"](images, originals), rtol=1e-5)


def test_a_length_gets_its_epsilon_after_the_root(loaded, tmp_path):
    # Features of lengths about 1e-10: within the root it would drown them, and without
    # it they would count in full.
    convs, lins = weights("alex")
    for name in convs:
        if name.endswith("bias"):
            convs[name] = np.zeros_like(convs[name])
    convs["features.0.weight"] = convs["features.0.weight"] * np.float32(2e-11)
    images, originals = pair(31, 31)
    expected = by_definition("alex", convs, lins, images, originals)
    distance = lpips.load(convert(tmp_path, "alex", convs, lins))
    np.testing.assert_allclose(distance(images, originals), expected, rtol=2e-5)
    assert (expected < 0.7 * loaded["alex"](images, originals)).all()


def test_every_convolution_asks_for_full_precision():
    # Or a GPU would round to TF32 and a TPU to bfloat16, which a CPU does not show.
    params = {
        k: jax.ShapeDtypeStruct(shape, jnp.float32)
        for k, shape in lpips_layout.shapes("vgg").items()
    }
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    text = lpips.distance.lower(params, x, x, "vgg").as_text()
    assert text.count("stablehlo.convolution") == 26
    assert text.count("[#stablehlo<precision HIGHEST>") == 26


@pytest.mark.parametrize("trunk", LAYERS)
def test_the_smallest_images_are_those_whose_last_features_are_one_pixel(loaded, trunk):
    side = SMALLEST[trunk]
    images = np.zeros((1, side, side + 4, 3), np.uint8)
    assert features(trunk, weights(trunk)[0], images.transpose(0, 3, 1, 2))[-1].size
    assert np.isfinite(loaded[trunk](images, images)).all()
    wanted = f"least {side}x{side} pixels, got {side + 4}x{side - 1}"
    with pytest.raises(ValueError, match=wanted):
        images = np.zeros((1, side + 4, side - 1, 3), np.uint8)
        loaded[trunk](images, images)


def test_grey_images_are_an_error(loaded):
    images = np.zeros((1, 64, 64, 1), np.uint8)
    with pytest.raises(ValueError, match="needs RGB images, got 1 channels"):
        loaded["vgg"](images, images)


def test_many_images_are_taken_in_parts_with_the_same_values(loaded, monkeypatch):
    images, originals = pair(31, 31)
    whole = loaded["alex"](images, originals)
    monkeypatch.setattr(lpips, "_PIXELS_AT_ONCE", 2 * 31 * 31)
    calls = []
    distance = lpips.distance
    monkeypatch.setattr(
        lpips, "distance", lambda *a: calls.append(len(a[1])) or distance(*a)
    )
    # Another batch size is another order of sums.
    np.testing.assert_allclose(loaded["alex"](images, originals), whole, rtol=1e-5)
    assert calls == [2, 1]
    assert loaded["alex"](images[:0], originals[:0]).shape == (0,)


def test_a_digest_tells_weights_apart(loaded, converted):
    assert loaded["alex"].digest == lpips.load(converted["alex"]).digest
    assert loaded["alex"].digest != loaded["vgg"].digest


def test_a_file_of_other_or_missing_arrays_is_an_error_that_names_them(
    converted, tmp_path
):
    path = tmp_path / "weights.npz"
    with np.load(converted["alex"]) as file:
        arrays = dict(file)
    np.savez(
        path, **{k: v for k, v in arrays.items() if k not in ("conv3.bias", "lin4")}
    )
    with pytest.raises(ValueError, match="weights.npz lacks conv3.bias, lin4$"):
        lpips.load(path)
    np.savez(path, **arrays | {"lin1": np.zeros(64)})
    with pytest.raises(ValueError, match=r"lin1 has shape \(64,\), expected \(192,\)"):
        lpips.load(path)
    np.savez(path, **arrays | {"trunk": "squeeze"})
    with pytest.raises(ValueError, match="holds no weights of LPIPS.*convert lpips"):
        lpips.load(path)


def test_a_file_of_another_kind_is_an_error_that_says_what_makes_one(
    converted, tmp_path
):
    with pytest.raises(FileNotFoundError, match="no file .*missing.*convert lpips"):
        lpips.load(tmp_path / "missing.npz")
    path = tmp_path / "other"
    for content in (b"", b"<html>", b"\x80\x02]."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as .npz.*convert lpips"):
            lpips.load(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read as .npz.*convert lpips"):
        lpips.load(path)
    with pytest.raises(ValueError, match="holds no weights of LPIPS.*convert lpips"):
        lpips.load(converted["alex"].with_suffix(".pth"))


def failure(trunk, lin, output):
    """Returns the message of the error that the converter raises."""
    with pytest.raises((ValueError, OSError)) as error:
        convert_lpips.convert(str(trunk), str(lin), str(output))
    return str(error.value)


def test_a_wrong_file_is_an_error_that_names_it_and_what_it_lacks(converted, tmp_path):
    folder, output = converted["alex"].parent, tmp_path / "out.npz"
    trunk, lin = folder / "alex.pth", folder / "alex_lin.pth"
    message = failure(lin, trunk, output)
    assert "alex_lin.pth lacks features.0.weight" in message
    message = failure(trunk, trunk, output)
    assert "alex.pth lacks lin0.model.1.weight, lin1" in message
    message = failure(trunk, folder / "vgg_lin.pth", output)
    assert (
        "lin1.model.1.weight has shape (1, 128, 1, 1), expected (1, 192, 1, 1)"
        in message
    )
    message = failure(tmp_path / "missing.pth", lin, output)
    assert "missing.pth" in message
    other = torch_saves.save(
        tmp_path / "other.pth", {"features.0.weight": np.zeros((8, 3, 3, 3))}
    )
    assert "neither that of AlexNet nor" in failure(other, lin, output)
    trap = torch_saves.write_zip(
        tmp_path / "trap.pth", torch_saves.call("os.system", torch_saves.push("true"))
    )
    assert "trap.pth holds os.system" in failure(trap, lin, output)
    alone = torch_saves.write_zip(tmp_path / "alone.pth", torch_saves.push([1]))
    assert "holds a list, and no state_dict" in failure(trunk, alone, output)
    assert not output.exists() and not [*tmp_path.glob("*.partial")]
