"""Writes inception_fixture.npz: what the PyTorch implementations of FID say of images.

Runs where torch, torch-fidelity, pytorch-fid and clean-fid are, which the tests do
without; written with PyTorch 2.13, torch-fidelity 0.4.0, pytorch-fid 0.3.0 and
clean-fid 0.1.35. The weights are random, and the same wherever this file is imported.

  python tests/evaluation/make_inception_fixture.py
"""

import tempfile
import zlib
from pathlib import Path

import numpy as np

SIZES = [(32, 32), (64, 64), (256, 256), (300, 217)]
PATH = Path(__file__).with_name("inception_fixture.npz")
_SPREAD = {
    # Of normal numbers: mean, spread.
    "bn.bias": (0.1, 0.2),
    "bn.running_mean": (0.0, 0.3),
    "fc.bias": (0.0, 1.0),
}
_RANGE = {
    # Of numbers spread evenly; far from 0 and 1, at which mistakes do not show.
    "bn.weight": (0.6, 1.4),
    "bn.running_var": (0.3, 2.0),
}


def weight(name, shape):
    """A tensor of a port, by its name; kernels keep the scale of what they act on."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = ".".join(name.split(".")[-2:])
    if kind in _RANGE:
        return rng.uniform(*_RANGE[kind], shape).astype(np.float32)
    mean, spread = _SPREAD.get(kind, (0, np.sqrt(2 / np.prod(shape[1:]))))
    return (mean + spread * rng.standard_normal(shape)).astype(np.float32)


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
    import pytorch_fid.inception
    import torch
    import torch_fidelity.feature_extractor_inceptionv3 as fidelity
    from cleanfid.resize import build_resizer

    port = pytorch_fid.inception
    shapes = {
        k: tuple(v.shape)
        for k, v in fidelity_network(fidelity, None).state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    state = {k: torch.from_numpy(weight(k, s)) for k, s in shapes.items()}
    network = fidelity_network(fidelity, state)
    kept = {}
    network.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, inputs, output: kept.update(spatial=output)
    )
    port.load_state_dict_from_url = lambda *_, **__: state
    theirs = port.InceptionV3().eval()
    found = {}
    with torch.no_grad():
        for h, w in SIZES:
            x = torch.from_numpy(image(h, w)).permute(2, 0, 1)[None]
            features, logits = network(x)
            spatial = kept["spatial"][0, :7].permute(1, 2, 0).flatten()
            found[f"tf1_bilinear {h} {w} features"] = features[0].numpy()
            found[f"tf1_bilinear {h} {w} logits"] = logits[0].numpy()
            found[f"tf1_bilinear {h} {w} spatial"] = spatial.numpy()
            features = theirs(x / 255)[0][0, :, 0, 0]
            found[f"torch_bilinear {h} {w} features"] = features.numpy()
            clean = torch.from_numpy(build_resizer("clean")(image(h, w)))
            x = (clean.permute(2, 0, 1)[None] - 128) / 128
            features = theirs_without_resizing(theirs, x)
            found[f"clean_bicubic {h} {w} features"] = features.numpy()
    np.savez_compressed(PATH, **found)
    for key, value in found.items():
        print(key, value.shape, value.mean(), value.std())
    print(PATH, PATH.stat().st_size)


def fidelity_network(fidelity, state):
    """The extractor of torch-fidelity, with given weights or those it begins with."""
    import torch

    if state is None:
        fidelity.load_state_dict_from_url = lambda *_, **__: {}
        cls = type(
            "Untrained",
            (fidelity.FeatureExtractorInceptionV3,),
            {"load_state_dict": lambda self, state: None},
        )
        return cls("inception", ["2048", "logits_unbiased"])
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file.name)
        return fidelity.FeatureExtractorInceptionV3(
            "inception",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=file.name,
        )


def theirs_without_resizing(network, x):
    """Features of images that are resized and scaled already."""
    for block in network.blocks:
        x = block(x)
    return x[0, :, 0, 0]


if __name__ == "__main__":
    main()
