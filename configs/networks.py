"""The section `model`: one function per kind of network, with the paper's defaults.

The hyper-parameters are those of simple diffusion (arXiv 2301.11093), appendix B, and
of SiD2 (arXiv 2410.19324), as far as they are published.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from simple_diffusion.configs.keys import choice, number, section

ACTIVATIONS = "swish | gelu | gelu_tanh | gelu_exact"


def _common() -> dict:
    """Returns the keys that every network has."""
    return dict(
        # First and last operation: none | dwt_1 | dwt_2 | haar_N | conv_N
        patching="none",
        # Scale wavelet bands so that white noise has unit variance in each.
        normalise_bands=False,
        # Channels of the sinusoid of logsnr, and of the embedding for all blocks.
        base_channels=number(128, "[2, 65536]"),
        emb_channels=number(1024, "[1, 65536]"),
        # How logsnr becomes a number for the sinusoid; inv_cos is the time of the
        # cosine schedule, flow that of the rectified flow.
        logsnr_input=choice("linear", "linear | sigmoid | inv_cos | flow"),
        # Activation of the embedding.
        emb_activation=choice("swish", ACTIVATIONS),
        # How the class enters: added to the embedding, or as one token that is read by
        # cross-attention, of this width.
        class_condition=choice("embedding", "embedding | token"),
        class_token_width=number(128, "[1, 65536]"),
        # Normalisation in convolutional blocks.
        conv_norm=choice("group", "group | layer | rms"),
        # Normalisation of queries and keys; l2 is that of cosines, times one learned
        # scale.
        qk_norm=choice("none", "layer | rms | l2 | none"),
        # Position in attention: learned and sincos are tables before the transformer,
        # not for a U-Net; rope rotates queries and keys.
        position=choice("none", "learned | sincos | rope | none"),
        # rope: rotation of the fastest pair of features, in radians per token.
        rope_fastest=number(1.0, "(0, 100]"),
        # gelu_tanh approximates GELU by a tanh; gelu is its earlier name.
        activation=choice("swish", ACTIVATIONS),
        # Implementation of attention.
        attention=choice("auto", "auto | xla | cudnn | flash_tpu"),
        # Padding of 3x3 convolutions in blocks.
        padding=choice("zeros", "zeros | edge"),
        # Number of frequencies of the Fourier features of the position in the image,
        # concatenated in every residual block; 0 means no positions.
        place_bands=number(0, "[0, 64]"),
        # Scale-aware 3x3 convolutions, one entry per level; () is none at every level.
        safa=choice((), "none | first_conv | all"),
        safa_experts=number(4, "[1, 1024]"),
        safa_gate=choice("softmax", "softmax | sigmoid | linear"),
        # How the size of the full image is expressed as a number.
        scale_input=choice("log2", "log2 | inverse"),
        # Let this number modulate every block, by the embedding.
        scale_embedding=False,
        # None means bfloat16 on accelerators, float32 on CPU.
        dtype=choice(placeholder(str), "float32 | bfloat16"),
        # What the backward pass recomputes.
        remat=choice("none", "none | full | dots | dots_no_batch"),
    )


def unet() -> ConfigDict:
    """The U-Net of simple diffusion; channels and blocks are those of 128 pixels."""
    return section(
        "model:unet",
        dict(
            name="unet",
            **_common(),
            # How skip connections are joined.
            skip=choice("add_sqrt2", "add_sqrt2 | add | concat"),
            # One entry per level, from the highest resolution to the lowest.
            channels=number((128, 256, 512, 1024, 1024), "[1, 65536]"),
            blocks=number((3, 4, 4, 12, 4), "[1, 1024]"),
            heads=number((4, 4, 4, 4, 4), "[1, 1024]"),
            # Additional blocks of the up path, compared with the down path.
            extra_up_blocks=number(1, "[0, 1024]"),
            # Between levels: the mean or repetition and a 1x1 convolution (linear), or
            # a residual block around them (residual; with skip=concat).
            resampling=choice("linear", "linear | residual"),
            # Sides in pixels of the feature maps that have attention.
            attention_resolutions=number((8, 16), "[1, 65536]"),
            # Dropout rate, for feature maps of at most this side in pixels.
            dropout=number(0.1, "[0, 1)"),
            dropout_resolution=number(16, "[0, 65536]"),
        ),
    )


def uvit() -> ConfigDict:
    """The U-ViT of simple diffusion: three convolutional levels, then a transformer."""
    model = section(
        "model:uvit",
        dict(
            name="uvit",
            **_common(),
            # How skip connections are joined.
            skip=choice("add_sqrt2", "add_sqrt2 | add | concat"),
            # Normalisation in transformer blocks, without bias.
            token_norm=choice("layer", "group | layer | rms"),
            # One entry per level above the trunk.
            channels=number((128, 256, 512), "[1, 65536]"),
            # () is conv at every level. Transformer levels come last; heads and dropout
            # are those of the trunk.
            kinds=choice((), "conv | transformer"),
            blocks=number((2, 2, 2), "[1, 1024]"),
            extra_up_blocks=number(0, "[0, 1024]"),
            trunk_channels=number(2048, "[1, 65536]"),
            trunk_blocks=number(36, "[1, 1024]"),
            trunk_heads=number(4, "[1, 1024]"),
            trunk_dropout=number(0.2, "[0, 1)"),
            # Where the embedding modulates a transformer block.
            film=choice("hidden", "hidden | before_activation | input | none"),
            # Blocks per iteration of the compiled loop; 1 compiles fastest.
            scan_unroll=number(1, "[1, 1024]"),
        ),
    )
    model.qk_norm = "layer"
    model.position = "learned"
    return model


def residual_uvit() -> ConfigDict:
    """The Residual U-ViT of SiD2; sizes of public ports, as the paper states none."""
    model = section(
        "model:residual_uvit",
        dict(
            name="residual_uvit",
            **_common(),
            # Normalisation in transformer blocks, without bias.
            token_norm=choice("layer", "group | layer | rms"),
            # One entry per level, from the highest resolution to the lowest.
            channels=number((128, 256, 512, 1024), "[1, 65536]"),
            kinds=choice(
                ("conv", "conv", "transformer", "transformer"), "conv | transformer"
            ),
            blocks=number((3, 3, 3, 16), "[1, 1024]"),
            heads=number((1, 2, 4, 8), "[1, 1024]"),
            dropout=number((0.0, 0.0, 0.1, 0.1), "[0, 1)"),
            # Additional blocks of the up path, compared with the down path.
            extra_up_blocks=number(0, "[0, 1024]"),
            film=choice("hidden", "hidden | before_activation | input | none"),
            scan_unroll=number(1, "[1, 1024]"),
        ),
    )
    model.patching = "conv_2"
    model.qk_norm = "layer"
    model.position = "learned"
    return model


# By the key `name` of the section.
KINDS = {"unet": unet, "uvit": uvit, "residual_uvit": residual_uvit}
