"""Every operator against its dense matrix, and the operators on pixels."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.restoration import operators, sensing, separable
from simple_diffusion.restoration.operators import LinearOperator
from tests.vectors import vector

CHANNELS = 3


def mask(h: int, w: int, seed: int = 0) -> np.ndarray:
    """Holes everywhere, a full block at one corner and an empty one at another."""
    known = np.random.default_rng(seed).random((1, h, w, 1)) < 0.6
    known[:, :4, :4] = True
    known[:, -4:, -4:] = False
    return known


# Wide ones show what takes height for width.
TALL, WIDE = (8, 8), (8, 16)
UNIFORM = separable.uniform_kernel(9)
SKEWED = np.array([0.5, 0.3, 0.1, 0.06, 0.04])

CASES: dict[str, tuple[tuple[int, int], Callable[[], LinearOperator]]] = {
    "identity": (TALL, lambda: operators.identity(TALL)),
    "inpaint": (WIDE, lambda: operators.inpaint(mask(*WIDE))),
    "inpaint, all known": (TALL, lambda: operators.inpaint(np.ones((1, *TALL, 1)))),
    "inpaint, all lost": (TALL, lambda: operators.inpaint(np.zeros((1, *TALL, 1)))),
    "average": (WIDE, lambda: operators.average(WIDE, 4)),
    "average, published": (TALL, lambda: operators.average(TALL, 2, compat=True)),
    "masked average": (TALL, lambda: operators.average(TALL, 4, mask(*TALL))),
    "masked average of 2": (WIDE, lambda: operators.average(WIDE, 2, mask(*WIDE))),
    "bicubic": (WIDE, lambda: separable.bicubic(WIDE, 2)),
    "bicubic to one row": (WIDE, lambda: separable.bicubic(WIDE, 8)),
    "bicubic by 3": ((9, 6), lambda: separable.bicubic((9, 6), 3)),
    "blur": (TALL, lambda: separable.blur(TALL, UNIFORM, UNIFORM)),
    "skewed blur": (WIDE, lambda: separable.blur(WIDE, SKEWED, UNIFORM, 0.1)),
    "published blur": (
        WIDE,
        # Threshold of an axis; of products, whose inverses stay as small as others.
        lambda: separable.blur(WIDE, UNIFORM, SKEWED, threshold=0.2, compat=True),
    ),
    "hadamard": (WIDE, lambda: sensing.hadamard(WIDE, 0.3, seed=1)),
    "group means": (WIDE, lambda: sensing.group_means(WIDE, 0.3, seed=1)),
    "blocks": (WIDE, lambda: sensing.blocks(WIDE, 0.4, seed=1, side=4)),
    "grey": (TALL, lambda: operators.grey(operators.identity(TALL))),
    "published grey": (
        TALL,
        lambda: operators.grey(operators.identity(TALL), compat=True),
    ),
    "mask, average, grey": (
        WIDE,
        lambda: operators.grey(operators.average(WIDE, 4, mask(*WIDE))),
    ),
    "mask, grey": (TALL, lambda: operators.grey(operators.inpaint(mask(*TALL)))),
    "blur, grey": (
        TALL,
        lambda: operators.grey(separable.blur(TALL, SKEWED, SKEWED), compat=True),
    ),
    "hadamard, grey": (
        TALL,
        lambda: operators.grey(sensing.hadamard(TALL, 0.5, seed=0)),
    ),
}
laws_of_all = pytest.mark.parametrize("name", CASES)


class Dense(NamedTuple):
    """An operator as matrices; columns are images or measurements in raster order."""

    a: np.ndarray
    pinv: np.ndarray
    vt: np.ndarray
    v: np.ndarray
    s: np.ndarray


@functools.cache
def dense(name: str) -> Dense:
    size, make = CASES[name]
    shape = (*size, CHANNELS)
    n = int(np.prod(shape))
    with jax.enable_x64(True):
        y = jax.eval_shape(lambda x: make().forward(x), jnp.zeros((1, *shape)))
        m = int(np.prod(y.shape))
        # The images of all unit vectors at once: the rows of the transposed matrix.
        pixels = jnp.eye(n).reshape(n, *shape)
        units = jnp.eye(m).reshape(m, *y.shape[1:])
        found = jax.jit(lambda x, y: faces(make(), x, y))(pixels, units)
    *maps, s = (np.asarray(array, np.float64) for array in found)
    a, pinv, vt, v = (np.reshape(rows, (len(rows), -1)).T for rows in maps)
    return Dense(a, pinv, vt, v, np.broadcast_to(s, (1, *shape)).reshape(n))


def faces(operator: LinearOperator, x: jax.Array, y: jax.Array) -> tuple:
    spectrum = operator.spectrum
    assert spectrum is not None
    return (
        operator.forward(x),
        operator.pinv(y),
        spectrum.analyse(x),
        spectrum.synthesise(x),
        spectrum.singulars,
    )


def project(operator: LinearOperator, x: jax.Array, y: jax.Array) -> jax.Array:
    return x - operator.pinv(operator.forward(x) - y)


def random(shape: tuple[int, ...], seed: int = 0, dtype=np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


# Float64 over at most 384 terms, values up to 1/s = 33: 1e-11 leaves a factor of 100.


@laws_of_all
def test_the_pseudo_inverse_fulfils_the_four_conditions_of_penrose(name):
    a, pinv = dense(name).a, dense(name).pinv
    np.testing.assert_allclose(a @ pinv @ a, a, atol=1e-11)
    np.testing.assert_allclose(pinv @ a @ pinv, pinv, atol=1e-11)
    np.testing.assert_allclose(a @ pinv, (a @ pinv).T, atol=1e-11)
    np.testing.assert_allclose(pinv @ a, (pinv @ a).T, atol=1e-11)


@laws_of_all
def test_the_pseudo_inverse_is_that_of_numpy(name):
    expected = np.linalg.pinv(dense(name).a, rcond=1e-9)
    np.testing.assert_allclose(dense(name).pinv, expected, atol=1e-10)


@laws_of_all
def test_v_is_orthogonal_and_synthesis_undoes_analysis(name):
    _, _, vt, v, s = dense(name)
    np.testing.assert_allclose(v @ vt, np.eye(len(s)), atol=1e-12)
    np.testing.assert_allclose(v, vt.T, atol=1e-12)


@laws_of_all
def test_squared_singular_values_are_the_eigenvalues_and_zero_is_exact(name):
    a, _, _, v, s = dense(name)
    np.testing.assert_allclose(v.T @ a.T @ a @ v, np.diag(s**2), atol=1e-12)
    assert np.count_nonzero(s) == np.linalg.matrix_rank(a, tol=1e-9)
    assert s.min() >= 0


@laws_of_all
def test_the_transpose_is_that_of_the_matrix(name):
    size, make = CASES[name]
    a = dense(name).a
    with jax.enable_x64(True):
        x = random((1, *size, CHANNELS), dtype=np.float64)

        @jax.jit
        def there_and_back(x: jax.Array) -> tuple[jax.Array, ...]:
            operator = make()
            y = operator.forward(x)
            weights = random(y.shape, 1, np.float64)
            return y, weights, *jax.linear_transpose(operator.forward, x)(weights)

        y, weights, back = there_and_back(x)
    np.testing.assert_allclose(np.ravel(y), a @ np.ravel(x), atol=1e-12)
    np.testing.assert_allclose(np.ravel(back), a.T @ np.ravel(weights), atol=1e-12)
    np.testing.assert_allclose(
        np.vdot(y, weights), np.vdot(x, back), rtol=1e-10, atol=1e-10
    )


@laws_of_all
def test_a_projection_in_float32_agrees_with_y_and_a_second_one_changes_nothing(name):
    size, make = CASES[name]

    @jax.jit
    def twice(x: jax.Array, other: jax.Array) -> tuple[jax.Array, ...]:
        operator = make()
        y = operator.forward(other)
        once = project(operator, x, y)
        return y, once, operator.forward(once), project(operator, once, y)

    y, once, again, second = twice(*(random((2, *size, CHANNELS), k) for k in range(2)))
    assert y.dtype == once.dtype == jnp.float32
    # 6e-8 of rounding, times at most 1/s = 33 and a few for the sums.
    np.testing.assert_allclose(again, y, atol=2e-6)
    np.testing.assert_allclose(second, once, atol=2e-5)


@pytest.mark.parametrize("name", ["bicubic", "blur, grey", "blocks"])
def test_no_product_is_rounded_by_an_accelerator(name):
    # No CPU shows it: by default a TPU rounds factors to 8 bits, a GPU to 11.
    size, make = CASES[name]
    x = random((1, *size, CHANNELS))
    y = make().forward(x)
    lowered = jax.jit(lambda x, y: faces(make(), x, y)).lower(x, y).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert len(products) >= 4
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


DIFFERENT = [
    "inpaint",
    "masked average of 2",
    "skewed blur",
    "bicubic",
    "blocks",
    "hadamard, grey",
]


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_projected_image_has_the_gradient_of_finite_differences(name):
    size, make = CASES[name]
    with jax.enable_x64(True):
        x, towards = (random((1, *size, CHANNELS), k, np.float64) for k in range(2))

        @jax.jit
        def quantity(x: jax.Array) -> jax.Array:
            operator = make()
            y = operator.forward(towards)
            return jnp.sum(jnp.sin(project(operator, x, y)))

        slope = jnp.vdot(jax.grad(quantity)(x), towards)
        step = 1e-5
        ends = [quantity(x + sign * step * towards) for sign in (1, -1)]
        # The next term of the difference is of order step² = 1e-10 of the size of x.
        np.testing.assert_allclose(
            slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-7
        )


MASKED = {
    "inpaint": operators.inpaint,
    "average": lambda known: operators.average(WIDE, 4, known),
    "average, published": lambda known: operators.average(WIDE, 4, known, compat=True),
    "grey average": lambda known: operators.grey(operators.average(WIDE, 2, known)),
}
several_masks = pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)


def everything(make, known, x, y):
    """What an operator of a mask can tell of x, with y measured by it of another."""
    operator = make(known)
    y = operator.forward(y)
    seen = [y, project(operator, x, y)]
    if operator.spectrum is not None:
        analyse, synthesise, singulars = operator.spectrum
        shape = jnp.broadcast_to(jnp.asarray(singulars, x.dtype), x.shape)
        seen += [analyse(x), synthesise(x), shape]
    return seen


@several_masks
def test_a_traced_mask_gives_the_same_as_one_that_is_known(make):
    known = np.concatenate([mask(*WIDE, seed=k) for k in range(3)])
    x, y = random((3, *WIDE, CHANNELS)), random((3, *WIDE, CHANNELS), 1)
    traced = jax.jit(functools.partial(everything, make))(known, x, y)
    for a, b in zip(traced, everything(make, known, x, y), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # rounding of fused operations


@several_masks
def test_each_image_has_its_own_mask_as_bits_or_numbers(make):
    known = np.concatenate([mask(*WIDE, seed=k) for k in range(3)])
    known[1], known[2] = True, False
    x, y = random((3, *WIDE, CHANNELS)), random((3, *WIDE, CHANNELS), 1)
    together = everything(make, known.astype(np.float32), x, y)
    for k in range(3):
        one = slice(k, k + 1)
        alone = everything(make, known[one], x[one], y[one])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[one], b)


def test_one_mask_serves_all_images():
    operator = operators.average(WIDE, 4, mask(*WIDE))
    x, other = random((2, *WIDE, CHANNELS)), random((2, *WIDE, CHANNELS), 1)
    both = project(operator, x, operator.forward(other))
    second = project(operator, x[1:], operator.forward(other[1:]))
    np.testing.assert_array_equal(both[1:], second)


def test_average_is_the_mean_of_blocks():
    x = random((2, 8, 16, 3))
    y = operators.average((8, 16), 4).forward(x)
    expected = np.asarray(x).reshape(2, 2, 4, 4, 4, 3).mean((2, 4))
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_a_measured_average_is_spread_over_its_block():
    y = random((1, 2, 4, 3))
    x = operators.average((8, 16), 4).pinv(y)
    np.testing.assert_array_equal(x, np.repeat(np.repeat(y, 4, 1), 4, 2))


def test_mask_average_and_grey_work_in_this_order():
    known, x = mask(8, 16), np.asarray(random((2, 8, 16, 3)))
    y = operators.grey(operators.average((8, 16), 4, known)).forward(jnp.asarray(x))
    expected = (
        (known * x).reshape(2, 2, 4, 4, 4, 3).mean((2, 4)).mean(-1, keepdims=True)
    )
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_masked_average_agrees_with_its_vector_and_the_published_one_with_its_error():
    expected = vector("restoration.composite_pinv")
    known = np.array(expected["known_mask"])[None, :, :, None]
    x = jnp.asarray(expected["x"], float)[None, :, :, None]
    operator = operators.average((4, 4), 2, known)
    y = operator.forward(x)
    np.testing.assert_allclose(y[0, ..., 0], expected["y"], atol=1e-6)
    pinv_y = operator.pinv(y)[0, ..., 0]
    np.testing.assert_allclose(pinv_y, expected["pinv_y"], rtol=1e-6)
    published = operators.average((4, 4), 2, known, compat=True)
    again = published.forward(published.pinv(y))[0, ..., 0]
    np.testing.assert_allclose(again, expected["A_of_uncorrected"], rtol=1e-6)


def test_only_the_published_masked_average_has_no_spectrum():
    masked = operators.average(TALL, 4, mask(*TALL), compat=True)
    assert masked.spectrum is None and operators.grey(masked).spectrum is None
    assert operators.average(TALL, 4, compat=True).spectrum is not None


def test_a_block_carries_its_singular_value_at_its_first_pixel():
    known = mask(8, 8)
    spectrum = operators.average((8, 8), 4, known).spectrum
    assert spectrum is not None
    kept = known.reshape(2, 4, 2, 4).sum((1, 3))
    assert kept[0, 0] == 16 and kept[1, 1] == 0  # a full and an empty block
    singulars = np.zeros((8, 8))
    singulars[::4, ::4] = np.sqrt(kept) / 16
    np.testing.assert_allclose(spectrum.singulars[0, ..., 0], singulars, rtol=1e-6)


def test_grey_as_published_has_its_weights():
    x = random((1, 4, 4, 3))
    y = operators.grey(operators.identity((4, 4)), compat=True).forward(x)
    expected = np.asarray(x) @ [0.3333, 0.3334, 0.3333]
    np.testing.assert_allclose(y[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "size, factor, message",
    [
        (
            (30, 33),
            4,
            r"restore\.factor=4 does not divide the image's 30x33 pixels; the nearest"
            r" size is 28x32 \(restore\.size\)",
        ),
        ((4, 5), 4, "the nearest size is 4x4"),
        ((31, 8), 4, "the nearest size is 32x8"),
        ((8, 32), 16, r"=16 is larger than the image's 8x32 pixels \(restore\.size\)"),
        ((8, 8), 0, r"restore\.factor=0 must be at least 1"),
    ],
)
@pytest.mark.parametrize("make", [operators.average, separable.bicubic])
def test_a_factor_that_does_not_fit_is_an_error(make, size, factor, message):
    with pytest.raises(ValueError, match=message):
        make(size, factor)


def test_a_mask_of_another_size_is_an_error():
    message = r"restore\.hole_mask has 8x8 pixels, the image 8x16 \(restore\.size\)"
    with pytest.raises(ValueError, match=message):
        operators.average((8, 16), 4, np.ones((1, 8, 8, 1)))
    with pytest.raises(ValueError, match=message):
        operators.inpaint(np.ones((1, 8, 8, 1))).forward(random((1, 8, 16, 3)))
    # One that would broadcast.
    with pytest.raises(ValueError, match="has 1x1 pixels"):
        operators.inpaint(np.ones((1, 1, 1, 1))).forward(random((1, 8, 16, 3)))


def test_colour_of_an_image_without_colour_is_an_error():
    with pytest.raises(ValueError, match=r"3 channels, got 1 \(restore\.task\)"):
        operators.grey(operators.identity((4, 4))).forward(random((1, 4, 4, 1)))
