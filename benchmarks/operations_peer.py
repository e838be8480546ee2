"""The peer's side of `operations`: PyTorch. A worker of `protocol`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import protocol
from benchmarks.operations import OPERATIONS


def build(name: str, batch: int) -> Callable[[], Any]:
    """Returns a call without arguments."""
    it = OPERATIONS[name]
    if name.startswith("norm"):
        x = _map(batch, it)
        scale, bias = torch.ones(it.channels), torch.zeros(it.channels)
        norm = torch.compile(lambda x, s, b: F.silu(F.group_norm(x, 32, s, b)))
        return _with_gradient(norm, x, scale, bias)
    if name.startswith("attention"):
        # Batch, heads, tokens, features, as PyTorch has them.
        q, k, v = (
            torch.randn(batch, 4, it.size, it.channels // 4) + n for n in range(3)
        )
        return _with_gradient(F.scaled_dot_product_attention, q, k, v)
    if name.startswith("MLP"):
        x = torch.randn(batch * it.size, it.channels)
        w_1 = 0.05 * torch.randn(it.channels, 4 * it.channels)
        w_2 = 0.05 * torch.randn(4 * it.channels, it.channels)
        mlp = torch.compile(
            lambda x, w_1, w_2: F.gelu(x @ w_1, approximate="tanh") @ w_2
        )
        return _with_gradient(mlp, x, w_1, w_2)
    x = _map(batch, it)
    kernel = 0.05 * torch.randn(it.channels, it.channels, 3, 3)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    if name.startswith("convolution"):
        return lambda: F.conv2d(x, kernel, padding=1)
    wanted = (name.startswith("input"), name.startswith("kernel"), False)
    return lambda: torch.ops.aten.convolution_backward(
        *(x, x, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted)
    )


def _map(batch: int, it: Any) -> torch.Tensor:
    x = torch.randn(batch, it.channels, it.size, it.size)
    return x.contiguous(memory_format=torch.channels_last)


def _with_gradient(
    function: Callable[..., torch.Tensor], *args: torch.Tensor
) -> Callable[[], Any]:
    for arg in args:
        arg.requires_grad_()

    def call() -> Any:
        value = function(*args)
        return torch.autograd.grad(value, args, value.detach())

    return call


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Makes a worker that makes each operation when it is first asked for."""
    torch.set_num_threads(spec.threads)
    ready: dict[str, Callable[[], Any]] = {}

    def run(steps: int, operation: str) -> None:
        if operation not in ready:
            ready[operation] = build(operation, spec.batch)
            ready[operation]()  # compiles
        for _ in range(steps):
            ready[operation]()

    return {"version": f"torch {torch.__version__}"}, run


if __name__ == "__main__":
    protocol.serve(prepare)
