"""Common parts of the any-resolution recipes: the paper's method and ours.

The paper is Arakawa et al., "Any-resolution image synthesis by diffusion probabilistic
models": patches of randomly resized images, a pixel grid as Fourier features in every
block, and scale-aware kernels (SAFA) in some layers. It does not state network,
schedule, steps or optimiser; `unet` takes them from the public code of the same group.
"""

from simple_diffusion.configs import base, networks

VARIANTS = ("ours", "paper")


def choose(variant: str, config, variants=VARIANTS):
    """Changes a recipe to a variant, whose name begins with "ours" or "paper".

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in variants:
        raise ValueError(f"variant {variant!r} must be one of {', '.join(variants)}")
    (ours if variant.startswith("ours") else paper)(config)
    return config


def paper(config):
    """Changes a recipe to the paper's settings, as far as the paper states them."""
    model = config.model
    model.place_bands = 8
    model.safa = ("first_conv",) * len(model.channels)
    if model.name == "uvit":
        model.position = "none"  # the transformer gets the grid, too
    config.diffusion.shift_by_resolution = False


def ours(config):
    """Changes a recipe to our improved method; results: benchmarks/RESULTS.md."""
    model = config.model
    model.place_bands = 8
    # The paper suspects the convolutions that do not depend on the scale.
    model.safa = ("all",) * len(model.channels)
    model.scale_embedding = True
    # With zeros, borders of patches would look like borders of images.
    model.padding = "edge"
    if model.name == "uvit":
        model.position = "rope"
    # Larger images need more noise to hide the same structure.
    config.diffusion.shift_by_resolution = True


def unet(smallest: int, largest: int | None):
    """Returns a recipe with the paper's U-Net for images of these sizes."""
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
    """Replaces noise prediction and its sampler by those of simple diffusion."""
    config.diffusion.schedule = base.shifted_cosine(64)
    config.diffusion.time_law = "stratified"
    config.diffusion.prediction = "v"
    config.loss.weighting = "v_mse"
    config.optimizer.warmup_steps = 1_000
    config.sample.steps = 256
    config.sample.gamma = 0.2
    return config
