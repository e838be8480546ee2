"""The peer's side: `denoising-diffusion-pytorch` under PyTorch.

A worker of `protocol`, run by the interpreter of the peer's own environment. It uses
the peer as published: its U-ViT, its loss, PyTorch's Adam. Gradient clipping and the
average of the parameters, which belong to the peer's trainer, use the fastest
operations of PyTorch.
"""

import importlib.util
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import protocol, recipe

VARIANTS = ("eager", "channels_last", "compiled", "compiled_channels_last")


def load() -> ModuleType:
    """Returns the peer's module.

    By its path: the package's own `__init__` imports data sets, launchers and metrics
    that have nothing to do with the network.
    """
    package = importlib.util.find_spec("denoising_diffusion_pytorch")
    assert package is not None and package.origin is not None
    path = Path(package.origin).with_name("simple_diffusion.py")
    spec = importlib.util.spec_from_file_location("peer_simple_diffusion", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def size(spec: protocol.Spec) -> dict[str, Any]:
    """Returns the arguments of the peer's U-ViT."""
    if spec.recipe is not None:
        return recipe.peer_arguments(spec.recipe)
    return dict(
        dim=spec.width,
        dim_mults=(2, 4),
        vit_depth=spec.depth,
        vit_dropout=0.0,
        attn_heads=4,
        attn_dim_head=32,
    )


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Makes the training step: loss, gradient, clipping, Adam, one average."""
    torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    device = {"cpu": "cpu", "gpu": "cuda"}[spec.backend]
    module = load()
    if device == "cuda":
        # As JAX has it: what stays in float32 is multiplied as TF32.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    net = module.UViT(**size(spec))
    diffusion = module.GaussianDiffusion(net, image_size=spec.resolution).to(device)
    images = torch.rand(spec.batch, 3, spec.resolution, spec.resolution, device=device)
    if "channels_last" in spec.variant:
        diffusion = diffusion.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    params = list(diffusion.parameters())
    average = [p.detach().clone() for p in params]
    fused = device == "cuda" or None  # the fastest that there is
    adam = torch.optim.Adam(params, lr=1e-4, betas=(0.9, 0.99), fused=fused)
    half = torch.autocast(device, torch.bfloat16, enabled=spec.dtype == "bfloat16")

    def step(loss_of: Any) -> None:
        with half:
            loss = loss_of(images)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [p.detach() for p in params], 0.001)

    with FlopCounterMode(display=False) as counter:
        step(diffusion)
    loss_of = torch.compile(diffusion) if "compiled" in spec.variant else diffusion
    start = time.perf_counter()
    step(loss_of)
    _wait(device)

    def run(steps: int) -> int | None:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(steps):
            step(loss_of)
        _wait(device)
        return torch.cuda.max_memory_allocated() if device == "cuda" else None

    return {
        "parameters": sum(p.numel() for p in params),
        "flops": counter.get_total_flops(),
        "first_step_seconds": time.perf_counter() - start,
        "version": f"torch {torch.__version__}",
    }, run


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    protocol.serve(prepare)
