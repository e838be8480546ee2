"""One small network of each kind, and parameters in which nothing is at rest."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simple_diffusion.core.types import Conditioning
from simple_diffusion.nets.conditions import Embedding
from simple_diffusion.nets.layers import Level
from simple_diffusion.nets.residual_uvit import ResidualUViT
from simple_diffusion.nets.unet import UNet
from simple_diffusion.nets.uvit import UViT

SIZE, BATCH, CLASSES = 8, 8, 3

EMBEDDING = Embedding(channels=16, sinusoid_channels=8, num_classes=CLASSES)


def trunk(channels: int, blocks: int, **fields: Any) -> Level:
    return Level(channels, blocks, kind="transformer", heads=2, **fields)


NETWORKS = {
    "unet": UNet(
        (Level(8, 1), Level(16, 1, attention=True, heads=2, dropout=0.5)), EMBEDDING
    ),
    "uvit": UViT(
        (Level(8, 1), trunk(16, 2, dropout=0.5)), EMBEDDING, (SIZE, SIZE), scan_unroll=2
    ),
    "residual_uvit": ResidualUViT(
        (Level(8, 1, blocks_up=2), trunk(16, 1), trunk(16, 2, dropout=0.5)),
        EMBEDDING,
        (SIZE, SIZE),
        scan_unroll=2,
    ),
}


def inputs(
    batch: int = BATCH, size: int = SIZE
) -> tuple[jax.Array, jax.Array, Conditioning]:
    """Returns z_t, logsnr and labels, all different within the batch."""
    z_t = np.random.default_rng(1).normal(size=(batch, size, size, 3))
    logsnr = np.linspace(-8, 7, batch)
    label = np.arange(batch) % (CLASSES + 1)
    return (
        jnp.asarray(z_t, jnp.float32),
        jnp.asarray(logsnr, jnp.float32),
        Conditioning(label=jnp.asarray(label)),
    )


def shapes(module: Any, *args: Any) -> Any:
    """Returns the parameters as shapes, without making them."""
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
    return variables.get("params", {})


def lively(module: Any, *args: Any) -> Any:
    """Returns parameters of the right scale, none zero, where a fresh net has zeros."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        noise = rng.normal(size=leaf.shape)
        if name == "scale":
            value = 1 + 0.2 * noise
        elif name == "kernel":
            value = noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            value = 0.3 * noise
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(module, *args))


def host(params: Any) -> Any:
    """Returns the parameters as numpy arrays, to compute with by hand."""
    return jax.tree.map(np.asarray, params)


@functools.cache
def network(name: str) -> tuple[Any, Any, Any]:
    """Returns a network, lively parameters, and its apply(params, *inputs), jitted."""
    net = NETWORKS[name]
    apply = jax.jit(lambda params, *args: net.apply({"params": params}, *args))
    return net, lively(net, *inputs()), apply


@functools.cache
def fresh(name: str) -> Any:
    """Returns the parameters that the network starts from."""
    net = NETWORKS[name]
    key = jax.random.key(3, impl="unsafe_rbg")  # compiles in half the time
    return jax.jit(lambda: net.init(key, *inputs())["params"])()
