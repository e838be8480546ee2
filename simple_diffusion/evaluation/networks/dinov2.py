"""DINOv2 as a feature network: a vision transformer's summary of an image.

Of an image of 224 x 224 pixels each square of 14 is a token, and one more stands for
the whole; what the last norm leaves of that one are the features. Distances on them
agree better with what people prefer than those of Inception (arXiv:2306.04675). ViT-B
has 768 of them, ViT-L 1024, and values of one do not compare with values of the other.

The weights are public, but no part of this library: `load` reads them from a file that
`python -m simple_diffusion.modes.convert dinov2` makes from the published ones.
`dinov2_layout.shapes` lists its arrays; `model` is the name of the network.

Source: Oquab et al., DINOv2 (arXiv:2304.07193); images as EDM2 (arXiv:2312.02696)
prepares them.
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
# Of ImageNet, in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_EPSILON = 1e-6
_HOW = "python -m simple_diffusion.modes.convert dinov2"


def load(path: str | Path, resize: str = "torch_bicubic") -> FeatureNetwork:
    """Returns DINOv2 with the weights of one local file, named after its size.

    Args:
      path: a file that `convert_dinov2` wrote.
      resize: the rule by which images come to 224 x 224, one of `resizing.RULES`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a file of another kind, or with arrays missing or of other shapes,
        naming them; for another rule.
    """
    path = Path(path).expanduser()
    if resize not in resizing.RULES:
        known = ", ".join(resizing.RULES)
        raise ValueError(f"no rule {resize!r} to resize by: known are {known}")
    arrays = weight_files.load(path, "weights of DINOv2", _HOW)
    model = str(arrays.get("model"))
    if model not in MODELS:
        raise ValueError(f"{path} holds no weights of DINOv2: they are made by {_HOW}")
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
    whole = jnp.broadcast_to(params["cls"][None, None], (b, 1, x.shape[-1]))
    x = jnp.concatenate([whole, x], 1) + params["position"][None]
    own = "blocks."
    blocks = {k.removeprefix(own): v for k, v in params.items() if k.startswith(own)}

    def step(x: Array, block: Params) -> tuple[Array, None]:
        return _block(block, x, heads), None

    x, _ = lax.scan(step, x, blocks)
    return Outputs(_norm(params, "norm", x[:, 0]))


def _block(block: Params, x: Float[Array, "b n d"], heads: int) -> Array:
    """Returns the tokens after attention and MLP, each scaled by its learned gain."""
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
