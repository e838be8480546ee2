"""Converts published weights of DINOv2.

  python -m simple_diffusion.modes.convert dinov2 \\
    --weights dinov2_vitb14_pretrain.pth --output dinov2_b.npz

PyTorch is not needed. `--weights` is dinov2_vitb14_pretrain.pth or
dinov2_vitl14_pretrain.pth of facebookresearch/dinov2, or model.safetensors of
facebook/dinov2-base or facebook/dinov2-large at Hugging Face; the result is the same.
The size is detected from the file. The weights are subject to the licence of their
publisher, and so is the converted file.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from simple_diffusion.weights import dinov2_layout, weight_files

_TRAINED_GRID = 37  # tokens along each side in training, with 518 pixels

# Our name: the names in the official file and at Hugging Face. Of "a|b|c" the three
# arrays are concatenated.
_NAMES = {
    "cls": ("cls_token", "embeddings.cls_token"),
    "position": ("pos_embed", "embeddings.position_embeddings"),
    "patch.kernel": (
        "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.weight",
    ),
    "patch.bias": (
        "patch_embed.proj.bias",
        "embeddings.patch_embeddings.projection.bias",
    ),
    "norm.scale": ("norm.weight", "layernorm.weight"),
    "norm.bias": ("norm.bias", "layernorm.bias"),
}
_BLOCK_NAMES = {
    "norm1": ("norm1", "norm1"),
    "qkv": ("attn.qkv", "attention.attention.query|key|value"),
    "out": ("attn.proj", "attention.output.dense"),
    "gain1": ("ls1.gamma", "layer_scale1.lambda1"),
    "norm2": ("norm2", "norm2"),
    "fc1": ("mlp.fc1", "mlp.fc1"),
    "fc2": ("mlp.fc2", "mlp.fc2"),
    "gain2": ("ls2.gamma", "layer_scale2.lambda1"),
}
_BLOCKS = ("blocks.", "encoder.layer.")
_REGISTERS = ("register_tokens", "embeddings.register_tokens")


def convert(weights: str, output: str) -> str:
    """Writes the weights in our layout; returns the name of the model.

    Args:
      weights: path of a published file, see above.
      output: path of the .npz file.

    Raises:
      ValueError: for a file of another format, or with arrays missing, of other shapes
        or not finite, naming them.
      OSError: if a file cannot be read or written.
    """
    theirs = _merge_chunks(weight_files.read(weights))
    model, kind = _detect_model(weights, theirs)
    names = _their_names(model, kind)
    expected = {
        name: shape
        for ours, parts in names.items()
        for name, shape in _their_shapes(model, ours, parts).items()
    }
    weight_files.check_arrays(weights, theirs, expected)
    weight_files.check_finite(weights, {name: theirs[name] for name in expected})
    layers = {
        ours: _to_our_layout(ours, np.concatenate([theirs[name] for name in parts]))
        for ours, parts in names.items()
    }
    depth = dinov2_layout.MODELS[model].depth
    arrays = {
        name: np.stack([layers[_block_name(name, k)] for k in range(depth)])
        if name.startswith("blocks.")
        else layers[name]
        for name in dinov2_layout.shapes(model)
    }
    weight_files.write(output, {"model": np.array(model), **arrays})
    return model


def _merge_chunks(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames blocks.C.K, which is block K of the network in chunk C, to blocks.K."""
    return {
        re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", k): arrays[k] for k in arrays
    }


