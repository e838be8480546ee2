"""Measures the cost of scale-aware convolutions in a training step.

  python -m benchmarks.scale_aware

Prints two tables: the step of `anyres_scenes:ours` with no, some and all 3x3
convolutions of the levels scale-aware, at several patch sizes; and one convolution,
forward and backward, in each implementation of `nets/safa.py` and as an ordinary
convolution. They take turns in one process; quote medians and ratios.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.build import diffusion, network, training
from simple_diffusion.configs import anyres_scenes
from simple_diffusion.core.types import Batch
from simple_diffusion.nets import safa
from simple_diffusion.training import sharding, state, step

# Side of the patch and batch; of a map, its side, channels and batch.
STEPS = ((32, 32), (64, 8))
MAPS = ((8, 128, 32), (16, 64, 32), (32, 128, 8))


def by_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each run; the first turn is not counted."""
    seconds = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def training_step(which: str, side: int, batch_size: int) -> Callable[[], Any]:
    """Returns one step of the recipe on patches of `side` pixels, mixed sizes."""
    config: Any = anyres_scenes.get_config("ours")
    config.model.safa = (which,)
    config.data.resolution = side
    config.data.patches.update(smallest=side, largest=2 * side)
    net = network.build_network(config, 12)
    optimizer, averages = (
        training.build_optimizer(config, 10_000),
        training.build_averages(config),
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    current = [state.blueprint(net.init, optimizer, averages, mesh=mesh).create()]
    objective = diffusion.build_objective(config, net)
    one = jax.jit(
        step.make_train_step(objective, optimizer, averages), donate_argnums=0
    )
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.5, (batch_size, 2))
    extent = rng.uniform(0.5, 1.0, (batch_size, 1)) * (1 - corner.max(1, keepdims=True))
    batch = Batch(
        image=rng.integers(0, 256, (batch_size, side, side, 3), np.uint8),
        label=np.arange(batch_size, dtype=np.int32) % 12,
        box=np.concatenate([corner, corner + extent], 1).astype(np.float32),
        mask=np.ones(batch_size, bool),
    )
    batch = jax.device_put(batch)

    def run() -> Any:
        current[0], metrics = one(current[0], batch)
        return current[0].params, metrics

    return run


def convolution(implementation: str, side: int, c: int, b: int) -> Callable[[], Any]:
    """Returns forward and backward of one convolution."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (b, side, side, c))
    kernels = jax.random.normal(keys[1], (4, 3, 3, c, c)) / c
    rows = 1 if implementation == "shared" else b
    weights = jax.nn.softmax(jax.random.normal(keys[2], (rows, 4)))

    def loss(x: jax.Array, kernels: jax.Array, weights: jax.Array) -> jax.Array:
        if implementation == "ordinary":
            y = safa.conv3x3(x, kernels[0])
        elif implementation == "shared":
            y = safa.convolve(x, kernels, weights)
        else:
            how: Any = implementation
            y = safa.convolve(x, kernels, weights, implementation=how)
        return jnp.square(y).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    return functools.partial(compiled, x, kernels, weights)


def main() -> None:
    """Measures and prints both tables."""
    parser = argparse.ArgumentParser(description="Cost of scale-aware convolutions.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    print("| patch, batch | none, ms | first_conv | all |\n|---|---:|---:|---:|")
    for side, batch in STEPS:
        names = ("none", "first_conv", "all")
        runs = {name: training_step(name, side, batch) for name in names}
        took = by_turns(runs, args.rounds)
        figures[f"step {side} {batch}"] = took
        ratios = (f"{took[name] / took['none']:.2f}x" for name in names[1:])
        print(f"| {side}, {batch} | {1e3 * took['none']:.0f} | {' | '.join(ratios)} |")
    names = ("ordinary", "shared", "patches", "experts", "grouped")
    print(f"\n| map, channels, batch | {', ms | '.join(names)}, ms |")
    print("|---|" + "---:|" * len(names))
    for side, c, b in MAPS:
        took = by_turns({name: convolution(name, side, c, b) for name in names}, 5)
        figures[f"convolution {side} {c} {b}"] = took
        cells = " | ".join(f"{1e3 * took[name]:.1f}" for name in names)
        print(f"| {side}x{side}, {c}, {b} | {cells} |")
    print(json.dumps(figures))
    if args.json:
        args.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
