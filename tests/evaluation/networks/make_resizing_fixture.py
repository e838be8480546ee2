"""Writes resizing_fixture.npz: what `interpolate` of PyTorch makes of small images.

Runs where PyTorch is, which the tests do without; written with PyTorch 2.13.

  python tests/evaluation/networks/make_resizing_fixture.py
"""

from pathlib import Path

import numpy as np

# Thin images: the rules are separable. One odd size, that has both axes.
CASES = [
    (rule, old, new)
    for rule, side in (("torch_bilinear", 299), ("torch_bicubic", 224))
    for old, new in [
        *(((old, 3), (side, 2)) for old in (32, 64, 128, 256, 512)),
        ((3, 37), (5, side)),
        ((53, 41), (37, 67)),
    ]
]


def image(old):
    """The same wherever the tests run."""
    return np.random.default_rng(old).integers(0, 256, (1, *old, 1), np.uint8)


def main():
    import torch

    found = {}
    for rule, old, new in CASES:
        x = torch.from_numpy(image(old)).permute(0, 3, 1, 2).float()
        if rule == "torch_bilinear":  # as pytorch-fid has it, on [0, 1]
            x = 255 * torch.nn.functional.interpolate(
                x / 255, new, mode="bilinear", align_corners=False
            )
        else:
            x = torch.nn.functional.interpolate(x, new, mode="bicubic", antialias=True)
        found[f"{rule} {old} {new}"] = x[0, 0].numpy()
    path = Path(__file__).with_name("resizing_fixture.npz")
    np.savez_compressed(path, **found)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
