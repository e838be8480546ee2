"""Measures the cost of sampling beyond its network calls.

    python -m benchmarks.sampling_overhead

The whole sampler, one compiled scan, takes turns with the bare compiled network on the
same batch. Quote the time per network call over the time of a bare call; 1 means no
overhead.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import ours, protocol
from simple_diffusion.core import rng
from simple_diffusion.core.types import Conditioning, Solver
from simple_diffusion.diffusion import denoiser, schedules
from simple_diffusion.sampling import grids, guidance, loop, solvers

SOLVERS: dict[str, Callable[[], Solver]] = {
    "ancestral": solvers.ancestral,
    "ddim": solvers.ddim,
    "heun": solvers.heun,
    "dpmpp_2m": solvers.dpmpp_2m,
}


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(
        description="What sampling costs beyond its network calls."
    )
    add = parser.add_argument
    add("--solvers", nargs="*", default=list(SOLVERS), choices=list(SOLVERS))
    add("--calls", type=int, default=16, help="noise levels, and bare calls in a turn")
    add("--rounds", type=int, default=7, help="turns of each; the first is not counted")
    add("--resolution", type=int, default=64)
    add("--width", type=int, default=64, help="channels of the first level")
    add("--depth", type=int, default=4, help="transformer blocks")
    add("--batch", type=int, default=8)
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--backend", default="cpu", choices=("cpu", "gpu", "tpu"))
    add("--threads", type=int, default=2)
    add("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def network_calls(solver: str, levels: int) -> int:
    """Returns how often a solver calls the network on a grid of so many levels."""
    return (levels - 1) * (2 if solver == "heun" else 1) + 1


def programs(args: argparse.Namespace, spec: protocol.Spec) -> dict[str, Any]:
    """Returns {name: (run, network calls in a run)}, everything compiled."""
    net = ours.network(spec, spec.dtype)
    params = jax.jit(lambda key: ours.initial(net, spec, key))(jax.random.key(0))
    apply, size = ours.apply_fn(net), spec.resolution
    keys = rng.derive_example_keys(jax.random.key(1), jnp.arange(spec.batch))
    grid = grids.uniform_t(schedules.cosine(), args.calls)

    def bare(params: Any, z: jax.Array, logsnr: jax.Array) -> jax.Array:
        return apply(params, z, logsnr, Conditioning())

    z = rng.normal_per_example(keys, (size, size, 3))
    logsnr = jnp.zeros(spec.batch)
    call = jax.jit(bare).lower(params, z, logsnr).compile()

    def run_bare() -> None:
        out = z
        for _ in range(args.calls):
            out = call(params, out, logsnr)  # each waits for the one before
        jax.block_until_ready(out)

    def run_solver(name: str) -> Callable[[], Any]:
        def sampler(params: Any, keys: Any) -> jax.Array:
            denoise = denoiser.denoise_fn(apply, params, "v", Conditioning())
            denoise = guidance.clip_static(denoise)
            return loop.sample(denoise, SOLVERS[name](), grid, keys, (size, size, 3))

        compiled = jax.jit(sampler).lower(params, keys).compile()
        return lambda: jax.block_until_ready(compiled(params, keys))

    table: dict[str, Any] = {"bare network": (run_bare, args.calls)}
    for name in args.solvers:
        table[name] = run_solver(name), network_calls(name, args.calls)
    return table


def take_turns(table: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Returns seconds per network call, one number per round."""
    seconds: dict[str, list[float]] = {name: [] for name in table}
    names = list(table)
    for k in range(rounds):
        print(f"round {k + 1} of {rounds}", file=sys.stderr)
        for name in names[k % len(names) :] + names[: k % len(names)]:
            run, calls = table[name]
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / calls)
    skipped = 1 if rounds > 1 else 0  # caches and clocks warm up
    return {name: values[skipped:] for name, values in seconds.items()}


def main() -> None:
    """Measures and prints a table and JSON."""
    args = arguments()
    shared = ("resolution", "width", "depth", "batch", "dtype", "backend", "threads")
    spec = protocol.Spec("paper", **{name: getattr(args, name) for name in shared})
    if args.backend == "cpu":
        protocol.bind_threads(args.threads)
    protocol.restart_in(protocol.environment(spec), "benchmarks.sampling_overhead")
    seconds = take_turns(programs(args, spec), args.rounds)
    bare = statistics.median(seconds["bare network"])
    print("| | ms per network call | over the bare call | range over rounds |")
    print("|---|---:|---:|---|")
    for name, values in seconds.items():
        each = [v / b for v, b in zip(values, seconds["bare network"], strict=True)]
        middle = statistics.median(values)
        print(
            f"| {name} | {1e3 * middle:.1f} | {middle / bare:.3f}"
            f" | {min(each):.3f} to {max(each):.3f} |"
        )
    result = json.dumps({"about": protocol.about(args), "seconds": seconds})
    print(f"\n{result}")
    if args.json:
        args.json.write_text(f"{result}\n")


if __name__ == "__main__":
    main()
