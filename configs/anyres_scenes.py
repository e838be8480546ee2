"""Any-resolution training on the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh --config configs/anyres_scenes.py --workdir runs/anyres
  launch/local.sh --mode sample --config configs/anyres_scenes.py \\
    --workdir runs/anyres --config.sample.size=48x96

Patches of 32x32 from scenes of 32 to 64 pixels a side; samples at 1x, 1.5x and 2x.
Variants: `ours` (the default) and `paper`, the method of Arakawa et al.,
"Any-resolution image synthesis by diffusion probabilistic models": grid in every block,
scale-aware kernels in some layers, one schedule for all sizes. Both have the
quickstart's network and, because minutes must do, its prediction and loss.
"""

from configs import base, quickstart

VARIANTS = ("ours", "paper")


def get_config(variant: str = "ours"):
    """Returns one of the variants."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(VARIANTS)}")
    config = quickstart.get_config()
    config.data.patches = base.patches(32, 64)
    if variant == "ours":
        ours(config)
    else:
        paper(config)
    config.sample.also_sizes = ("48x48", "64x64")
    return config


def paper(config):
    """Makes a recipe what the paper states, as far as it states it."""
    model = config.model
    model.place_bands = 8
    model.safa = ("first_conv",) * len(model.channels)
    if "trunk_channels" in model:
        model.position = "none"  # the grid enters the transformer, too
    config.diffusion.shift_by_resolution = False


def ours(config):
    """Makes a recipe our improved one; benchmarks/RESULTS.md has what that does."""
    model = config.model
    model.place_bands = 8
    # The paper suspects the convolutions that stay blind to scale.
    model.safa = ("all",) * len(model.channels)
    model.scale_embedding = True
    # Zeros would mark the borders of patches as if they were those of images.
    model.padding = "edge"
    if "trunk_channels" in model:
        model.position = "rope"
    # config.diffusion.shift_by_resolution is on by default: the larger the image, the
    # more noise hides as much of it.
