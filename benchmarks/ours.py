"""Our side of the benchmarks: the network, its training step, a matrix product.

Run as a program, it is a worker of `protocol`.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks import flops, protocol
from simple_diffusion.core import arrays
from simple_diffusion.core.types import ApplyFn, Batch, Conditioning
from simple_diffusion.diffusion import loss, schedules, time_distributions, weighting
from simple_diffusion.nets import uvit
from simple_diffusion.nets.conditions import Embedding
from simple_diffusion.nets.layers import Level, Style
from simple_diffusion.training import (
    loop,
    objectives,
    optimizer,
    sharding,
    state,
    step,
)
from simple_diffusion.training.ema import Exponential

STYLES = {
    # The paper's: group norm, skips added.
    "paper": uvit.STYLE,
    # The peer's choices, for as nearly the same arithmetic as our blocks allow.
    "matched": Style(
        conv_norm="rms",
        token_norm="rms",
        qk_norm="rms",
        position="none",
        skip="concat",
    ),
}


def network(spec: protocol.Spec, dtype: str, **style: Any) -> uvit.UViT:
    """Returns the U-ViT with the widths and depths of the peer's.

    The peer's first level has a third residual block on the way up, before its head.

    Args:
      spec: its variant is one of STYLES.
      dtype: of the computation.
      **style: other fields of the style.
    """
    w = spec.width
    return uvit.UViT(
        levels=(
            Level(w, blocks=2, blocks_up=3),
            Level(2 * w, blocks=2),
            Level(4 * w, blocks=spec.depth, kind="transformer", heads=4),
        ),
        embedding=Embedding(channels=4 * w, sinusoid_channels=2 * w),
        training_size=(spec.resolution, spec.resolution),
        style=dataclasses.replace(STYLES[spec.variant], **style),
        dtype=jnp.dtype(dtype),
        scan_unroll=spec.depth,
    )


def apply_fn(net: uvit.UViT) -> ApplyFn:
    """Returns a network as a pure function."""

    def apply(params, z_t, logsnr, cond, dropout_key=None) -> Any:
        # Nothing is dropped: the peer is built with a dropout of zero.
        return net.apply({"params": params}, z_t, logsnr, cond)

    return apply


def initial(net: uvit.UViT, spec: protocol.Spec, key: jax.Array) -> Any:
    """Returns fresh parameters."""
    z_t = jnp.zeros((1, spec.resolution, spec.resolution, 3))
    return net.init(key, z_t, jnp.zeros(1), Conditioning())["params"]


def objective(apply: ApplyFn) -> objectives.DiffusionObjective:
    """Returns the peer's loss: v prediction, cosine schedule, min-SNR weight."""
    schedule = schedules.cosine()
    return objectives.DiffusionObjective(
        apply,
        schedule=schedule,
        time_distribution=time_distributions.uniform(),
        weight=weighting.min_snr,
        loss=loss.mse,
        kind="v",
    )


def random_batch(spec: protocol.Spec, num_classes: int = 1) -> Batch:
    """Returns a batch of uint8 noise."""
    shape = (spec.batch, spec.resolution, spec.resolution, 3)
    rng = np.random.default_rng(0)
    return Batch(
        image=rng.integers(0, 256, shape, np.uint8),
        label=rng.integers(0, num_classes, spec.batch, np.int32),
        box=np.tile(np.array([0, 0, 1, 1], np.float32), (spec.batch, 1)),
        mask=np.ones(spec.batch, bool),
    )


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Compiles what the spec names; see `protocol.serve`."""
    if spec.variant == "matmul":
        return prepare_matmul(spec)
    return prepare_train_step(spec)


def prepare_train_step(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Compiles the training step: loss, gradient, clipping, Adam, one EMA."""
    adam = optimizer.adam(optimizer.learning_rate(1e-4))
    averages = {"main": Exponential(0.999)}

    def train_step_of(net: uvit.UViT) -> step.TrainStep:
        return step.make_train_step(objective(apply_fn(net)), adam, averages)

    net = network(spec, spec.dtype)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan = state.blueprint(
        lambda key: initial(net, spec, key), adam, averages, mesh=mesh
    )
    batch = jax.device_put(random_batch(spec), sharding.batch_sharding(mesh))
    compiled, facts = compile_step(train_step_of(net), plan, mesh, batch)
    # Counted on a network whose attention is spelt out, whatever runs.
    plain = train_step_of(network(spec, spec.dtype, attention="xla"))
    facts["flops"] = flops.count(plain, plan.abstract, batch)
    current = plan.create()

    def run(steps: int) -> int | None:
        nonlocal current
        for _ in range(steps):
            current, _ = compiled(current, batch)
        jax.block_until_ready(current)
        return device_peak()

    return facts, run


def compile_step(
    train_step: Callable[..., Any], plan: state.Blueprint, mesh: Mesh, batch: Any
) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    """Returns the step, compiled as the training loop does, and what it says of itself.

    Args:
      train_step: (state, batch) -> (state, metrics).
      plan: of the state, which the step gives its memory back to.
      mesh: the devices.
      batch: on the devices.
    """
    jitted = loop.jit_step(
        sharding.pin_feature_maps(train_step, mesh), plan.shardings, mesh
    )
    start = time.perf_counter()
    lowered = jitted.lower(plan.abstract, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return compiled, {
        "parameters": arrays.tree_size(plan.abstract.params),
        "xla_flops": int((compiled.cost_analysis() or {}).get("flops", 0)),
        "trace_seconds": traced - start,
        "compile_seconds": time.perf_counter() - traced,
        "xla_bytes": _memory(compiled),
        "version": f"jax {jax.__version__}",
        "device": jax.devices()[0].device_kind,
    }


def prepare_matmul(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Compiles a square matrix product, what the machine can do at best."""
    n = spec.matmul
    # Of random numbers, whose bits cost the power that real ones do; scaled, so that a
    # chain of products, each of which waits for the one before, stays finite.
    a = jax.random.normal(jax.random.key(0), (n, n)) / n**0.5
    a = product = a.astype(spec.dtype)
    compiled = jax.jit(jnp.matmul).lower(a, a).compile()

    def run(steps: int) -> int | None:
        nonlocal product
        for _ in range(steps):
            product = compiled(a, product)
        jax.block_until_ready(product)
        return device_peak()

    return {
        "flops": flops.count(jnp.matmul, a, a),
        "version": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }, run


def _memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns what XLA says about the memory of a program, in bytes."""
    analysis: Any = compiled.memory_analysis()
    names = ("argument", "output", "alias", "temp", "generated_code")
    return {name: getattr(analysis, f"{name}_size_in_bytes", 0) for name in names}


def device_peak() -> int | None:
    """Returns the most bytes of the accelerator that this process had, None on CPU."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")


if __name__ == "__main__":
    protocol.serve(prepare)
