"""Our side of `accelerator`: the training step of a recipe, compiled in several ways.

A worker of `protocol`. All programs are of one network and pass one state on to each
other, so that a large model is in memory only once.
"""

import re
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from benchmarks import flops, ours, protocol, recipe
from simple_diffusion.build import diffusion, network, training
from simple_diffusion.core.types import Batch
from simple_diffusion.training import sharding, state, step

# The text of a compiled program, beside its trace.
PROGRAM = "program.txt"


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Compiles the step as each program says, or counts; see `protocol.serve`."""
    if spec.variant == "count":
        return count(spec), lambda steps: None
    return prepare_programs(spec)


def prepare_programs(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Compiles the step as each program says.

    A program that cannot be compiled or does not fit is reported, not raised.
    """
    assert spec.recipe is not None
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    where = sharding.batch_sharding(mesh)
    config = recipe.sections(spec.recipe)
    host = ours.random_batch(spec, max(1, config.data.num_classes or 0))
    batch = jax.device_put(host, where)
    plan, _ = build(spec.recipe, mesh)
    shapes = jax.tree.map(lambda leaf: leaf.shape, plan.abstract)
    current = None
    facts: dict[str, dict[str, Any]] = {}
    programs: dict[str, jax.stages.Compiled] = {}
    for name, changes in (spec.programs or {}).items():
        try:
            other, train_step = build(recipe.changed(spec.recipe, changes), mesh)
            if jax.tree.map(lambda leaf: leaf.shape, other.abstract) != shapes:
                raise ValueError("it has other parameters; change the recipe instead")
            compiled, facts[name] = ours.compile_step(train_step, plan, mesh, batch)
            current = compiled(current or plan.create(), batch)[0]
            jax.block_until_ready(current)
            programs[name] = compiled
            facts[name] |= {
                "peak_bytes_so_far": ours.device_peak(),
                "flash": bool(re.search("fmha|flash", compiled.as_text() or "")),
            }
        # What runs out of memory, or is not there for these shapes.
        except (ValueError, RuntimeError) as error:
            facts[name] = {"failed": f"{type(error).__name__}: {error}"[:1000]}
            current = None  # its memory may be gone: it was given to the step

    def run(steps: int, program: str, trace: str | None = None) -> int | None:
        nonlocal current
        if current is None:
            current = plan.create()
        if trace is not None:
            current = traced(programs[program], current, host, steps, where, trace)
            return ours.device_peak()
        for _ in range(steps):
            current, _ = programs[program](current, batch)
        jax.block_until_ready(current)
        return ours.device_peak()

    return {"programs": facts, "device": jax.devices()[0].device_kind}, run


def build(tree: dict[str, Any], mesh: Mesh) -> tuple[state.Blueprint, step.TrainStep]:
    """Returns the state and the training step of a recipe, as training makes them."""
    config = recipe.sections(tree)
    net = network.build_network(config, config.data.num_classes or 0)
    # The number of steps shapes the learning rate only, which costs nothing.
    adam = training.build_optimizer(config, total_steps=10**9)
    averages = training.build_averages(config)
    train_step = step.make_train_step(
        diffusion.build_objective(config, net),
        adam,
        averages,
        accumulate=config.train.accumulate,
    )
    return state.blueprint(net.init, adam, averages, mesh=mesh), train_step


def count(spec: protocol.Spec) -> dict[str, int]:
    """Returns the operations that a step of the model needs, in two counts.

    flops: of products and convolutions in the traced program.
    compiler_flops: by the compiler, of everything, before it has changed anything;
      only on CPU does it tell.

    Both of the network as it is defined: nothing computed twice to save memory,
    attention spelt out, blocks one after the other, since the compiler counts the body
    of a loop once.
    """
    assert spec.recipe is not None
    model = spec.recipe["model"]
    plain = {"model.remat": "none", "model.attention": "xla"}
    if "scan_unroll" in model:
        plain["model.scan_unroll"] = model.get("trunk_blocks") or max(model["blocks"])
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan, train_step = build(recipe.changed(spec.recipe, plain), mesh)
    batch = jax.eval_shape(lambda: ours.random_batch(spec))
    jitted = jax.jit(train_step)
    analysis = jitted.lower(plan.abstract, batch).cost_analysis() or {}
    return {
        "flops": flops.count(jitted, plan.abstract, batch),
        "compiler_flops": int(analysis.get("flops", 0)),
    }


def traced(
    program: jax.stages.Compiled,
    current: state.TrainState,
    host: Batch,
    steps: int,
    where: jax.sharding.Sharding,
    folder: str,
) -> state.TrainState:
    """Makes steps under the profiler, each with a batch from the host.

    Other than in the steps that are timed, the input is part of it: the next batch is
    on its way while a step is computed, as in training.
    """
    following = jax.device_put(host, where)
    with jax.profiler.trace(folder):
        for _ in range(steps):
            batch, following = following, None
            current, _ = program(current, batch)
            following = jax.device_put(host, where)
        jax.block_until_ready((current, following))
    text = program.as_text()
    (Path(folder) / PROGRAM).write_text(text or "")
    return current


if __name__ == "__main__":
    protocol.serve(prepare)
