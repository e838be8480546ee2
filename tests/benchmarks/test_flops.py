"""Operations counted in a program against operations counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import flops


def test_a_matrix_product_takes_two_operations_per_multiply_add():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))
    assert flops.count(jnp.matmul, a, b) == 2 * 3 * 5 * 7


def test_a_batched_product_contracts_only_its_contracted_axes():
    q, k = jnp.zeros((2, 3, 4, 5)), jnp.zeros((2, 6, 4, 5))
    product = lambda q, k: jnp.einsum("bnhd,bmhd->bhnm", q, k)  # noqa: E731
    assert flops.count(product, q, k) == 2 * (2 * 4 * 3 * 6) * 5


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_a_convolution_and_its_gradient_take_the_same_work_three_times(stride, groups):
    # Kernel of the size of the stride, or padding would blur the count.
    size = stride
    x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((size, size, 4 // groups, 8))

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    outputs = 2 * (8 // stride) ** 2 * 8
    once = 2 * outputs * size * size * (4 // groups)
    assert flops.count(convolve, x, kernel) == once

    def gradients(x, kernel, cotangent):
        return jax.vjp(convolve, x, kernel)[1](cotangent)

    # vjp runs forward once; then one convolution for each argument.
    cotangent = convolve(x, kernel)
    assert flops.count(gradients, x, kernel, cotangent) == 3 * once


@pytest.mark.parametrize("unroll", [1, 4])
def test_a_scan_counts_every_turn(unroll):
    w = jnp.zeros((4, 5, 5))

    def trunk(x, w):
        turn = lambda x, w: (x @ w, None)  # noqa: E731
        return lax.scan(jax.checkpoint(turn), x, w, unroll=unroll)[0]

    assert flops.count(trunk, jnp.zeros((3, 5)), w) == 4 * 2 * 3 * 5 * 5


def test_of_two_branches_the_longer_counts():
    a = jnp.zeros((4, 4))
    either = lambda p, a: lax.cond(p, lambda a: a @ a @ a, lambda a: a, a)  # noqa: E731
    assert flops.count(either, np.bool_(True), a) == 2 * 2 * 4**3


def test_products_in_a_loop_of_unknown_length_are_refused():
    a = jnp.eye(3)
    loop = lambda a: lax.while_loop(lambda a: a.sum() < 9, lambda a: a @ a, a)  # noqa: E731
    with pytest.raises(ValueError, match="while loop"):
        flops.count(loop, a)
