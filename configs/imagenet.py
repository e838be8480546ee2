"""Common parts of the ImageNet recipes: data, and the two papers' networks.

Sources: simple diffusion (arXiv 2301.11093), appendix B, and SiD2 (arXiv 2410.19324).
"""

from simple_diffusion.configs import base, networks

PATCHING = {64: "none", 128: "none", 256: "dwt_1", 512: "dwt_2"}
UNET = {
    128: dict(
        channels=(128, 256, 512, 1024, 1024),
        blocks=(3, 4, 4, 12, 4),
        patching="none",
        steps=1_500_000,
        noise_d=32,
    ),
    256: dict(
        channels=(128, 128, 256, 512, 1024, 1024),
        blocks=(1, 2, 2, 4, 12, 4),
        patching="none",
        steps=2_000_000,
        noise_d=32,
    ),
    512: dict(
        channels=(256, 384, 512, 1024, 1024),
        blocks=(3, 3, 4, 12, 4),
        patching="dwt_2",
        steps=2_000_000,
        noise_d=64,
    ),
}


def recipe(variant: str, resolution: int):
    """Returns the config of a variant (unet, uvit, sid2) at 128, 256 or 512 pixels."""
    config = data(base.default(), resolution)
    match variant:
        case "unet":
            unet(config)
        case "uvit":
            uvit(config)
        case "sid2":
            sid2(config)
        case _:
            raise unknown(variant)
    return config


def unknown(variant: str) -> ValueError:
    """Returns the error for a variant that does not exist."""
    return ValueError(
        f"variant {variant!r} must be one of unet, uvit, sid2 (configs/...py:VARIANT)"
    )


def data(config, resolution: int):
    """Sets the data: area resize, central crop, random mirror, 1000 classes."""
    config.data.source = "tfds:imagenet2012"
    config.data.resolution = resolution
    config.data.num_classes = 1000
    # No guidance by default: the papers first report samples without it.
    config.sample.steps = 1000
    # FID of 50k samples and the full training set needs the weights of Inception: see
    # the README. Training a classifier of a thousand classes here would take too long.
    config.evaluate.networks = ("thumbnail",)
    config.evaluate.count = 50_000
    return config


def unet(config) -> None:
    """Sets the U-Net: v-prediction, unweighted error of eps over uniform time."""
    side = config.data.resolution
    table = UNET[side]
    config.model = model = networks.unet()
    model.channels = table["channels"]
    model.blocks = table["blocks"]
    model.heads = (4,) * len(model.blocks)
    model.patching = table["patching"]
    model.remat = "full"
    config.diffusion.schedule = base.shifted_cosine(table["noise_d"])
    config.loss.weighting = "eps_mse"
    config.loss.multiscale = side > 256
    config.optimizer.learning_rate = 5e-5
    config.optimizer.b2 = 0.999 if side == 128 else 0.99
    config.train.batch_size = 512
    config.train.total_steps = table["steps"]
    # 16 GB of parameters, moments and average.
    config.mesh.data = 1
    config.mesh.fsdp = -1


def uvit(config) -> None:
    """Sets the U-ViT of 2.5 billion parameters: v-prediction, error of v."""
    side = config.data.resolution
    config.model = networks.uvit()
    config.model.patching = PATCHING[side]
    config.model.remat = "full"
    config.diffusion.schedule = base.shifted_cosine(64)
    config.loss.weighting = "v_mse"
    config.train.batch_size = 2048
    config.train.total_steps = 500_000
    # 39 GB of parameters, moments and average: shard them over the devices.
    config.mesh.data = 1
    config.mesh.fsdp = -1


def sid2(config) -> None:
    """Sets the Residual U-ViT with the sigmoid loss.

    SiD2's results use guidance in an interval of logsnr, but it does not state the
    limits: the user sets sample.guidance, guidance_low and guidance_high.
    """
    side = config.data.resolution
    config.model = networks.residual_uvit()
    # UViT/2 up to 256 pixels, UViT/4 at 512: the small models of the paper.
    config.model.patching = "conv_4" if side == 512 else "conv_2"
    config.model.remat = "full"
    # With the sigmoid loss the schedule affects only the variance of the loss.
    config.diffusion.schedule = base.shifted_cosine(64)
    # Its bias follows the resolution: 2, 0, -1, -3 at 64, 128, 256, 512.
    config.loss.weighting = "sigmoid"
    config.train.batch_size = 2048
    config.train.total_steps = 500_000
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.sample.steps = 512
