"""The `model` section, one function per kind of network, with the paper's defaults.

The hyper-parameters are those of simple diffusion (arXiv 2301.11093), appendix B, and
of SiD2 (arXiv 2410.19324), as far as these are published.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def _common() -> dict:
    """Returns the keys that every network has."""
    return dict(
        # First and last operation: none | dwt_1 | dwt_2 | haar_N | conv_N
        patching="none",
        # Scale wavelet bands so that white noise has unit variance in each.
        normalise_bands=False,
        # Width of the sinusoid of logsnr, and of the vector that modulates blocks.
        base_channels=128,
        emb_channels=1024,
        # How logsnr becomes a number: linear | sigmoid | inv_cos
        logsnr_input="linear",
        # In convolutional blocks: group | layer | rms
        conv_norm="group",
        # Of queries and keys: layer | rms | none
        qk_norm="none",
        # How attention knows places: learned or sincos (a table before the
        # transformer, which a U-Net has not) | rope (queries and keys turn) | none
        position="none",
        # swish | gelu
        activation="swish",
        # auto | xla | cudnn | flash_tpu
        attention="auto",
        # Beyond the border of the input, 3x3 convolutions in blocks see: zeros | edge
        padding="zeros",
        # Frequencies of the Fourier features of the place in the image, joined inside
        # every residual block; 0 leaves the network without places.
        place_bands=0,
        # Scale-aware 3x3 convolutions, one entry per level: none | first_conv | all;
        # () is none at every level.
        safa=(),
        safa_experts=4,
        # softmax | sigmoid | linear
        safa_gate="softmax",
        # How the resolution of the whole image becomes a number: log2 | inverse
        scale_input="log2",
        # Let it modulate every block, by the embedding.
        scale_embedding=False,
        # float32 | bfloat16; none means bfloat16 on accelerators, float32 on CPU.
        dtype=placeholder(str),
        # What the backward pass recomputes: none | full | dots | dots_no_batch
        remat="none",
    )


def unet() -> ConfigDict:
    """The U-Net of simple diffusion; channels and blocks are those of 128 pixels."""
    return ConfigDict(
        dict(
            name="unet",
            **_common(),
            # How a block takes in a skip: add_sqrt2 | add | concat
            skip="add_sqrt2",
            # One entry per level, from the highest resolution to the lowest.
            channels=(128, 256, 512, 1024, 1024),
            blocks=(3, 4, 4, 12, 4),
            heads=(4, 4, 4, 4, 4),
            # Blocks on the way up beyond those on the way down.
            extra_up_blocks=1,
            # Sides in pixels of the feature maps that have attention.
            attention_resolutions=(8, 16),
            # Dropout acts on feature maps of this side in pixels and smaller.
            dropout=0.1,
            dropout_resolution=16,
        )
    )


def uvit() -> ConfigDict:
    """The U-ViT of simple diffusion: three convolutional levels, then a transformer."""
    model = ConfigDict(
        dict(
            name="uvit",
            **_common(),
            # How a block takes in a skip: add_sqrt2 | add | concat
            skip="add_sqrt2",
            # In transformer blocks, without a bias: group | layer | rms
            token_norm="layer",
            # One entry per convolutional level.
            channels=(128, 256, 512),
            blocks=(2, 2, 2),
            extra_up_blocks=0,
            trunk_channels=2048,
            trunk_blocks=36,
            trunk_heads=4,
            trunk_dropout=0.2,
            # Where the embedding acts on a transformer block:
            # hidden | before_activation | input | none
            film="hidden",
            # Blocks per turn of the compiled loop; 1 compiles fastest.
            scan_unroll=1,
        )
    )
    model.qk_norm = "layer"
    model.position = "learned"
    return model


def residual_uvit() -> ConfigDict:
    """The Residual U-ViT of SiD2; sizes as in public ports, the paper names none."""
    model = ConfigDict(
        dict(
            name="residual_uvit",
            **_common(),
            # In transformer blocks, without a bias: group | layer | rms
            token_norm="layer",
            # One entry per level, from the highest resolution to the lowest.
            channels=(128, 256, 512, 1024),
            kinds=("conv", "conv", "transformer", "transformer"),
            blocks=(3, 3, 3, 16),
            heads=(1, 2, 4, 8),
            dropout=(0.0, 0.0, 0.1, 0.1),
            # Blocks on the way up beyond those on the way down.
            extra_up_blocks=0,
            film="hidden",
            scan_unroll=1,
        )
    )
    model.patching = "conv_2"
    model.qk_norm = "layer"
    model.position = "learned"
    return model
