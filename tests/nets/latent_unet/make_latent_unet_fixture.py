"""Writes latent_unet_fixture.npz: what PyTorch's U-Nets make of the same weights.

They are those of diffusers: the one of Stable Diffusion, and ADM's with plain
attention, scale and shift, and resampling in residual blocks. Runs where PyTorch is,
which the tests do without; written with PyTorch 2.13 and diffusers 0.42.

  python -m tests.nets.latent_unet.make_latent_unet_fixture
"""

from pathlib import Path

import numpy as np

from tests.nets.peer_weights import weight

WIDTHS = (16, 32)
GROUPS, HEADS, CONTEXT, DEPTH = 8, 4, 12, 2
SIZE, CHANNELS, OUT = (6, 10), 5, 4
TIMES = (981.0, 3.5)
KINDS = ("transformer", "plain")


def inputs():
    """z_t [b, h, w, c] and tokens [b, n, d]."""
    rng = np.random.default_rng(5)
    z_t = rng.standard_normal((2, *SIZE, CHANNELS)).astype(np.float32)
    return z_t, rng.standard_normal((2, 7, CONTEXT)).astype(np.float32)


def theirs(kind):
    import diffusers
    import torch

    common = {
        "in_channels": CHANNELS,
        "out_channels": OUT,
        "block_out_channels": WIDTHS,
        "layers_per_block": 1,
        "norm_num_groups": GROUPS,
        "norm_eps": 1e-5,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }
    if kind == "transformer":
        network = diffusers.UNet2DConditionModel(
            **common,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=CONTEXT,
            attention_head_dim=HEADS,  # their name for the number of heads
            transformer_layers_per_block=DEPTH,
        )
    else:
        network = diffusers.UNet2DModel(
            **common,
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=WIDTHS[1] // HEADS,
            resnet_time_scale_shift="scale_shift",
            downsample_type="resnet",
            upsample_type="resnet",
            attn_norm_num_groups=GROUPS,  # else the middle would have no norm
        )
    state = {
        name: torch.from_numpy(weight(name, tuple(value.shape)))
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.eval()


def main():
    import torch

    z_t, tokens = inputs()
    x = torch.from_numpy(z_t).permute(0, 3, 1, 2)
    found = {}
    for kind in KINDS:
        more = [torch.from_numpy(tokens)] if kind == "transformer" else []
        with torch.no_grad():
            y = theirs(kind)(x, torch.tensor(TIMES), *more).sample
        found[kind] = y.permute(0, 2, 3, 1).numpy()
    path = Path(__file__).with_name("latent_unet_fixture.npz")
    np.savez_compressed(path, **found)
    print({name: value.shape for name, value in found.items()})


if __name__ == "__main__":
    main()
