"""Measures what a condition adds to the training step of a recipe.

    python -m benchmarks.condition_cost --config configs/text2image256.py \
      --condition text_features

The recipe's step and the same without the condition, both reduced by --set, take turns
in one process, on batches that are on the device. Their operations are also counted in
the traced programs, at this size and at the recipe's. The input is not in it.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops, ours, protocol, recipe
from benchmarks.accelerator_ours import build
from benchmarks.sampling_overhead import take_turns
from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.core.options import training_size
from simple_diffusion.core.types import Batch
from simple_diffusion.data.conditioning.encoders import EncoderSet
from simple_diffusion.data.text import words
from simple_diffusion.training import sharding

# Widths and depth divided by 8: the full recipe would take hours on a CPU. The size
# of images and the number of tokens stay, since the ratio depends on them.
REDUCED = (
    "model.channels=(16, 32, 64)",
    "model.trunk_channels=256",
    "model.trunk_blocks=4",
    "model.scan_unroll=4",
    "model.emb_channels=128",
    "model.dtype='float32'",
    "model.remat='none'",
    "conditions.text_features.features=512",
    "conditions.text_features.width=256",
)


def arguments() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(description="What a condition costs in training.")
    add = parser.add_argument
    add("--config", default="configs/text2image256.py", help="recipe")
    add("--condition", default="text_features", help="section that is left out")
    add("--set", nargs="*", default=REDUCED, metavar="KEY=VALUE", help="smaller sizes")
    add("--batch", type=int, default=2)
    add("--steps", type=int, default=3, help="steps in a turn")
    add("--rounds", type=int, default=7, help="turns of each; the first is not counted")
    add("--threads", type=int, default=2)
    add("--backend", default="cpu", choices=("cpu", "gpu", "tpu"))
    add("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def batch_for(tree: dict[str, Any], count: int) -> Batch:
    """Returns a batch of noise with the fields of the recipe's conditions."""
    config = recipe.sections(tree)
    (height, width), channels = training_size(config), config.data.channels
    generator = np.random.default_rng(0)
    lexicon = Lexicon(words.make_tokenizer(["a red boat"]))
    encoders = field_conditions.build_encoders(config, lexicon)

    def noise(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        shape = (count, *shape)
        if jnp.issubdtype(dtype, jnp.floating):
            return generator.standard_normal(shape, np.float32).astype(dtype)
        return np.ones(shape, dtype)  # valid as an id, a mask and a count

    specs = EncoderSet(encoders, (height, width)).specs
    return Batch(
        image=generator.integers(0, 256, (count, height, width, channels), np.uint8),
        label=np.zeros(count, np.int32),
        box=np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1)),
        mask=np.ones(count, bool),
        fields={name: noise(s.shape, s.dtype) for name, s in specs.items()},
    )


def variants(tree: dict[str, Any], condition: str) -> dict[str, dict[str, Any]]:
    """Returns the recipe with and without a condition.

    Raises:
      ValueError: the recipe does not have it.
    """
    sections = tree["conditions"].items()
    active = [name for name, section in sections if isinstance(section, dict)]
    if condition not in active:
        raise ValueError(
            f"--condition {condition}: the recipe has {', '.join(active) or 'none'}"
        )
    without = recipe.changed(tree, {f"conditions.{condition}": None})
    return {"without": without, f"with {condition}": tree}


def counted(tree: dict[str, Any], count: int) -> int:
    """Returns the operations of a training step, attention spelt out."""
    plain = recipe.changed(tree, {"model.remat": "none", "model.attention": "xla"})
    plan, step = build(plain, sharding.make_mesh(devices=jax.devices()[:1]))
    return flops.count(jax.jit(step), plan.abstract, batch_for(plain, count))


def prepare(tree: dict[str, Any], args: argparse.Namespace) -> Any:
    """Returns a function that makes `args.steps` steps of a recipe."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan, step = build(tree, mesh)
    batch = jax.device_put(batch_for(tree, args.batch), sharding.batch_sharding(mesh))
    compiled, _ = ours.compile_step(step, plan, mesh, batch)
    current = plan.create()

    def run() -> None:
        nonlocal current
        for _ in range(args.steps):
            current, _ = compiled(current, batch)
        jax.block_until_ready(current)

    return run, args.steps


def main() -> None:
    """Measures and prints a table and JSON."""
    args = arguments()
    if args.backend == "cpu":
        protocol.bind_threads(args.threads)
    protocol.restart_in(
        protocol.environment(protocol.Spec("paper", backend=args.backend)),
        "benchmarks.condition_cost",
    )
    full = variants(recipe.load(args.config), args.condition)
    changes = recipe.changes(args.set)
    small = variants(
        recipe.changed(full[f"with {args.condition}"], changes), args.condition
    )
    table = {}
    for name, tree in small.items():
        print(f"preparing: {name}", file=sys.stderr)
        table[name] = prepare(tree, args)
    seconds = take_turns(table, args.rounds)
    operations = {
        size: {name: counted(tree, 1) for name, tree in trees.items()}
        for size, trees in (("reduced", small), ("recipe", full))
    }
    show(seconds, operations)
    about = protocol.about(args)
    result = {"about": about, "seconds": seconds, "operations": operations}
    print(f"\n{json.dumps(result)}")
    if args.json:
        args.json.write_text(f"{json.dumps(result)}\n")


def show(
    seconds: dict[str, list[float]], operations: dict[str, dict[str, int]]
) -> None:
    """Prints the table, as Markdown."""
    base = next(iter(seconds))
    print("| | s/step | ratio | range over rounds | GFLOP/image | of the recipe |")
    print("|---|---:|---:|---|---:|---:|")
    for name, values in seconds.items():
        each = [v / b for v, b in zip(values, seconds[base], strict=True)]
        counts = [operations[size][name] / 1e9 for size in ("reduced", "recipe")]
        print(
            f"| {name} | {statistics.median(values):.4f}"
            f" | {statistics.median(each):.3f} | {min(each):.3f} to {max(each):.3f}"
            f" | {counts[0]:.2f} | {counts[1]:.1f} |"
        )
    for size, counts in operations.items():
        first, second = counts.values()
        print(f"\nOperations, {size}: {second / first:.3f} of the step without it.")


if __name__ == "__main__":
    main()
