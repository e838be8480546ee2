"""Our side of `operations`: a worker of `protocol`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import protocol
from benchmarks.operations import OPERATIONS, Operation
from simple_diffusion.nets import layers, ops

Call = tuple[Callable[..., Any], tuple[jax.Array, ...]]


def build(name: str, batch: int) -> Call:
    """Returns a function and its arguments."""
    it = OPERATIONS[name]
    if name.startswith(("convolution", "input", "kernel")):
        return _convolution(name, it, batch)
    if name.startswith("norm"):
        norm = layers.Norm("group")
        x = _random(0, batch, it.size, it.size, it.channels)
        params = norm.init(jax.random.key(0), x)
        return _with_gradient(lambda p, x: jax.nn.silu(norm.apply(p, x))), (params, x)
    x = _random(0, batch, it.size, it.channels)
    if name.startswith("attention"):
        heads = x.reshape(batch, it.size, 4, -1)
        return _with_gradient(ops.attention), (heads, heads + 1, heads + 2)
    w_1 = 0.05 * _random(1, it.channels, 4 * it.channels)
    w_2 = 0.05 * _random(2, 4 * it.channels, it.channels)

    def mlp(x: jax.Array, w_1: jax.Array, w_2: jax.Array) -> jax.Array:
        flat = x.reshape(-1, it.channels)
        return (jax.nn.gelu(flat @ w_1) @ w_2).reshape(x.shape)

    return _with_gradient(mlp), (x, w_1, w_2)


def _convolution(name: str, it: Operation, batch: int) -> Call:
    x = _random(0, batch, it.size, it.size, it.channels)
    kernel = 0.05 * _random(1, 3, 3, it.channels, it.channels)

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout
        )

    if name.startswith("convolution"):
        return forward, (x, kernel)
    if name.startswith("input"):
        return lambda g, k: jax.vjp(lambda x: forward(x, k), g)[1](g)[0], (x, kernel)
    return (
        lambda x, g, k: jax.vjp(lambda k: forward(x, k), k)[1](g)[0],
        (x, x + 1, kernel),
    )


def _with_gradient(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    def both(*args: Any) -> Any:
        value, back = jax.vjp(function, *args)
        return value, back(value)

    return both


def _random(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Makes a worker that compiles each operation when it is first asked for."""
    ready: dict[str, Any] = {}

    def run(steps: int, operation: str) -> None:
        if operation not in ready:
            function, args = build(operation, spec.batch)
            ready[operation] = jax.jit(function).lower(*args).compile(), args
        compiled, args = ready[operation]
        for _ in range(steps):
            jax.block_until_ready(compiled(*args))

    return {"version": f"jax {jax.__version__}"}, run


if __name__ == "__main__":
    protocol.serve(prepare)
