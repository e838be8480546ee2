"""ImageNet 128x128 in pixels: simple diffusion (:unet, :uvit) and SiD2 (:sid2).

  python -m simple_diffusion.main --config configs/imagenet128.py --workdir runs/im128

The default is :uvit. Expected, as published without guidance unless stated:
U-Net FID 2.26 (train) / 2.88 (eval), 1.5 M steps; U-ViT 1.94 / 3.23.
U-Net: 64 TPUv2 devices. Status: not run.
"""

from simple_diffusion.configs import imagenet


def get_config(variant: str = "uvit"):
    """Returns the recipe of a variant: unet, uvit or sid2."""
    return imagenet.recipe(variant, resolution=128)
