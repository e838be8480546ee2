"""What the any-resolution recipes share: the method as the paper has it, and ours.

The paper is Arakawa et al., "Any-resolution image synthesis by diffusion probabilistic
models": patches of randomly resized images, a pixel grid as Fourier features in every
block, and scale-aware kernels (SAFA) in some layers. It does not state network,
schedule, steps or optimiser; those of `unet` are of the public code of the same group.
"""

from simple_diffusion.configs import base, networks

VARIANTS = ("ours", "paper")


def choose(variant: str, config, variants=VARIANTS):
    """Makes a recipe one of its variants; its name begins with "ours" or "paper".

    Raises:
      ValueError: if there is no such variant.
    """
    if variant not in variants:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(variants)}")
    (ours if variant.startswith("ours") else paper)(config)
    return config


def paper(config):
    """Makes a recipe what the paper states, as far as it states it."""
    model = config.model
    model.place_bands = 8
    model.safa = ("first_conv",) * len(model.channels)
    if model.name == "uvit":
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
    if model.name == "uvit":
        model.position = "rope"
    # The larger the image, the more noise hides as much of it.
    config.diffusion.shift_by_resolution = True


def unet(smallest: int, largest: int | None):
    """Returns a recipe of the U-Net of the paper's experiments on such sizes."""
    config = base.default()
    config.data.resolution = smallest
    config.data.patches = base.patches(smallest, largest)
    config.data.resize = "antialias"
    config.data.num_classes = 0
    config.model = networks.unet()
    model = config.model
    model.channels = (128, 256, 512, 1024)
    model.blocks = (2, 2, 2, 2)
    model.heads = (4, 4, 4, 4)
    model.attention_resolutions = (smallest // 8,)
    model.dropout = 0.0
    config.diffusion.schedule = base.cosine()
    config.diffusion.time_law = "uniform"
    config.diffusion.prediction = "eps"
    config.loss.weighting = "eps_mse"
    config.optimizer.warmup_steps = 0
    config.ema.decay = 0.9995  # 0.995 every ten steps
    config.train.batch_size = 32
    config.train.total_steps = 100_000
    config.sample.count = 16
    config.sample.batch_size = 16
    config.sample.steps = 1000
    config.sample.gamma = 0.0
    return config


def modern(config):
    """Replaces the prediction of noise, and its sampler, by simple diffusion's."""
    config.diffusion.schedule = base.shifted_cosine(64)
    config.diffusion.time_law = "stratified"
    config.diffusion.prediction = "v"
    config.loss.weighting = "v_mse"
    config.optimizer.warmup_steps = 1_000
    config.sample.steps = 256
    config.sample.gamma = 0.2
    return config
