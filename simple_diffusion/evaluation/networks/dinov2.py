"""DINOv2 as a feature network: a vision transformer with a class token.

An image of 224 x 224 pixels is split into patches of 14 x 14 pixels, one token each.
The features are the class token after the last layer norm. Distances on them agree
better with human judgement than those on Inception's features (arXiv:2306.04675). ViT-B
has 768 features, ViT-L 1024; values of the two cannot be compared.

The weights are public, but not part of this library. `load` reads a file that
`python -m simple_diffusion.modes.convert dinov2` makes from the published weights.
`dinov2_layout.shapes` lists its arrays; `model` is the name of the network.

Source: Oquab et al., DINOv2 (arXiv:2304.07193); preprocessing as in EDM2
(arXiv:2312.02696).
"""

import functools
import hashlib
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from simple_diffusion.core.types import Params
from simple_diffusion.evaluation.networks import resizing
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork, Outputs
from simple_diffusion.weights import dinov2_layout, weight_files
from simple_diffusion.weights.dinov2_layout import GRID, MODELS, PATCH

SIDE = GRID * PATCH
# Mean and standard deviation of ImageNet's colours in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_EPSILON = 1e-6
_COMMAND = "python -m simple_diffusion.modes.convert dinov2"


def load(path: str | Path, resize: str = "torch_bicubic") -> FeatureNetwork:
    """Returns DINOv2 with the weights of one local file, named after its size.

    Args:
      path: a file that `convert_dinov2` wrote.
      resize: the rule that resizes images to 224 x 224, one of `resizing.RULES`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a file of another kind, or with arrays missing or of other shapes,
        naming them; for another rule.
    """
    path = Path(path).expanduser()
    if resize not in resizing.RULES:
        known = ", ".join(resizing.RULES)
        raise ValueError(f"no rule {resize!r} to resize by: known are {known}")
    arrays = weight_files.load(path, "weights of DINOv2", _COMMAND)
    model = str(arrays.get("model"))
    if model not in MODELS:
        raise ValueError(
            f"{path} holds no weights of DINOv2; make them with {_COMMAND}"
        )
    expected = dinov2_layout.shapes(model)
    weight_files.check_arrays(str(path), arrays, expected)
    params = {name: np.asarray(arrays[name], np.float32) for name in expected}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    apply = functools.partial(_apply, MODELS[model].heads, resize)
    return FeatureNetwork(model, digest, resize, params, apply)


def _apply(
    heads: int, rule: str, params: Params, images: UInt8[Array, "b h w c"]
) -> Outputs:
    x = resizing.resize(images, (SIDE, SIDE), rule) / 255
    x = (x - jnp.asarray([[[_MEAN]]])) / jnp.asarray([[[_DEVIATION]]])
    b = len(x)
    x = x.reshape(b, GRID, PATCH, GRID, PATCH, 3).swapaxes(2, 3)
    x = _dense(params, "patch", x.reshape(b, GRID * GRID, PATCH * PATCH * 3))
    cls = jnp.broadcast_to(params["cls"][None, None], (b, 1, x.shape[-1]))
    x = jnp.concatenate([cls, x], 1) + params["position"][None]
    prefix = "blocks."
    blocks = {
        k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)
    }

    def step(x: Array, block: Params) -> tuple[Array, None]:
        return _block(block, x, heads), None

    x, _ = lax.scan(step, x, blocks)
    return Outputs(_norm(params, "norm", x[:, 0]))


def _block(block: Params, x: Float[Array, "b n d"], heads: int) -> Array:
    """Applies attention and MLP, each scaled by a learned gain."""
    h = _attention(block, _norm(block, "norm1", x), heads)
    x = x + h * block["gain1"][None, None]
    h = _dense(block, "fc1", _norm(block, "norm2", x))
    h = _dense(block, "fc2", jax.nn.gelu(h, approximate=False))
    return x + h * block["gain2"][None, None]


def _attention(block: Params, x: Float[Array, "b n d"], heads: int) -> Array:
    b, n, d = x.shape
    qkv = _dense(block, "qkv", x).reshape(b, n, 3, heads, d // heads)
    q, k, v = (qkv[:, :, i] for i in range(3))
    logits = jnp.einsum("bnhf,bmhf->bhnm", q, k, precision="highest")
    weights = jax.nn.softmax(logits / math.sqrt(d // heads), axis=-1)
    mixed = jnp.einsum("bhnm,bmhf->bnhf", weights, v, precision="highest")
    return _dense(block, "out", mixed.reshape(b, n, d))


def _dense(params: Params, name: str, x: Float[Array, "b n d"]) -> Array:
    y = jnp.dot(x, params[f"{name}.kernel"], precision="highest")
    return y + params[f"{name}.bias"][None, None]


def _norm(params: Params, name: str, x: Float[Array, "b *n d"]) -> Array:
    x = x - x.mean(-1, keepdims=True)
    x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + _EPSILON)
    scale, bias = params[f"{name}.scale"], params[f"{name}.bias"]
    ones = (1,) * (x.ndim - 1)
    return x * scale.reshape(*ones, -1) + bias.reshape(*ones, -1)
