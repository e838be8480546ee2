"""Writes inception_fixture.npz: what the PyTorch implementations of FID say of images.

Runs where torch, torch-fidelity, pytorch-fid and clean-fid are, which the tests do
without; written with PyTorch 2.13, torch-fidelity 0.4.0, pytorch-fid 0.3.0 and
clean-fid 0.1.35. The weights are random, and the same in every environment.

  python -m tests.evaluation.make_inception_fixture
"""

from pathlib import Path

import numpy as np

SIZES = [(32, 32), (64, 64), (256, 256), (300, 217)]
PATH = Path(__file__).with_name("inception_fixture.npz")


def image(h, w):
    """Smooth colours with edges and a little noise, uint8."""
    rng = np.random.default_rng(h * 1000 + w)
    y, x = np.mgrid[:h, :w] / max(h, w)
    waves = rng.uniform(-9, 9, (5, 2, 3))
    phases = rng.uniform(0, 6, (5, 3))
    angles = y[..., None, None] * waves[:, 0] + x[..., None, None] * waves[:, 1]
    smooth = np.sin(angles + phases).sum(2)
    edges = np.sign(np.sin(6 * y + 11 * x))[..., None]
    noise = rng.normal(0, 0.2, (h, w, 3))
    return np.clip(128 + 40 * (smooth + edges + noise), 0, 255).astype(np.uint8)


def main():
    import pytorch_fid.inception as port
    import torch
    from cleanfid.resize import build_resizer

    from benchmarks import feature_extraction_peer

    fidelity = feature_extraction_peer.network()
    port.load_state_dict_from_url = lambda *_, **__: fidelity.state_dict()
    plain = port.InceptionV3().eval()
    kept = {}
    fidelity.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, inputs, output: kept.update(spatial=output)
    )
    found = {}
    with torch.no_grad():
        for h, w in SIZES:
            x = torch.from_numpy(image(h, w)).permute(2, 0, 1)[None]
            features, logits = fidelity(x)
            key = f"tf1_bilinear {h} {w}"
            found[f"{key} features"], found[f"{key} logits"] = features[0], logits[0]
            # As the graph has it: rows, columns, channels.
            found[f"{key} spatial"] = kept["spatial"][0, :7].permute(1, 2, 0).flatten()
            found[f"torch_bilinear {h} {w} features"] = plain(x / 255)[0].flatten()
            clean = torch.from_numpy(build_resizer("clean")(image(h, w)))
            x = (clean.permute(2, 0, 1)[None] - 128) / 128
            for block in plain.blocks:
                x = block(x)
            found[f"clean_bicubic {h} {w} features"] = x.flatten()
    np.savez_compressed(PATH, **{name: value.numpy() for name, value in found.items()})
    print(PATH, PATH.stat().st_size)


if __name__ == "__main__":
    main()
