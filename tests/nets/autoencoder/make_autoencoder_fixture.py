"""Writes autoencoder_fixture.npz: what PyTorch's autoencoders make of the same weights.

The autoencoders are those of diffusers, whose KL autoencoder is Stable Diffusion's. The
discriminator is written out below from its definition. Runs where PyTorch is, which the
tests do without; written with PyTorch 2.13 and diffusers 0.42.

  python -m tests.nets.autoencoder.make_autoencoder_fixture
"""

from pathlib import Path

import numpy as np

from tests.nets.peer_weights import weight

# Attention at the second level, which is also where the middle is.
WIDTHS = (128, 256)
SIZE = (12, 20)  # not square, and only 2 divides it
LATENT, CODEBOOK = 3, 16
KINDS = ("kl", "vq")
DISCRIMINATOR = {"layers": 2, "base": 8, "size": (24, 28)}


def image(size=SIZE, count=2):
    """Images in [-1, 1], [b, h, w, 3]."""
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, (count, *size, 3)).astype(np.float32)


def latent():
    """Latents of one image of twice the size, [1, h, w, e]."""
    rng = np.random.default_rng(4)
    return rng.standard_normal((1, *SIZE, LATENT)).astype(np.float32)


def theirs(kind):
    import diffusers
    import torch

    blocks = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "block_out_channels": WIDTHS,
        "layers_per_block": 1,
        "latent_channels": LATENT,
        "norm_num_groups": 32,
    }
    if kind == "kl":
        network = diffusers.AutoencoderKL(**blocks)
    else:
        network = diffusers.VQModel(**blocks, num_vq_embeddings=CODEBOOK)
    state = {
        name: torch.from_numpy(weight(name, tuple(value.shape)))
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.eval()


def discriminator():
    """PatchGAN as in its paper; names are numbers of layers."""
    import torch
    from torch import nn

    base, layers = DISCRIMINATOR["base"], DISCRIMINATOR["layers"]
    found = [nn.Conv2d(3, base, 4, 2, 1), nn.LeakyReLU(0.2)]
    for k in range(1, layers + 1):
        before, width = base * min(2 ** (k - 1), 8), base * min(2**k, 8)
        stride = 2 if k < layers else 1
        found.append(nn.Conv2d(before, width, 4, stride, 1, bias=False))
        found += [nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
    found.append(nn.Conv2d(base * min(2**layers, 8), 1, 4, 1, 1))
    network = nn.Sequential(*found)
    state = {
        name: value
        if value.ndim == 0 or "running" in name
        else torch.from_numpy(weight(f"discriminator.{name}", tuple(value.shape)))
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.train()  # statistics of the batch


def main():
    import torch

    def channels_first(x):
        return torch.from_numpy(x).permute(0, 3, 1, 2)

    def numpy(x):
        return x.permute(0, 2, 3, 1).numpy()

    found = {}
    with torch.no_grad():
        for kind in KINDS:
            network = theirs(kind)
            encoded = network.encode(channels_first(image()))
            if kind == "kl":
                posterior = encoded.latent_dist
                found["kl_mean"] = numpy(posterior.mean)
                found["kl_logvar"] = numpy(posterior.logvar)
                found["kl_divergence"] = posterior.kl().numpy()
            else:
                found["vq_latent"] = numpy(encoded.latents)
                _, _, (_, _, indices) = network.quantize(encoded.latents)
                found["vq_indices"] = indices.numpy().reshape(2, SIZE[0] // 2, -1)
            decoded = network.decode(channels_first(latent())).sample
            found[f"{kind}_decoded"] = numpy(decoded)
        x = channels_first(image(DISCRIMINATOR["size"]))
        found["discriminator"] = numpy(discriminator()(x))
    path = Path(__file__).with_name("autoencoder_fixture.npz")
    np.savez_compressed(path, **found)
    print({name: value.shape for name, value in found.items()})


if __name__ == "__main__":
    main()
