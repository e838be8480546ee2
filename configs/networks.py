"""The section `model`: one function per kind of network, with the paper's defaults.

The hyper-parameters are those of simple diffusion (arXiv 2301.11093), appendix B, and
of SiD2 (arXiv 2410.19324), as far as they are published.
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
        # Channels of the sinusoid of logsnr, and of the embedding for all blocks.
        base_channels=128,
        emb_channels=1024,
        # How logsnr becomes a number for the sinusoid: linear | sigmoid | inv_cos (the
        # time of the cosine schedule) | flow (that of the rectified flow)
        logsnr_input="linear",
        # Activation of the embedding, one of those of `activation`.
        emb_activation="swish",
        # Normalisation in convolutional blocks: group | layer | rms
        conv_norm="group",
        # Normalisation of queries and keys: layer | rms | l2 (cosines times one learned
        # scale) | none
        qk_norm="none",
        # Position in attention: learned or sincos (a table before the transformer, not
        # for a U-Net) | rope (rotated queries and keys) | none
        position="none",
        # rope: rotation of the fastest pair of features in radians per token.
        rope_fastest=1.0,
        # swish | gelu_tanh (GELU's approximation by a tanh) | gelu_exact; gelu is the
        # earlier name of gelu_tanh
        activation="swish",
        # auto | xla | cudnn | flash_tpu
        attention="auto",
        # Padding of 3x3 convolutions in blocks: zeros | edge
        padding="zeros",
        # Number of frequencies of the Fourier features of the position in the image,
        # concatenated in every residual block; 0 means no positions.
        place_bands=0,
        # Scale-aware 3x3 convolutions, one entry per level: none | first_conv | all;
        # () is none at every level.
        safa=(),
        safa_experts=4,
        # softmax | sigmoid | linear
        safa_gate="softmax",
        # How the size of the full image is expressed as a number: log2 | inverse
        scale_input="log2",
        # Let this number modulate every block, by the embedding.
        scale_embedding=False,
        # float32 | bfloat16; None means bfloat16 on accelerators, float32 on CPU.
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
            # How skip connections are joined: add_sqrt2 | add | concat
            skip="add_sqrt2",
            # One entry per level, from the highest resolution to the lowest.
            channels=(128, 256, 512, 1024, 1024),
            blocks=(3, 4, 4, 12, 4),
            heads=(4, 4, 4, 4, 4),
            # Additional blocks of the up path, compared with the down path.
            extra_up_blocks=1,
            # Between levels: linear (mean or repetition, and a 1x1 convolution) |
            # residual (a residual block around them; with skip=concat)
            resampling="linear",
            # Sides in pixels of the feature maps that have attention.
            attention_resolutions=(8, 16),
            # Dropout rate, for feature maps of at most this side in pixels.
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
            # How skip connections are joined: add_sqrt2 | add | concat
            skip="add_sqrt2",
            # Normalisation in transformer blocks, without bias: group | layer | rms
            token_norm="layer",
            # One entry per convolutional level.
            channels=(128, 256, 512),
            blocks=(2, 2, 2),
            extra_up_blocks=0,
            trunk_channels=2048,
            trunk_blocks=36,
            trunk_heads=4,
            trunk_dropout=0.2,
            # Where the embedding modulates a transformer block:
            # hidden | before_activation | input | none
            film="hidden",
            # Blocks per iteration of the compiled loop; 1 compiles fastest.
            scan_unroll=1,
        )
    )
    model.qk_norm = "layer"
    model.position = "learned"
    return model


def residual_uvit() -> ConfigDict:
    """The Residual U-ViT of SiD2; sizes of public ports, as the paper states none."""
    model = ConfigDict(
        dict(
            name="residual_uvit",
            **_common(),
            # Normalisation in transformer blocks, without bias: group | layer | rms
            token_norm="layer",
            # One entry per level, from the highest resolution to the lowest.
            channels=(128, 256, 512, 1024),
            kinds=("conv", "conv", "transformer", "transformer"),
            blocks=(3, 3, 3, 16),
            heads=(1, 2, 4, 8),
            dropout=(0.0, 0.0, 0.1, 0.1),
            # Additional blocks of the up path, compared with the down path.
            extra_up_blocks=0,
            film="hidden",
            scan_unroll=1,
        )
    )
    model.patching = "conv_2"
    model.qk_norm = "layer"
    model.position = "learned"
    return model
