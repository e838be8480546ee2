"""The work of a training step of a recipe: operations, state, saved activations.

Everything is counted in the traced program; nothing is computed or allocated.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh

from benchmarks import accelerator_ours, flops, ours, protocol, recipe
from benchmarks.step_time import Mesh
from simple_diffusion.build import diffusion, network
from simple_diffusion.nets import patching
from simple_diffusion.training import sharding, state

POLICIES = ("none", "dots", "dots_no_batch", "full")


class Blocks(NamedTuple):
    """Equal transformer blocks: width, tokens of an image, heads, number."""

    width: int
    tokens: int
    heads: int
    count: int

    @property
    def operations(self) -> int:
        """Of the products of one image, forward and backward, nothing recomputed.

        The maps of queries, keys, values and output are 4 C² a token, the MLP's 8 C²,
        attention itself 2 n C; two operations each, once forward, twice backward.
        """
        c, n = self.width, self.tokens
        return 3 * 2 * n * (12 * c * c + 2 * n * c) * self.count


class Kept(NamedTuple):
    """Bytes that the forward pass leaves for the backward pass.

    per_image: they grow with the batch.
    weights: those that do not, beyond the parameters: their copies in another dtype.
    """

    per_image: int
    weights: int


def with_policy(tree: dict[str, Any], policy: str) -> dict[str, Any]:
    """Returns a recipe with a remat policy, and attention spelt out."""
    return recipe.changed(tree, {"model.remat": policy, "model.attention": "xla"})


def abstract_state(tree: dict[str, Any]) -> state.TrainState:
    """Returns the shapes of the state."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return accelerator_ours.build(tree, mesh)[0].abstract


def state_bytes(abstract: state.TrainState, mesh: Mesh) -> int:
    """Returns the bytes of the state on one device, by the rules of `sharding`."""
    sizes = (mesh.data, mesh.fsdp, mesh.tensor)
    placed = sharding.state_shardings(abstract, AbstractMesh(sizes, sharding.AXES))  # pyright: ignore[reportArgumentType] (only its shape is read)
    return sum(
        math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, where in zip(
            jax.tree.leaves(abstract), jax.tree.leaves(placed), strict=True
        )
    )


def operations(tree: dict[str, Any]) -> int:
    """Returns the products and convolutions of a step with one image.

    What the recipe's remat policy computes again is counted again.
    """
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    plan, train_step = accelerator_ours.build(tree, mesh)
    return flops.count(train_step, plan.abstract, _batch(tree, 1))


def kept(tree: dict[str, Any]) -> Kept:
    """Returns what the gradient of a recipe's loss keeps, by its remat policy.

    It is what automatic differentiation hands from the forward to the backward pass. A
    compiler may keep less: it computes again what is cheap.
    """
    one, two = (_kept_bytes(tree, images) for images in (1, 2))
    return Kept(per_image=two - one, weights=2 * one - two)


def working(tree: dict[str, Any]) -> int:
    """Returns the bytes of an image within one block, the largest.

    They are needed while the backward pass of a block goes through it, whatever the
    policy. Of the convolutional blocks the first level's are the largest.
    """
    plain = with_policy(tree, "none")
    found = []
    for grown in _grown(plain):
        small, large = (_kept_bytes(t, 2) - _kept_bytes(t, 1) for t in grown)
        found.append(large - small)
    return max(found)


def transformer(tree: dict[str, Any]) -> tuple[Blocks, ...]:
    """Returns the transformer blocks of a network, level by level."""
    m = tree["model"]
    finest = tree["data"]["resolution"] // patching.parse(m["patching"]).factor
    if m["name"] == "uvit":
        side = finest // 2 ** len(m["channels"])
        blocks = Blocks(m["trunk_channels"], side**2, m["trunk_heads"], 1)
        return (blocks._replace(count=m["trunk_blocks"]),)
    if m["name"] == "unet":
        return ()
    found = []
    for k, kind in enumerate(m["kinds"]):
        # Up as many as down, but for the lowest level, which has no way up.
        ways = 1 if k + 1 == len(m["kinds"]) else 2
        count = ways * m["blocks"][k] + (ways - 1) * m["extra_up_blocks"]
        row = Blocks(m["channels"][k], (finest // 2**k) ** 2, m["heads"][k], count)
        found += [row] if kind == "transformer" else []
    return tuple(found)


def _batch(tree: dict[str, Any], images: int) -> Any:
    spec = protocol.Spec("", resolution=tree["data"]["resolution"], batch=images)
    return ours.random_batch(spec)


def _kept_bytes(tree: dict[str, Any], images: int) -> int:
    config = recipe.sections(tree)
    net = network.build_network(config, config.data.num_classes or 0)
    objective = diffusion.build_objective(config, net)

    def backward(params: Any, batch: Any) -> Callable[..., Any]:
        draw = objective.draw(jax.random.key(0), batch)
        return jax.vjp(lambda p: objective(p, batch, draw)[0].sum(), params)[1]

    params = jax.eval_shape(net.init, jax.random.key(0))
    leaves = jax.tree.leaves(jax.eval_shape(backward, params, _batch(tree, images)))
    own = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params)}
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in leaves
        # The parameters themselves are there anyway.
        if (leaf.shape, leaf.dtype) not in own
    )


def _grown(tree: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns pairs of shallow networks, the second with one block more each."""
    m = tree["model"]
    ones = [1] * len(m["blocks"])
    base: dict[str, Any] = {"model.blocks": ones}
    more: list[dict[str, Any]] = [{"model.blocks": [2, *ones[1:]]}]
    if m["name"] == "uvit":
        base["model.trunk_blocks"] = 1
        more.append({"model.trunk_blocks": 2})
    elif m["name"] == "residual_uvit":
        more.append({"model.blocks": [*ones[:-1], 2]})
    small = recipe.changed(tree, base)
    return [(small, recipe.changed(small, change)) for change in more]
