"""ImageNet 64x64: the cheapest published anchor of this family of models.

  python -m simple_diffusion.main --config configs/imagenet64.py --workdir runs/im64

`:unet` (default) is the modernised U-Net of Google's public JAX configuration named
after simple diffusion: rectified flow, velocity, sigmoid loss with bias +2.
`:uvit` and `:sid2` are our adaptations of the two papers' networks to this resolution.
Expected (unet): FID about 4.1 at 500k steps and 2.7 at 2 M, as stated by its authors.
Status: not run.
"""

from simple_diffusion.configs import base, imagenet, networks


def get_config(variant: str = "unet"):
    """Returns the recipe of a variant: unet, uvit or sid2."""
    config = imagenet.data(base.default(), resolution=64)
    match variant:
        case "unet":
            _reference(config)
        case "uvit":
            imagenet.uvit(config)
        case "sid2":
            imagenet.sid2(config)
        case _:
            raise imagenet.unknown(variant)
    return config


def _reference(config):
    config.model = model = networks.unet()
    model.base_channels = 192
    model.emb_channels = 192
    model.channels = (192, 384, 576, 768)
    model.blocks = (3, 3, 3, 3)
    model.heads = (3, 6, 9, 12)  # 64 channels each
    model.skip = "add"
    model.conv_norm = "rms"
    model.qk_norm = "rms"
    model.position = "rope"
    model.activation = "gelu"
    model.attention_resolutions = (8, 16)
    model.dropout = 0.1
    model.dropout_resolution = 32

    config.diffusion.family = "flow"
    config.diffusion.schedule = base.flow()
    config.diffusion.time_law = "uniform"
    config.diffusion.prediction = "u"
    config.loss.weighting = "sigmoid"
    config.loss.sigmoid_bias = 2.0

    config.optimizer.learning_rate = 3e-5
    config.train.total_steps = 3_000_000
    # DDIM with a quarter of the process's noise.
    config.sample.solver = "ddim"
    config.sample.eta = 0.25
    config.sample.steps = 250
