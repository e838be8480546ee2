"""Names of the tensors of T5's encoder and of CLIP's text transformer.

Ours are those of `nets/text/t5.py` and `nets/text/clip.py`.
"""

from collections.abc import Iterable

from simple_diffusion.weights.hugging_face.name_map import Place

# Left out by name. A checkpoint of all of T5 has a decoder; old ones of CLIP have the
# numbers 0 to 76.
T5_IGNORED = r"decoder\..*|lm_head\.weight"
CLIP_IGNORED = r"(text_model\.)?embeddings\.position_ids"

_MATRIX = (1, 0)  # theirs is [out, in]

_T5_LAYER = {
    "norm_1/scale": "layer.0.layer_norm",
    "query/kernel": "layer.0.SelfAttention.q",
    "key/kernel": "layer.0.SelfAttention.k",
    "value/kernel": "layer.0.SelfAttention.v",
    "out/kernel": "layer.0.SelfAttention.o",
    "norm_2/scale": "layer.1.layer_norm",
    "gate/kernel": "layer.1.DenseReluDense.wi_0",
    "up/kernel": "layer.1.DenseReluDense.wi_1",
    "down/kernel": "layer.1.DenseReluDense.wo",
}
_CLIP_LAYER = {
    "norm_1": "layer_norm1",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm_2": "layer_norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def t5_places(depth: int) -> dict[str, Place]:
    """Returns the places of the tensors of T5EncoderModel, by their names.

    Args:
      depth: number of layers.
    """
    attention = "encoder.block.0.layer.0.SelfAttention"
    places = {
        "shared.weight": Place("tokens"),
        "encoder.embed_tokens.weight": Place("tokens"),
        f"{attention}.relative_attention_bias.weight": Place("distances"),
        "encoder.final_layer_norm.weight": Place("norm/scale"),
    }
    for k in range(depth):
        for ours, theirs in _T5_LAYER.items():
            axes = _MATRIX if ours.endswith("kernel") else None
            name = f"encoder.block.{k}.{theirs}.weight"
            places[name] = Place(f"layers/{ours}", k, axes)
    return places


def clip_places(depth: int, names: Iterable[str]) -> dict[str, Place]:
    """Returns the places of the tensors of CLIPTextModel, by their names.

    Args:
      depth: number of layers.
      names: those in the file, which do or do not begin with "text_model.".
    """
    prefix = "text_model." if any(n.startswith("text_model.") for n in names) else ""
    places = {
        f"{prefix}embeddings.token_embedding.weight": Place("tokens"),
        f"{prefix}embeddings.position_embedding.weight": Place("positions"),
        f"{prefix}final_layer_norm.weight": Place("norm/scale"),
        f"{prefix}final_layer_norm.bias": Place("norm/bias"),
    }
    for k in range(depth):
        for ours, theirs in _CLIP_LAYER.items():
            name, leaf = f"{prefix}encoder.layers.{k}.{theirs}", f"layers/{ours}"
            places[f"{name}.bias"] = Place(f"{leaf}/bias", k)
            if ours.startswith("norm"):
                places[f"{name}.weight"] = Place(f"{leaf}/scale", k)
            else:
                places[f"{name}.weight"] = Place(f"{leaf}/kernel", k, _MATRIX)
    return places
