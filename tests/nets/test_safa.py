import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.arrays import tree_size
from simple_diffusion.nets import position, safa
from simple_diffusion.nets.convolution import Conv3x3
from simple_diffusion.nets.position import Region, Scale
from tests.nets import small
from tests.vectors import vector

SCALE = Scale(32, 64)
IMPLEMENTATIONS = ("experts", "grouped", "patches")
PADDINGS = ("zeros", "edge")
KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (3, 4, 6, 5))
KERNELS = jax.random.normal(KEYS[1], (4, 3, 3, 5, 7)) / 6
WEIGHTS = jax.nn.softmax(jax.random.normal(KEYS[2], (3, 4)))
BOX = jnp.array([[0.0, 0.0, 1.0, 1.0], [0.25, 0.0, 0.75, 0.5], [0.1, 0.2, 0.9, 1.0]])
REGION = Region(BOX, jnp.array([[32.0, 32], [64, 64], [40, 40]]), (32, 32))


def close(a, b, tolerance=1e-5):
    scale = np.abs(np.asarray(b)).max()
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def fresh(conv, x=X, place=REGION):
    """Parameters drawn anew, so that nothing is zero."""
    shapes = jax.eval_shape(conv.init, KEYS[0], x, place)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(KEYS[3], len(leaves))
    drawn = [
        jax.random.normal(k, v.shape) / 4 for k, v in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_implementation_convolves_each_example_with_its_mixture(
    implementation, padding
):
    got = safa.convolve(X, KERNELS, WEIGHTS, padding, implementation)
    x, kernels, weights = (np.asarray(v, np.float64) for v in (X, KERNELS, WEIGHTS))
    mode = "edge" if padding == "edge" else "constant"
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode)
    # Straight from the definition, in float64.
    want = np.zeros(got.shape)
    for i, j in itertools.product(range(3), range(3)):
        part = x[:, i : i + 4, j : j + 6]
        want += np.einsum("bhwc,bk,kcd->bhwd", part, weights, kernels[:, i, j])
    close(got, want)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_mixture_of_kernels_is_the_mixture_of_convolutions(implementation):
    got = safa.convolve(X, KERNELS, WEIGHTS, "zeros", implementation)
    parts = [safa.conv3x3(X, kernel) for kernel in KERNELS]
    close(got, jnp.einsum("kbhwd,bk->bhwd", jnp.stack(parts), WEIGHTS))


def test_a_batch_of_one_resolution_equals_the_shared_kernel():
    same = jnp.broadcast_to(WEIGHTS[:1], (3, 4))
    shared = safa.convolve(X, KERNELS, WEIGHTS[:1])
    for implementation in IMPLEMENTATIONS:
        own = safa.convolve(X, KERNELS, same, implementation=implementation)
        close(own, shared)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_mixed_batch_equals_separate_runs(implementation):
    together = safa.convolve(X, KERNELS, WEIGHTS, "edge", implementation)
    for n in range(3):
        one = slice(n, n + 1)
        alone = safa.convolve(X[one], KERNELS, WEIGHTS[one], "edge", implementation)
        close(together[one], alone)


def test_a_one_hot_weight_selects_an_expert():
    for k in range(4):
        weights = jax.nn.one_hot(jnp.full(3, k), 4)
        close(safa.convolve(X, KERNELS, weights), safa.conv3x3(X, KERNELS[k]))


@pytest.mark.parametrize("experts", [1, 4])
def test_equal_experts_are_an_ordinary_convolution_at_every_resolution(experts):
    conv = Conv3x3(7, mixture=safa.Mixture(SCALE, experts))
    params = fresh(conv)
    params["kernels"] = jnp.broadcast_to(KERNELS[:1], (experts, *KERNELS.shape[1:]))
    params["biases"] = jnp.broadcast_to(jnp.arange(7.0)[None], (experts, 7))
    plain = {"kernel": KERNELS[0], "bias": jnp.arange(7.0)}
    got = conv.apply({"params": params}, X, REGION)
    close(got, Conv3x3(7).apply({"params": plain}, X))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_gradient_of_an_expert_is_its_weight_times_that_of_the_kernel(
    implementation,
):
    def loss(kernels, weights):
        y = safa.convolve(X[:2], kernels, weights, "zeros", implementation)
        return jnp.sum(jnp.sin(y))

    weights = jnp.broadcast_to(WEIGHTS[:1], (2, 4))
    mixed = jnp.einsum("k,k...->...", WEIGHTS[0], KERNELS)
    ordinary = jax.grad(lambda k: jnp.sum(jnp.sin(safa.conv3x3(X[:2], k))))(mixed)
    got = jax.grad(loss)(KERNELS, weights)
    close(got, jnp.einsum("k,...->k...", WEIGHTS[0], ordinary))


@pytest.mark.parametrize("padding", PADDINGS)
def test_every_implementation_has_the_same_gradients(padding):
    def gradients(implementation):
        def loss(*args):
            y = safa.convolve(*args, padding, implementation)
            return jnp.sum(jnp.sin(y))

        return jax.grad(loss, argnums=(0, 1, 2))(X, KERNELS, WEIGHTS)

    want = gradients("experts")
    for implementation in ("grouped", "patches"):
        for a, b in zip(gradients(implementation), want, strict=True):
            close(a, b)


