"""Writes dinov2_fixture.npz: what other implementations make of the same weights.

Runs where PyTorch, timm and transformers are, which the tests do without; written with
PyTorch 2.13, timm 1.0.31 and transformers 5.23.

  python tests/evaluation/networks/make_dinov2_fixture.py
  python tests/evaluation/networks/make_dinov2_fixture.py --base dinov2_base_fixture.npz

The second makes one of the full size of ViT-B, for a check by hand: it takes a minute,
and 0.7 GB of memory.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

TINY = (24, 3, 2)  # width, depth, heads
BASE = (768, 12, 12)
TRAINED = 37
IMAGES = [(224, 224), (32, 48), (300, 231)]


def weights(width, depth, heads):
    """Random ones by their official names, the same wherever the tests run.

    Tokens begin small, so that the epsilon of a norm shows; gains and biases are those
    of no network at its start.
    """
    del heads
    rng = np.random.default_rng(width)

    def draw(*shape, scale=1.0, mean=0.0):
        return (mean + scale * rng.standard_normal(shape)).astype(np.float32)

    def linear(name, new, old):
        found[f"{name}.weight"] = draw(new, old, scale=1.5 / old**0.5)
        found[f"{name}.bias"] = draw(new, scale=0.3)

    def norm(name):
        found[f"{name}.weight"] = draw(width, scale=0.3, mean=1)
        found[f"{name}.bias"] = draw(width, scale=0.3)

    found = {
        "cls_token": draw(1, 1, width, scale=0.02),
        "pos_embed": draw(1, 1 + TRAINED**2, width, scale=0.02),
        "mask_token": draw(1, width),
        "patch_embed.proj.weight": draw(width, 3, 14, 14, scale=0.02 / 588**0.5),
        "patch_embed.proj.bias": draw(width, scale=0.02),
    }
    for k in range(depth):
        name = f"blocks.{k}"
        norm(f"{name}.norm1")
        linear(f"{name}.attn.qkv", 3 * width, width)
        linear(f"{name}.attn.proj", width, width)
        found[f"{name}.ls1.gamma"] = draw(width, scale=0.3)
        norm(f"{name}.norm2")
        linear(f"{name}.mlp.fc1", 4 * width, width)
        linear(f"{name}.mlp.fc2", width, 4 * width)
        found[f"{name}.ls2.gamma"] = draw(width, scale=0.3)
    norm("norm")
    return found


def images():
    """Smooth ones with noise, the same wherever the tests run."""
    rng = np.random.default_rng(0)
    found = []
    for h, w in IMAGES:
        coarse = rng.integers(0, 256, (-(-h // 16), -(-w // 16), 3))
        smooth = np.kron(coarse, np.ones((16, 16, 1)))[:h, :w]
        noisy = smooth + rng.normal(0, 15, (h, w, 3))
        found.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[None])
    return found


def hugging_face(arrays):
    """The same weights by the names of Hugging Face's files."""
    plain = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    found = {}
    for name, array in arrays.items():
        stem, _, ending = name.rpartition(".")
        if not name.startswith("blocks."):
            key = plain.get(name) or f"{plain[stem]}.{ending}"
            found[key] = array
            continue
        _, k, *layer = name.split(".")
        layer, own = ".".join(layer), f"encoder.layer.{k}."
        stem = layer.rpartition(".")[0]
        if stem == "attn.qkv":
            for part, role in zip(
                np.split(array, 3), ("query", "key", "value"), strict=True
            ):
                found[f"{own}attention.attention.{role}.{ending}"] = part
        elif layer in plain:
            found[own + plain[layer]] = array
        else:
            found[f"{own}{plain.get(stem, stem)}.{ending}"] = array
    return found


def without_its_torchvision(torch):
    """Lets torchvision be imported if its operators, which are not used, are broken."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor boxes, Tensor scores, float most) -> Tensor")
    return library


def features(size):
    """Returns features by timm and by transformers, and the table of positions."""
    import torch

    library = without_its_torchvision(torch)
    import timm
    import transformers

    del library
    width, depth, heads = size
    arrays = {k: torch.from_numpy(v) for k, v in weights(*size).items()}
    # As the official network: both others mean another interpolation, and get this.
    whole, table = arrays["pos_embed"][:, :1], arrays["pos_embed"][:, 1:]
    table = table.reshape(1, TRAINED, TRAINED, width).permute(0, 3, 1, 2)
    factor = (16 + 0.1) / TRAINED
    table = torch.nn.functional.interpolate(
        table, scale_factor=(factor, factor), mode="bicubic", antialias=False
    )
    table = table.permute(0, 2, 3, 1).reshape(1, 256, width)
    arrays["pos_embed"] = torch.cat([whole, table], 1)

    theirs = timm.create_model(
        "vit_base_patch14_dinov2",
        img_size=224,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
    ).eval()
    no_mask = {k: v for k, v in arrays.items() if k != "mask_token"}
    theirs.load_state_dict(no_mask, strict=True)

    config = transformers.Dinov2Config(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        image_size=224,
        patch_size=14,
    )
    others = transformers.Dinov2Model(config).eval()
    renamed = {}
    for k, v in hugging_face({k: v.numpy() for k, v in arrays.items()}).items():
        for old, new in [
            ("attention.attention.query", "attention.q_proj"),
            ("attention.attention.key", "attention.k_proj"),
            ("attention.attention.value", "attention.v_proj"),
            ("attention.output.dense", "attention.o_proj"),
        ]:
            k = k.replace(old, new)
        renamed[k] = torch.from_numpy(np.ascontiguousarray(v))
    others.load_state_dict(renamed, strict=True)

    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    found = {"timm": [], "transformers": []}
    for image in images():
        x = torch.from_numpy(image).permute(0, 3, 1, 2).float()
        x = torch.nn.functional.interpolate(
            x, (224, 224), mode="bicubic", antialias=True
        )
        x = (x / 255 - mean) / deviation
        with torch.no_grad():
            found["timm"].append(theirs(x)[0].numpy())
            found["transformers"].append(others(x).last_hidden_state[0, 0].numpy())
    rows = {k: np.stack(v) for k, v in found.items()}
    return rows | {"positions": table[0].numpy()}


def check_sum(arrays):
    """Tells whether weights came out as they did when the file was written."""
    return np.float64(sum(np.abs(v, dtype=np.float64).sum() for v in arrays.values()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", metavar="FILE")
    path = parser.parse_args().base
    size = BASE if path else TINY
    path = Path(path) if path else Path(__file__).with_name("dinov2_fixture.npz")
    arrays: dict[str, Any] = features(size)
    arrays["weights"] = check_sum(weights(*size))
    arrays["images"] = check_sum(dict(enumerate(images())))
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
