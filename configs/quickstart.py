"""A small class-conditional U-ViT on the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh

Twelve classes of procedurally drawn scenes at 32x32 pixels; nothing is downloaded. The
differences from the papers' recipes let it train within a few minutes; comments give
the reason for each.
"""

from simple_diffusion.configs import base


def get_config():
    """Returns the quickstart."""
    config = base.default()
    config.data.source = "scenes"
    config.data.resolution = 32

    model = config.model
    # Few large operations use a CPU well: patches of 4x4, then 8x8 maps of 128
    # channels and 4x4 tokens of 256. Maps of 64 channels reach half the FLOP/s.
    model.patching = "haar_2"
    model.channels = (128,)
    model.blocks = (2,)
    model.trunk_channels = 256
    model.trunk_blocks = 4
    model.trunk_heads = 4
    model.trunk_dropout = 0.0
    model.base_channels = 64
    model.emb_channels = 256
    # Unrolled: four blocks compile fast and run faster than a loop.
    model.scan_unroll = 4

    # Large shapes form at high noise: use the schedule of an image of 8 pixels.
    config.diffusion.schedule = base.shifted_cosine(noise_d=8)
    # With patches, v-prediction first learns every pixel of the noise. x-prediction
    # learns the image at once (JiT, arXiv 2511.13720): samples are clean after 500
    # steps.
    config.diffusion.prediction = "x"
    config.loss.weighting = "min_snr"

    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay = "cosine"
    config.optimizer.warmup_steps = 100
    config.ema.decay = 0.998
    # Otherwise the average would still contain the random initialisation at the end.
    config.ema.warmup = True

    config.train.batch_size = 32
    config.train.total_steps = 3_000
    config.train.log_every_steps = 50
    config.train.checkpoint_every_steps = 500
    config.train.sample_every_steps = 500

    config.sample.count = 96
    config.sample.batch_size = 48
    config.sample.solver = "dpmpp_2m"
    config.sample.steps = 24
    config.sample.guidance = 2.0

    config.evaluate.count = 2_400
    config.evaluate.batch_size = 48
    config.evaluate.count_after_training = 480
    return config