def _detect_model(file: str, arrays: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """Returns the model's name, and the index of the file's names in `_NAMES`."""
    kind = next((k for k in range(2) if _NAMES["cls"][k] in arrays), None)
    if kind is None:
        raise ValueError(
            f"{file} lacks {' or '.join(_NAMES['cls'])}: it is not a DINOv2 model"
        )
    if _REGISTERS[kind] in arrays:
        raise ValueError(
            f"{file} is a model with registers, which has other features; use the "
            "model without them"
        )
    shape = arrays[_NAMES["cls"][kind]].shape
    for model, (width, depth, _) in dinov2_layout.MODELS.items():
        if shape == (1, 1, width):
            excess = f"{_BLOCKS[kind]}{depth}."
            if any(name.startswith(excess) for name in arrays):
                raise ValueError(
                    f"{file} has more than the {depth} blocks of {model} ({excess}*)"
                )
            return model, kind
    known = ", ".join(
        f"{size.width} ({name})" for name, size in dinov2_layout.MODELS.items()
    )
    raise ValueError(
        f"{file}: {_NAMES['cls'][kind]} has shape {shape}; known widths are {known}"
    )


def _block_name(name: str, k: int) -> str:
    return name.replace("blocks.", f"blocks.{k}.", 1)


def _their_names(model: str, kind: int) -> dict[str, list[str]]:
    """Returns the names in the file of the arrays that form each of our arrays."""
    names = {ours: [both[kind]] for ours, both in _NAMES.items()}
    for name in dinov2_layout.shapes(model):
        if not name.startswith("blocks."):
            continue
        _, layer, *role = name.split(".")
        stem, *others = _BLOCK_NAMES[layer][kind].split("|")
        stems = [stem] + [re.sub(r"\w+$", other, stem) for other in others]
        suffix = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}
        ending = suffix[role[0]] if role else ""
        for k in range(dinov2_layout.MODELS[model].depth):
            parts = [f"{_BLOCKS[kind]}{k}.{stem}{ending}" for stem in stems]
            names[_block_name(name, k)] = parts
    return names


def _their_shapes(
    model: str, ours: str, parts: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the PyTorch arrays that form one of ours."""
    width, side = dinov2_layout.MODELS[model].width, dinov2_layout.PATCH
    plain = re.sub(r"^blocks\.\d+\.", "blocks.", ours)
    our_shape = dinov2_layout.shapes(model)[plain]
    match ours:
        case "cls":
            shape = (1, 1, width)
        case "position":
            shape = (1, 1 + _TRAINED_GRID**2, width)
        case "patch.kernel":
            shape = (width, 3, side, side)
        case _ if plain != ours:
            shape = our_shape[:0:-1]  # without the number of blocks; output first
        case _:
            shape = our_shape
    return {name: (shape[0] // len(parts), *shape[1:]) for name in parts}


def _to_our_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Returns a PyTorch array in our layout, in float32."""
    array = np.asarray(array, np.float32)
    if name == "cls":
        array = array[0, 0]
    elif name == "position":
        array = _resize_positions(array[0])
    elif name == "patch.kernel":
        array = array.transpose(2, 3, 1, 0).reshape(-1, len(array))
    elif name.endswith(".kernel"):
        array = array.T
    return np.ascontiguousarray(array, np.float32)


def _resize_positions(table: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m d"]:
    """Returns the position embeddings for our grid; the class token's is the first.

    As in the official network: bicubic, not antialiased, with the scale of a grid that
    is larger by a tenth of a token.
    """
    cls, table = table[:1], table[1:]
    table = table.reshape(_TRAINED_GRID, _TRAINED_GRID, -1).astype(np.float64)
    matrix = _bicubic(
        _TRAINED_GRID, dinov2_layout.GRID, (dinov2_layout.GRID + 0.1) / _TRAINED_GRID
    )
    table = np.einsum("yi,xj,ijd->yxd", matrix, matrix, table, optimize=True)
    return np.concatenate([cls, table.reshape(-1, table.shape[-1])])


def _bicubic(old: int, new: int, scale: float) -> Float[np.ndarray, "new old"]:
    """Returns the weights of PyTorch's interpolate(mode="bicubic") along one axis.

    Keys' filter with a = -3/4; the border value is repeated outside.
    """
    a = -0.75
    at = (np.arange(new) + 0.5) / scale - 0.5
    first = np.floor(at).astype(int) - 1
    matrix, rows = np.zeros((new, old)), np.arange(new)
    for k in range(4):
        x = np.abs(at - (first + k))
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        column = np.clip(first + k, 0, old - 1)
        np.add.at(matrix, (rows, column), np.where(x <= 1, near, far))
    return matrix
