"""Writes text_encoders_fixture.npz: what transformers makes of the same weights.

Runs where PyTorch and transformers are, which the tests do without; written with
PyTorch 2.13 and transformers 4.57.6.

  python tests/nets/text/make_text_encoders_fixture.py
"""

from pathlib import Path
from typing import Any

import numpy as np

T5 = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 12,  # heads * head is not the width
    "d_ff": 48,
    "num_heads": 2,
    "num_layers": 2,
    "vocab_size": 40,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
}
CLIP = {
    "model_type": "clip_text_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 40,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,
}
ACTIVATIONS = ("quick_gelu", "gelu")
END = 39  # of CLIP: the largest id
OFFSETS = np.arange(-300, 301)
BUCKETS = [(32, 128), (8, 20)]  # classes, largest distance


def draw(rng, *shape, scale=1.0, mean=0.0):
    return (mean + scale * rng.standard_normal(shape)).astype(np.float32)


def t5_weights():
    """Random ones by their published names, the same wherever the tests run.

    Tokens are small, so that the epsilon of the norms shows.
    """
    rng = np.random.default_rng(5)
    width, inner, mlp = T5["d_model"], T5["d_kv"] * T5["num_heads"], T5["d_ff"]
    found = {"shared.weight": draw(rng, T5["vocab_size"], width, scale=0.003)}
    for k in range(T5["num_layers"]):
        name = f"encoder.block.{k}.layer"
        for role in "qkv":
            matrix = draw(rng, inner, width, scale=width**-0.5)
            found[f"{name}.0.SelfAttention.{role}.weight"] = matrix
        found[f"{name}.0.SelfAttention.o.weight"] = draw(rng, width, inner, scale=0.2)
        found[f"{name}.0.layer_norm.weight"] = draw(rng, width, scale=0.3, mean=1)
        for role in ("wi_0", "wi_1"):
            matrix = draw(rng, mlp, width, scale=0.3)
            found[f"{name}.1.DenseReluDense.{role}.weight"] = matrix
        matrix = draw(rng, width, mlp, scale=0.2)
        found[f"{name}.1.DenseReluDense.wo.weight"] = matrix
        found[f"{name}.1.layer_norm.weight"] = draw(rng, width, scale=0.3, mean=1)
    shape = T5["relative_attention_num_buckets"], T5["num_heads"]
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found[name] = draw(rng, *shape)
    found["encoder.final_layer_norm.weight"] = draw(rng, width, scale=0.3, mean=1)
    return found


def clip_weights():
    """Random ones by their published names, the same wherever the tests run."""
    rng = np.random.default_rng(7)
    width, mlp = CLIP["hidden_size"], CLIP["intermediate_size"]
    length = CLIP["max_position_embeddings"]
    found = {
        "embeddings.token_embedding.weight": draw(rng, CLIP["vocab_size"], width),
        "embeddings.position_embedding.weight": draw(rng, length, width, scale=0.5),
    }
    for values in found.values():  # small, so that the epsilon of the norms shows
        values *= 0.01

    def norm(name):
        found[f"{name}.weight"] = draw(rng, width, scale=0.3, mean=1)
        found[f"{name}.bias"] = draw(rng, width, scale=0.3)

    def linear(name, new, old):
        found[f"{name}.weight"] = draw(rng, new, old, scale=1.2 * old**-0.5)
        found[f"{name}.bias"] = draw(rng, new, scale=0.3)

    for k in range(CLIP["num_hidden_layers"]):
        name = f"encoder.layers.{k}"
        norm(f"{name}.layer_norm1")
        for role in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{name}.self_attn.{role}", width, width)
        norm(f"{name}.layer_norm2")
        linear(f"{name}.mlp.fc1", mlp, width)
        linear(f"{name}.mlp.fc2", width, mlp)
    norm("final_layer_norm")
    return {f"text_model.{name}": array for name, array in found.items()}


def t5_inputs():
    """Ids and mask: a full row, and two with padding."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, T5["vocab_size"], (3, 30))
    mask = np.arange(30)[None] < np.array([[30], [11], [1]])
    return np.where(mask, ids, 0).astype(np.int32), mask


def clip_inputs():
    """Ids: the end token comes last, early and so again as padding."""
    rng = np.random.default_rng(0)
    length = CLIP["max_position_embeddings"]
    ids = rng.integers(1, END, (3, length))
    ends = np.array([[length - 1], [5], [1]])
    return np.where(np.arange(length)[None] < ends, ids, END).astype(np.int32)


def outputs() -> dict[str, Any]:
    import torch
    import transformers
    from transformers.models.t5 import modeling_t5

    def load(model, weights):
        arrays = {name: torch.from_numpy(array) for name, array in weights.items()}
        missing = model.load_state_dict(arrays, strict=False)
        assert set(missing.missing_keys) <= {"encoder.embed_tokens.weight"}, missing
        assert not missing.unexpected_keys, missing
        return model.eval()

    found = {}
    with torch.no_grad():
        config = transformers.T5Config(**T5)
        net = load(transformers.T5EncoderModel(config), t5_weights())
        ids, mask = (torch.from_numpy(x) for x in t5_inputs())
        found["t5"] = net(ids, attention_mask=mask.long()).last_hidden_state.numpy()
        for activation in ACTIVATIONS:
            config = transformers.CLIPTextConfig(**CLIP | {"hidden_act": activation})
            net = load(transformers.CLIPTextModel(config), clip_weights())
            ids = torch.from_numpy(clip_inputs())
            result = net(ids, output_hidden_states=True)
            found[f"clip_{activation}_last"] = result.last_hidden_state.numpy()
            found[f"clip_{activation}_penultimate"] = result.hidden_states[-2].numpy()
            found[f"clip_{activation}_pooled"] = result.pooler_output.numpy()
        for count, largest in BUCKETS:
            buckets = modeling_t5.T5Attention._relative_position_bucket(
                torch.from_numpy(OFFSETS), True, count, largest
            )
            found[f"buckets_{count}"] = buckets.numpy().astype(np.int8)
    return found


def check_sum(arrays):
    """Tells whether weights came out as they did when the file was written."""
    return np.float64(sum(np.abs(v, dtype=np.float64).sum() for v in arrays.values()))


if __name__ == "__main__":
    np.savez_compressed(
        Path(__file__).with_name("text_encoders_fixture.npz"),
        t5_weights=check_sum(t5_weights()),
        clip_weights=check_sum(clip_weights()),
        **outputs(),
    )
