r"""Super-resolution of photographs in pixels, 256x256 to 1024x1024.

  python -m simple_diffusion.modes.prepare --input folder:/data/photos --size 1024 \
    --output /data/records
  python -m simple_diffusion.main --config superresolution_256x1024 --workdir runs/sr
  python -m simple_diffusion.main --mode sample --workdir runs/sr \
    --config.sample.low_resolution=small/ --config.sample.low_resolution_noise=0.1

The last stage of a cascade, or on its own. From Imagen (arXiv 2205.11487): the small
image has noise of a random level in training, of which the network is told; in sampling
a little noise helps with small images of another model. The network is a U-ViT, which
Imagen does not have; its sizes, batch and steps are our choice, and it reads no text.
Status: not run.
"""

from simple_diffusion.configs import base, conditions


def get_config():
    """Returns the recipe."""
    config = base.default()
    config.data.source = "records:/data/records"
    config.data.resolution = 1024
    config.data.num_classes = 0
    config.data.crop = "random"

    model = config.model
    # Sides 256, 128, 64 and 32, and 16 of the trunk, as that of the papers.
    model.patching = "dwt_2"
    model.channels = (128, 128, 256, 512)
    model.blocks = (2, 2, 2, 2)
    model.trunk_channels = 1024
    model.trunk_blocks = 16
    model.remat = "full"

    config.conditions.low_resolution = conditions.low_resolution(factor=4)
    # All levels of noise, from none to nearly nothing else.
    config.conditions.low_resolution.augmentation = 0.99
    # The small image shows what an image of 256 pixels shows: hide only the rest.
    config.diffusion.schedule = base.shifted_cosine(noise_d=256)
    # Guidance would exchange detail that fits the small image for typical detail.
    config.sample.guidance = 1.0

    config.train.batch_size = 512
    config.train.total_steps = 500_000
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.sample.count = 16
    config.sample.batch_size = 16
    config.evaluate.networks = ("thumbnail",)
    return config
