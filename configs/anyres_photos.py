"""Any-resolution training on a folder of photographs, up to their stored sizes.

  launch/local.sh --config configs/anyres_photos.py --workdir runs/photos \\
    --config.data.source=folder:/path/to/photographs

Patches of 64x64 from photographs resized to a shorter side between 64 pixels and their
stored size, in their own aspect ratio. A U-ViT for one GPU with 16 GB. Variants: `ours`
(the default) and `paper` (see anyres.py). To try it on a CPU:

    --config.train.batch_size=16 --config.train.total_steps=2000 \\
    --config.data.patches.largest=128

Status: not run.
"""

from simple_diffusion.configs import anyres, base


def get_config(variant: str = "ours"):
    """Returns one of the variants."""
    config = base.default()
    config.data.source = "folder:photographs"
    config.data.resolution = 64
    config.data.resize = "antialias"
    config.data.patches = base.patches(64, None)
    config.data.patches.aspect = None
    # Equal shares of images of 64 to 128 pixels, of 128 to 256 pixels, and so on.
    config.data.patches.law = "log_uniform"

    model = config.model
    model.patching = "haar_2"
    model.channels = (128, 256)
    model.blocks = (2, 2)
    model.trunk_channels = 512
    model.trunk_blocks = 8
    model.trunk_heads = 8
    model.trunk_dropout = 0.0
    model.emb_channels = 512

    config.diffusion.schedule = base.shifted_cosine(noise_d=32)
    # With patches of 4x4 pixels v-prediction learns the noise first: see quickstart.py.
    config.diffusion.prediction = "x"
    config.loss.weighting = "min_snr"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.decay = "cosine"
    config.optimizer.warmup_steps = 1_000
    config.ema.warmup = True
    config.train.batch_size = 64
    config.train.total_steps = 200_000
    config.sample.count = 16
    config.sample.batch_size = 16
    config.sample.solver = "dpmpp_2m"
    config.sample.steps = 50
    config.sample.also_sizes = ("96x128", "128x128")
    return anyres.choose(variant, config)
