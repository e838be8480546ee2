"""A real network, trained on meshes of every kind, and what its devices then exchange.

What is compiled is checked in the text of the program, after partitioning: shapes in it
are those of one device.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core.types import Batch, Condition, Conditioning
from simple_diffusion.diffusion import loss, schedules, time_distributions, weighting
from simple_diffusion.nets.conditions import Embedding
from simple_diffusion.nets.layers import Level
from simple_diffusion.nets.uvit import UViT
from simple_diffusion.training import (
    ema,
    objectives,
    optimizer,
    sharding,
    state,
    step,
)
from tests.nets import small

pytestmark = pytest.mark.slow

# Neither batch nor depth is a width of the network: they can be told from all else.
SIZE, BATCH, CLASSES, DEPTH = 16, 24, 3, 5
TOKENS = [BATCH * SIZE**2, BATCH * (SIZE // 2) ** 2]  # of both levels, in all images
NET = UViT(
    (
        Level(8, 1),
        Level(32, DEPTH, kind="transformer", heads=4, dropout=0.5),
    ),
    Embedding(channels=16, sinusoid_channels=8, num_classes=CLASSES),
    (SIZE, SIZE),
)
AVERAGES = {"main": ema.Exponential(0.9)}
# An eps well above the rounding of gradients: Adam would otherwise turn the rounding of
# a gradient that is zero in theory, such as that of the keys' bias, into whole steps.
ADAM = optimizer.adam(optimizer.learning_rate(1e-2), eps=1e-3)
EVERY = sharding.default_rules(min_size=0)  # even the smallest array is split


def apply(params, z_t, logsnr, cond, dropout_key=None):
    train = dropout_key is not None
    rngs = {"dropout": dropout_key} if train else None
    return NET.apply({"params": params}, z_t, logsnr, cond, train, rngs=rngs)


def init(key):
    z_t = jnp.zeros((1, SIZE, SIZE, 3))
    cond = Conditioning(label=jnp.zeros(1, jnp.int32))
    return small.lively(NET, z_t, jnp.zeros(1), cond)


OBJECTIVE = objectives.DiffusionObjective(
    apply,
    schedule=schedules.cosine(),
    time_distribution=time_distributions.stratified(),
    weight=weighting.min_snr,
    loss=loss.mse,
    conditions=(
        Condition("box", lambda batch: jnp.asarray(batch.box)),
        Condition(
            "label",
            lambda batch: jnp.asarray(batch.label),
            null=lambda label: jnp.full_like(label, CLASSES),
            drop=0.1,
        ),
    ),
)


def batch(number):
    """Returns the arrays of a batch of smooth images of different sizes and places."""
    random = np.random.default_rng(number)
    corners = random.integers(0, 256, (BATCH, 2, 2, 3))
    image = corners.repeat(SIZE // 2, 1).repeat(SIZE // 2, 2).astype(np.uint8)
    label = random.integers(0, CLASSES, BATCH).astype(np.int32)
    box = np.tile(np.array([0, 0, 1, 1], np.float32), (BATCH, 1))
    return image, label, box, np.arange(BATCH) < BATCH - 2


def jit_step(mesh, split_rows=False, rules=EVERY, pin=True):
    """Returns the jitted step and the plan of its state.

    It takes a batch as bare arrays: the checked class does not hold what lowering puts
    into it.
    """
    plan = state.blueprint(init, ADAM, AVERAGES, mesh=mesh, rules=rules)
    train_step = step.make_train_step(OBJECTIVE, ADAM, AVERAGES)

    def run(current, arrays):
        return train_step(current, Batch(*arrays))

    jitted = jax.jit(
        sharding.pin_feature_maps(run, mesh, split_rows) if pin else run,
        in_shardings=(plan.shardings, None),
        out_shardings=(plan.shardings, sharding.replicated_sharding(mesh)),
        donate_argnums=0,
    )
    return jitted, plan


def placed(mesh, number, split_rows=False):
    place = sharding.batch_shardings(mesh, split_rows)
    return tuple(jax.device_put(v, place(v.ndim)) for v in batch(number))


def train(mesh, split_rows=False, steps=3):
    """Returns losses and parameters."""
    jitted, plan = jit_step(mesh, split_rows)
    current, losses = plan.create(), []
    with jax.debug_nans(False):  # NaN checks would switch donation off
        for k in range(steps):
            current, metrics = jitted(current, placed(mesh, k, split_rows))
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get((current.params, current.ema["main"]))


@functools.cache
def on_one_device():
    return train(sharding.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ("axes", "split_rows"),
    [
        ((8, 1, 1), False),
        ((1, 8, 1), False),
        ((1, 1, 8), False),  # four heads on eight devices
        ((2, 2, 2), True),
        ((1, 1, 8), True),
    ],
)
def test_every_mesh_trains_to_the_losses_and_parameters_of_one_device(axes, split_rows):
    losses, trees = train(sharding.make_mesh(*axes), split_rows)
    want, expected = on_one_device()
    # float32 sums in another order: 1e-6 of a gradient of norm 1, which Adam divides by
    # no less than its eps of 1e-3 and multiplies by 1e-2, in each of three steps. In
    # them parameters move by up to 3e-2.
    np.testing.assert_allclose(losses, want, rtol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), trees, expected
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), trees[0], init(None))
    assert np.median(jax.tree.leaves(moved)) > 1e-2


@functools.cache
def compiled(axes, split_rows=False, rules=EVERY, pin=True):
    mesh = sharding.make_mesh(*axes)
    jitted, plan = jit_step(mesh, split_rows, rules, pin)
    return jitted.lower(plan.abstract, placed(mesh, 0, split_rows)).compile(), plan


def instructions(program):
    """Yields (name, shapes of the result, operation, names of what follows) of each."""
    pattern = r"^\s*(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$"
    for line in program.splitlines():
        if found := re.match(pattern, line):
            name, result, operation, rest = found.groups()
            dims = re.findall(r"[a-z]\w*\[([\d,]*)\]", result)
            shapes = [tuple(int(n) for n in d.split(",") if n) for d in dims]
            # Operands end where attributes begin, which name other computations.
            operands = re.findall(r"%([\w.-]+)", re.split(r"\), \w+=", rest)[0])
            yield name, shapes, operation.removesuffix("-start"), operands


COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
}


def exchanged(program, *operations):
    """Returns the shapes of all that devices exchange in these ways."""
    wanted = operations or COLLECTIVES
    return {
        s for _, shapes, op, _ in instructions(program) if op in wanted for s in shapes
    }


def of_whole_batch(shape):
    """Whether these can be feature maps of all examples (a vector of each is small)."""
    return bool(set(shape) & set(TOKENS)) or (len(shape) > 3 and shape[0] == BATCH)


def test_with_fsdp_kernels_travel_and_examples_stay():
    program = compiled((1, 8, 1))[0].as_text()
    assert not [s for s in exchanged(program) if of_whole_batch(s)]
    # Not so by itself: this is what pinning is for.
    unpinned = compiled((1, 8, 1), pin=False)[0].as_text()
    assert [s for s in exchanged(unpinned) if of_whole_batch(s)]


def test_heads_and_widths_are_worked_on_where_they_are():
    """Nothing is put together on a device, neither kernels nor heads."""
    program = compiled((2, 1, 4))[0].as_text()
    assert not exchanged(program, "all-gather")
    assert exchanged(program, "all-reduce")


def test_blocks_are_gathered_one_at_a_time():
    executable, plan = compiled((1, 8, 1))
    gathered = exchanged(executable.as_text(), "all-gather")
    kernel = plan.abstract.params["trunk"]["blocks"]["mlp"]["dense_1"]["kernel"]
    assert kernel.shape in {(DEPTH, *s) for s in gathered}
    assert not [s for s in gathered if s and s[0] == DEPTH and len(s) > 2]


def travelling_state(axes, rules=EVERY):
    """Returns what devices exchange that was made of moments or averages."""
    executable, plan = compiled(axes, rules=rules)
    leaves = jax.tree_util.tree_leaves_with_path(plan.abstract)
    names = [sharding.path_name(path) for path, _ in leaves]
    program = executable.as_text()
    entry = program[program.index("\nENTRY") :]
    made, found = set(), []
    for name, shapes, operation, operands in instructions(entry):
        if operation == "parameter":
            number = int(re.search(rf"%{name} = .* parameter\((\d+)\)", entry)[1])
            if number < len(names) and re.match("ema|opt_state", names[number]):
                made.add(name)
        elif made & set(operands) and any(shapes):  # but for norms, which are numbers
            made.add(name)
            found += [(operation, shapes)] if operation in COLLECTIVES else []
    return found


@pytest.mark.parametrize("axes", [(1, 8, 1), (2, 2, 2)])
def test_moments_and_averages_are_updated_where_they_are(axes):
    assert travelling_state(axes) == []
    executable, plan = compiled(axes)
    for want, got, leaf in zip(
        jax.tree.leaves(plan.shardings),
        jax.tree.leaves(executable.output_shardings[0]),
        jax.tree.leaves(plan.abstract),
        strict=True,
    ):
        assert want.is_equivalent_to(got, leaf.ndim)


def test_an_average_that_every_device_holds_whole_would_be_noticed():
    rules = (("^ema/", sharding.replicate), *EVERY)
    assert "all-gather" in {op for op, _ in travelling_state((1, 8, 1), rules)}


def test_tensor_parallelism_needs_no_whole_kernel_of_an_mlp():
    program = compiled((4, 1, 2))[0].as_text()
    assert not exchanged(program, "all-gather") & {(32, 128), (128, 32)}
    products = {s for _, ss, op, _ in instructions(program) if op == "dot" for s in ss}
    tokens = TOKENS[1] // 4
    assert (tokens, 64) in products and (tokens, 128) not in products


def heights(program):
    """Returns the heights of all results of convolutions that are feature maps."""
    return {
        shape[1]
        for _, shapes, operation, _ in instructions(program)
        if operation == "convolution"
        for shape in shapes
        if shape[2] == SIZE
    }


def test_split_rows_split_the_convolutions_and_their_memory():
    whole, split = (compiled((1, 1, 8), rows)[0] for rows in (False, True))
    assert heights(whole.as_text()) == {SIZE}
    assert heights(split.as_text()) == {SIZE // 8}
    # Not an eighth: each row attends to all others, whose keys and values are gathered.
    memory = [p.memory_analysis().temp_size_in_bytes for p in (whole, split)]
    assert memory[1] < memory[0] / 2
    edges = exchanged(split.as_text(), "collective-permute")
    assert (BATCH, 1, SIZE, 8) in edges  # a row from the neighbour, for a 3x3 kernel
