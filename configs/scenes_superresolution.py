r"""Super-resolution of the embedded scenes, 16x16 to 64x64: minutes on a laptop's CPU.

  launch/local.sh --config scenes_superresolution --workdir runs/superresolution
  launch/local.sh --mode sample --workdir runs/superresolution \
    --config.sample.low_resolution=small/

The quickstart at 64 pixels, with a small image in place of classes.
"""

from simple_diffusion.configs import base, conditions, quickstart


def get_config():
    """Returns the recipe."""
    config = quickstart.get_config()
    config.data.num_classes = 0
    config.data.resolution = 64
    config.conditions.low_resolution = conditions.low_resolution(factor=4)
    # The small image shows what the noise hides: the task is detail, not large shapes.
    config.diffusion.schedule = base.shifted_cosine(noise_d=32)
    # Guidance would exchange detail that fits the small image for typical detail.
    config.sample.guidance = 1.0
    # Four times the pixels of the quickstart.
    config.train.batch_size = 16
    config.train.total_steps = 1_500
    config.sample.count = 48
    config.sample.batch_size = 24
    config.evaluate.batch_size = 24
    return config
