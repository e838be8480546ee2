"""ImageNet 64x64: the cheapest published anchor of this family of models.

  python -m simple_diffusion.main --config configs/imagenet64.py --workdir runs/im64

`:unet` (default) is the modernised U-Net of the ImageNet-64 configuration of
google/hackable_diffusion, which calls it simple diffusion: rectified flow, velocity,
sigmoid loss with bias +2; 269.6 M parameters besides the embedding of time and class.
`:uvit` and `:sid2` are our adaptations of the two papers' networks to this resolution.
Expected (unet): FID about 4.1 at 500k steps and 2.7 at 2 M, as its authors state for
theirs. Status: not run.

What is known to differ from theirs in `:unet`: "no class" is a learned vector, theirs
is zero, and the table of classes starts at another scale; norms with a FiLM have a
scale of their own besides it (18 thousand parameters); 1e-6 is added to the mean square
in an RMS norm, theirs adds 1e-5; times end 5.5e-4 before 0 and 1, theirs 1e-4; samples
are clipped to [-1, 1] in every step.

They sample with DDIM and `stoch_coeff` s = 0.25. With r = (alpha_t sigma_s) / (alpha_s
sigma_t), a step of theirs keeps 1 - s (1 - r) of the estimated noise, so the share of
fresh variance is 1 - (1 - s (1 - r))^2. Our `ddim` renews eta^2 (1 - r^2). As r -> 1
both are 2 s (1 - r) for eta^2 = s: eta = 0.5 agrees within 1 % for t from 0.2 to 0.8
and renews less than theirs in the large steps of logsnr at both ends.
"""

import math

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
    model.skip = "concat"
    model.resampling = "residual"
    model.conv_norm = "rms"
    model.qk_norm = "l2"
    model.position = "rope"
    model.rope_fastest = math.pi
    model.activation = "gelu_tanh"
    model.emb_activation = "gelu_tanh"
    model.logsnr_input = "flow"  # the network is told the time
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
    # DDIM that renews a quarter of the variance that `ancestral` would, see above.
    config.sample.solver = "ddim"
    config.sample.eta = 0.5
    config.sample.steps = 250
