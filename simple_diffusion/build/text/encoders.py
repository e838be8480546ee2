"""Frozen text encoders: published weights with their tokenizer.

Shapes: b captions, n tokens, d features.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Bool, Float, Int

from simple_diffusion.core.types import Params
from simple_diffusion.data.text import clip as clip_tokenizer
from simple_diffusion.data.text import t5 as t5_tokenizer
from simple_diffusion.data.text.tokenizer import Tokenizer
from simple_diffusion.nets.text import clip, t5
from simple_diffusion.weights.hugging_face import folder as hf_folder
from simple_diffusion.weights.hugging_face import name_map, text_encoders

_T5_LENGTH = 128  # tokens; T5 itself has no limit
_CLIP_EPSILON = 1e-5
_CLIP_ACTIVATIONS: dict[str, clip.Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu_exact",
}

Layer = Literal["last", "penultimate"]


class TextEncoder(NamedTuple):
    """A frozen text encoder with its tokenizer.

    Fields:
      apply: (params, ids [b, n], mask [b, n]) -> features [b, n, d].
      params: on the device.
      width: d.
      max_length: n, for `tokenizer.encode`.
      tokenizer: makes ids and mask of captions. Its mask also says to which features
        a denoiser attends.
    """

    apply: Callable[[Params, Array, Array], Array]
    params: Params
    width: int
    max_length: int
    tokenizer: Tokenizer


def load_text_encoder(
    path: str | Path,
    *,
    dtype: str = "float32",
    max_length: int | None = None,
    layer: Layer = "last",
    variant: str | None = None,
) -> TextEncoder:
    """Returns T5 v1.1's encoder or CLIP's text model from a folder of Hugging Face.

    Args:
      path: a local folder with config.json, model.safetensors or shards with an index,
        and the tokenizer; or one of Stable Diffusion, with text_encoder and tokenizer.
      dtype: of parameters and computation, "float32" or "bfloat16".
      max_length: number of tokens of a caption, the special ones included; None: 77 of
        CLIP, which are also the most, and 128 of T5.
      layer: of CLIP, "last" with the final norm, or "penultimate" without a norm.
      variant: of the file of weights, such as "fp16".

    Raises:
      FileNotFoundError: if a file is missing, naming it.
      ValueError: for another network, or tensors that are missing, unexpected or of
        another shape, listing them.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} must be float32 or bfloat16")
    path = find_folder(path)
    config = hf_folder.read_config(path)
    match config.get("model_type"):
        case "t5" if layer == "last":
            return _load_t5(path, config, dtype, max_length or _T5_LENGTH, variant)
        case "t5":
            raise ValueError(
                f"layer={layer!r} is one of CLIP; T5 has only the last one"
            )
        case "clip_text_model":
            return _load_clip(path, config, dtype, max_length, layer, variant)
    raise ValueError(
        f"{path / hf_folder.CONFIG} has model_type={config.get('model_type')!r}; known "
        "are t5 (T5EncoderModel or all of T5) and clip_text_model (CLIPTextModel)"
    )


def _load_t5(
    path: Path, config: Mapping[str, Any], dtype: str, length: int, variant: str | None
) -> TextEncoder:
    size = _t5_size(path, config)
    tokenizer = t5_tokenizer.read_tokenizer(find_tokenizer(path))
    _check_vocabulary(path, tokenizer, size.vocabulary)
    net = t5.T5Encoder(size, jnp.dtype(dtype))
    params = _fill(
        net,
        hf_folder.open_tensors(path, variant=variant),
        text_encoders.t5_places(size.depth),
        text_encoders.T5_IGNORED,
        dtype,
    )
    return TextEncoder(partial(_apply_t5, net), params, size.width, length, tokenizer)


def _load_clip(
    path: Path,
    config: Mapping[str, Any],
    dtype: str,
    max_length: int | None,
    layer: Layer,
    variant: str | None,
) -> TextEncoder:
    size = _clip_size(path, config)
    length = max_length or size.length
    if length > size.length:
        raise ValueError(
            f"max_length={length} must be at most {size.length} for {path}"
        )
    tokenizer = clip_tokenizer.read_tokenizer(find_tokenizer(path))
    _check_vocabulary(path, tokenizer, size.vocabulary)
    # Not eos_token_id of the config, which in published files is a wrong 2.
    assert tokenizer.end_id is not None
    net = clip.ClipText(size, tokenizer.end_id, jnp.dtype(dtype))
    tensors = hf_folder.open_tensors(path, variant=variant)
    places = text_encoders.clip_places(size.depth, tensors.shapes)
    params = _fill(net, tensors, places, text_encoders.CLIP_IGNORED, dtype)
    return TextEncoder(
        partial(_apply_clip, net, layer), params, size.width, length, tokenizer
    )


