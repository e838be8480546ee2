"""The network with random weights, beside the implementations in PyTorch.

What they said of the same images with the same weights is in inception_fixture.npz; how
it came there, make_inception_fixture.py says.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import feature_weights
from simple_diffusion.evaluation.networks import inception
from simple_diffusion.weights import convert_inception, inception_layout, weight_files
from tests.evaluation.networks import make_inception_fixture as fixture
from tests.weights import torch_saves

# Rounding in float32, layer after layer; features of two rules differ by a
# hundred times that.
NEAR = 1e-4


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Path of the converted weights."""
    folder = tmp_path_factory.mktemp("inception")
    shapes = convert_inception.pytorch_shapes()
    port = {name: feature_weights.weight(name, s) for name, s in shapes.items()}
    weights = torch_saves.save(folder / "port.pth", port)
    output = folder / "inception.npz"
    convert_inception.convert(str(weights), str(output))
    return output


@pytest.fixture(scope="module")
def network(converted):
    return inception.load(converted)


@pytest.fixture(scope="module")
def forward():
    return jax.jit(inception.forward)


@pytest.fixture(scope="module")
def theirs():
    with np.load(fixture.PATH) as file:
        return dict(file)


def images(h, w):
    return jnp.asarray(fixture.image(h, w))[None]


def check(found, expected):
    scale = np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=NEAR)


@pytest.mark.parametrize("size", fixture.SIZES)
@pytest.mark.parametrize("rule", inception.RESIZES)
def test_outputs_are_those_of_the_ports_to_pytorch(
    network, forward, theirs, rule, size
):
    out = forward(network.params, inception.preprocess(images(*size), rule))
    h, w = size
    for name, value in out._asdict().items():
        # Of pytorch-fid and clean-fid, which have nothing else, there are features.
        if rule == "tf1_bilinear" or name == "features":
            check(value[0], theirs[f"{rule} {h} {w} {name}"])


def test_features_of_the_rules_are_told_apart(theirs):
    for h, w in fixture.SIZES:
        tf1, torch, clean = (theirs[f"{r} {h} {w} features"] for r in inception.RESIZES)
        for one, other in [(tf1, torch), (torch, clean), (clean, tf1)]:
            with pytest.raises(AssertionError):
                check(one, other)


def test_a_network_takes_a_batch_of_images(network, forward):
    batch = jnp.concatenate([images(32, 32), images(32, 32)[:, ::-1]])
    out = jax.jit(network.apply)(network.params, batch)
    assert [v.shape for v in out] == [(2, 2048), (2, 17 * 17 * 7), (2, 1008)]
    for k in range(2):
        alone = forward(
            network.params, inception.preprocess(batch[k : k + 1], "tf1_bilinear")
        )
        for one, both in zip(alone, out, strict=True):
            check(both[k], np.asarray(one[0]))


def test_every_product_asks_for_full_precision(network):
    # Or a GPU would round to TF32 and a TPU to bfloat16, which a CPU does not show.
    text = jax.jit(network.apply).lower(network.params, images(32, 32)).as_text()
    kinds = ("stablehlo.convolution(", "stablehlo.dot_general ", "HIGHEST")
    # Convolutions, classes; said once for either side of each.
    assert [text.count(kind) for kind in kinds] == [94, 1, 2 * (94 + 1)]


def test_a_network_says_what_it_is(converted, network):
    assert network.name == "inception" and network.class_names == ()
    assert len(network.digest) == 12 and network.resize == "tf1_bilinear"
    again = inception.load(str(converted), "clean_bicubic")
    assert again.digest == network.digest and again.resize == "clean_bicubic"
    assert {v.dtype for v in jax.tree.leaves(network.params)} == {jnp.dtype("float32")}


def test_an_average_at_the_border_is_of_what_lies_inside():
    x = np.random.default_rng(0).random((1, 4, 5, 2), np.float32)
    found = np.asarray(inception._average(jnp.asarray(x)))
    np.testing.assert_allclose(found[0, 0, 0], x[0, :2, :2].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(found[0, 3, 2], x[0, 2:, 1:4].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(found[0, 1, 4], x[0, :3, 3:].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(found[0, 2, 3], x[0, 1:, 2:].mean((0, 1)), rtol=1e-6)


def test_there_are_94_convolutions_and_a_layer_of_classes():
    assert len(list(inception_layout.convolutions())) == 94
    assert sum(np.prod(s) for s in inception_layout.shapes().values()) == 23_885_392


def test_other_rules_of_resizing_are_refused(converted):
    with pytest.raises(ValueError, match="no FID is of 'torch_bicubic': choose from"):
        inception.load(converted, "torch_bicubic")


def test_a_missing_file_is_an_error_that_says_what_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none.npz.*convert incep"):
        inception.load(tmp_path / "none.npz")


def test_weights_that_are_not_whole_are_refused_by_name(converted, tmp_path):
    arrays, path = weight_files.read(converted), tmp_path / "broken.npz"
    arrays["fc.kernel"] = np.zeros((2048, 1000), np.float32)
    arrays["Mixed_5b.branch1x1.bias"] = np.zeros(65, np.float32)
    weight_files.write(path, arrays)
    with pytest.raises(
        ValueError, match=r"5b.branch1x1.bias has shape \(65,\), exp"
    ) as e:
        inception.load(path)
    assert "; fc.kernel has shape (2048, 1000), expected (2048, 1008)" in str(e.value)
    few = {k: v for k, v in arrays.items() if k.startswith("Conv2d")}
    weight_files.write(path, few)
    with pytest.raises(ValueError, match="lacks Mixed_5b.branch1x1.kernel.* and 435 m"):
        inception.load(path)


def test_weights_that_are_not_numbers_are_refused(converted, tmp_path):
    arrays, path = weight_files.read(converted), tmp_path / "broken.npz"
    arrays["Mixed_7c.branch_pool.mean"][3] = np.nan
    weight_files.write(path, arrays)
    with pytest.raises(ValueError, match="not finite in Mixed_7c.branch_pool.mean$"):
        inception.load(path)
