r"""In-painting of the embedded scenes: minutes on a laptop's CPU.

  launch/local.sh --config scenes_inpainting --workdir runs/inpainting
  launch/local.sh --mode sample --workdir runs/inpainting \
    --config.sample.image=photos/ --config.sample.hole_mask=box:12x12

The quickstart, with an image that has a hole in place of classes. Trained for the task;
`--mode restore` fills holes with a model that was not.
"""

from simple_diffusion.configs import conditions, quickstart


def get_config():
    """Returns the recipe."""
    config = quickstart.get_config()
    config.data.num_classes = 0
    config.conditions.inpainting = conditions.inpainting()
    # What is known shows the large shapes: fewer steps than the quickstart do.
    config.train.total_steps = 2_000
    return config