def _t5_size(path: Path, config: Mapping[str, Any]) -> t5.Size:
    kind = config.get("feed_forward_proj")
    if kind != "gated-gelu":
        raise ValueError(
            f"{path} has feed_forward_proj={kind!r}: it is not T5 v1.1, whose MLP is "
            "gated-gelu"
        )
    get = partial(_required, path, config)
    return t5.Size(
        width=get("d_model"),
        depth=get("num_layers"),
        heads=get("num_heads"),
        mlp=get("d_ff"),
        head=get("d_kv"),
        vocabulary=get("vocab_size"),
        buckets=config.get("relative_attention_num_buckets", 32),
        max_distance=config.get("relative_attention_max_distance", 128),
        epsilon=config.get("layer_norm_epsilon", 1e-6),
    )


def _clip_size(path: Path, config: Mapping[str, Any]) -> clip.Size:
    get = partial(_required, path, config)
    activation, epsilon = get("hidden_act"), config.get("layer_norm_eps", _CLIP_EPSILON)
    if activation not in _CLIP_ACTIVATIONS:
        known = ", ".join(_CLIP_ACTIVATIONS)
        raise ValueError(f"{path} has hidden_act={activation!r}; known are {known}")
    if epsilon != _CLIP_EPSILON:
        raise ValueError(f"{path} has layer_norm_eps={epsilon}, not {_CLIP_EPSILON}")
    return clip.Size(
        width=get("hidden_size"),
        depth=get("num_hidden_layers"),
        heads=get("num_attention_heads"),
        mlp=get("intermediate_size"),
        activation=_CLIP_ACTIVATIONS[activation],
        vocabulary=get("vocab_size"),
        length=get("max_position_embeddings"),
    )


def _required(path: Path, config: Mapping[str, Any], key: str) -> Any:
    if key not in config:
        raise ValueError(f"{path / hf_folder.CONFIG} lacks {key}")
    return config[key]


def find_folder(path: str | Path) -> Path:
    """Returns the folder of the network: a folder, or text_encoder/ in it."""
    path = Path(path).expanduser()
    return path / "text_encoder" if (path / "text_encoder").is_dir() else path


def find_tokenizer(path: Path) -> Path:
    """Returns the folder beside text_encoder/ that has the tokenizer, or the same."""
    beside = path.parent / path.name.replace("text_encoder", "tokenizer")
    return beside if path.name.startswith("text_encoder") and beside.is_dir() else path


def _check_vocabulary(path: Path, tokenizer: Tokenizer, rows: int) -> None:
    if tokenizer.vocabulary_size > rows:
        raise ValueError(
            f"{path}: the tokenizer has {tokenizer.vocabulary_size} tokens and the "
            f"network {rows}: they do not belong together"
        )


def _fill(
    net: t5.T5Encoder | clip.ClipText,
    tensors: hf_folder.Tensors,
    places: Mapping[str, name_map.Place],
    ignored: str,
    dtype: str,
) -> Params:
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    tree = jax.eval_shape(net.init, jax.random.key(0), ids)["params"]
    arrays = name_map.fill(tree, tensors, places, ignored, jnp.dtype(dtype))
    on_host, on_device = traverse_util.flatten_dict(arrays), {}
    del arrays  # each array is freed when it is on the device
    while on_host:
        path, array = on_host.popitem()
        on_device[path] = jnp.asarray(array)
    return traverse_util.unflatten_dict(on_device)


def _apply_t5(
    net: t5.T5Encoder, params: Params, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]
) -> Float[Array, "b n d"]:
    with _precision(net.dtype):
        found = net.apply({"params": params}, ids, mask)
    assert isinstance(found, jax.Array)
    return found


def _apply_clip(
    net: clip.ClipText,
    layer: Layer,
    params: Params,
    ids: Int[Array, "b n"],
    mask: Bool[Array, "b n"],
) -> Float[Array, "b n d"]:
    del mask  # the published networks see padding
    with _precision(net.dtype):
        found = net.apply({"params": params}, ids)
    assert isinstance(found, clip.Features)
    return getattr(found, layer)


def _precision(dtype: Any) -> Any:
    # On accelerators products of float32 are rounded by default, which shifts the
    # features by 1e-3 from those that denoisers were trained with.
    return jax.default_matmul_precision(
        "highest" if dtype == jnp.float32 else "default"
    )
