"""Handwritten digits of scikit-learn, 16x16: real images, minutes on a laptop's CPU.

  launch/local.sh --config configs/digits.py --workdir runs/digits

1 797 images of ten classes come with scikit-learn; nothing is downloaded.
"""

from simple_diffusion.configs import quickstart


def get_config():
    """Returns the quickstart's network and training on digits."""
    config = quickstart.get_config()
    config.data.source = "digits"
    config.data.resolution = 16
    # Mirrored digits are not digits.
    config.data.flip = False
    config.model.trunk_dropout = 0.1
    config.train.total_steps = 2_000
    config.sample.count = 100
    config.evaluate.count_after_training = 256
    return config