def test_the_gradient_by_resolution_is_that_of_finite_differences():
    conv = Conv3x3(2, mixture=safa.Mixture(SCALE), bands=2)
    params = fresh(conv)

    @jax.jit
    def loss(side):
        place = Region(BOX[1:2], jnp.stack([side, side])[None], (32, 32))
        return jnp.mean(jnp.square(conv.apply({"params": params}, X[1:2], place)))

    slope = jax.grad(loss)(jnp.float32(50.0))
    # Not further apart: the units of the router have kinks.
    difference = 2 * (loss(jnp.float32(50.25)) - loss(jnp.float32(49.75)))
    assert abs(slope) > 1e-5
    np.testing.assert_allclose(slope, difference, rtol=0.02)


@pytest.mark.parametrize("row", vector("count.safa_conv"), ids=lambda r: str(r["K"]))
def test_the_number_of_parameters_is_that_of_kernels_biases_and_router(row):
    conv = Conv3x3(row["c_out"], mixture=safa.Mixture(SCALE, row["K"]))
    x = jnp.zeros((3, 4, 4, row["c_in"]))
    shapes = jax.eval_shape(conv.init, KEYS[0], x, REGION)
    assert tree_size(shapes) == row["params"]


def test_related_experts_start_with_the_deviation_of_one():
    kernels = safa.correlated_uniform(0.1)(KEYS[0], (4, 3, 3, 64, 64))
    one = (3 * 9 * 64) ** -0.5  # of a uniform number in ±1/√(9 c)
    assert np.std(kernels) == pytest.approx(one, rel=0.02)
    assert np.std(kernels.mean(0)) == pytest.approx(one, rel=0.02)
    # Independent ones lose half of it under equal weights, at four experts.
    own = safa.correlated_uniform(1e6)(KEYS[0], (4, 3, 3, 64, 64)) / 1e6
    ratio = vector("anyres.safa_init_std_ratio")["K4"]
    assert np.std(own.mean(0)) / np.std(own) == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize(
    ("gate", "formula"),
    [
        ("softmax", lambda v: np.exp(v) / np.exp(v).sum(1, keepdims=True)),
        ("sigmoid", lambda v: 1 / (1 + np.exp(-v))),
        ("linear", lambda v: v),
    ],
)
def test_every_gate_is_its_function_of_the_logits(gate, formula):
    router = safa.Router(safa.Mixture(SCALE, experts=3, hidden=8, gate=gate))
    params = small.lively(router, REGION.full_size)
    first, second = (small.host(params[name]) for name in ("dense_1", "dense_2"))
    # From 32 pixels, where the scale is 0, to 64, where it is 1.
    scale = np.log2(np.asarray(REGION.full_size) / 32)
    hidden = np.maximum(scale @ first["kernel"] + first["bias"], 0)
    logits = hidden @ second["kernel"] + second["bias"]
    assert logits.std() > 0.1
    weights = router.apply({"params": params}, REGION.full_size)
    np.testing.assert_allclose(weights, formula(logits), atol=1e-5)


@pytest.mark.parametrize("mixture", [None, safa.Mixture(SCALE)])
def test_in_a_fresh_convolution_the_position_has_no_effect(mixture):
    with_bands = Conv3x3(7, mixture=mixture, bands=3)
    params = jax.jit(with_bands.init)(KEYS[0], X, REGION)["params"]
    rest = {name: v for name, v in params.items() if name != "place_kernels"}
    assert len(rest) == len(params) - 1
    without = Conv3x3(7, mixture=mixture)
    want = jax.jit(without.apply)({"params": rest}, X, REGION)
    got = jax.jit(with_bands.apply)({"params": params}, X, REGION)
    assert np.std(want) > 0.1
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid", "linear"])
def test_every_gate_lets_the_resolution_change_the_result(gate):
    conv = Conv3x3(7, mixture=safa.Mixture(SCALE, gate=gate))
    params = fresh(conv)
    a, b = (
        conv.apply({"params": params}, X, Region(BOX, jnp.full((1, 2), side), (32, 32)))
        for side in (32.0, 64.0)
    )
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize(
    ("size", "padding", "mixture"),
    [
        ((4, 6), "zeros", None),
        ((4, 6), "edge", safa.Mixture(SCALE)),
        ((1, 2), "zeros", safa.Mixture(SCALE)),
        ((3, 5), "zeros", safa.Mixture(SCALE)),
    ],
)
def test_position_features_are_additional_input_channels(size, padding, mixture):
    """What the narrow maps compute is a convolution of features and grid joined."""
    x = jax.random.normal(KEYS[0], (3, *size, 5))
    conv = Conv3x3(7, padding=padding, mixture=mixture, bands=3)
    params = fresh(conv, x)
    rows, columns = position.fourier(REGION, size, 3)
    h, w = size
    grid = [
        jnp.broadcast_to(rows[:, :, None], (3, h, w, 7)),
        jnp.broadcast_to(columns[:, None], (3, h, w, 7)),
    ]
    joined = jnp.concatenate([x, *grid], axis=-1)
    kernels = params["kernel"][None] if mixture is None else params["kernels"]
    kernels = jnp.concatenate([kernels, params["place_kernels"]], axis=3)
    weights, bias = jnp.ones((1, 1)), None
    if mixture is None:
        bias = params["bias"][None]
    else:
        router = {"params": params["router"]}
        weights = safa.Router(mixture).apply(router, REGION.full_size)
        bias = weights @ params["biases"]
    want = safa.convolve(joined, kernels, weights, padding) + bias[:, None, None]
    close(conv.apply({"params": params}, x, REGION), want)


def test_no_experts_are_an_error():
    with pytest.raises(ValueError, match="safa_experts=0"):
        safa.Mixture(SCALE, experts=0)
