"""Common parts of the text-to-image recipes of simple diffusion (arXiv 2301.11093).

Published: one stage in pixels at 256 and 512; the U-ViT of the ImageNet recipes, whose
level of 32x32 also consists of transformer blocks; cross-attention to T5-XXL features;
v-prediction, 700 thousand steps, a sampling variance gamma of 1; at 512 the schedule
interpolate(32 -> 256), which its pseudo-code reads as the shift of 256 at the clean end
and that of 32 at the noisy end, and its equation 6 the other way round. Here: as in the
pseudo-code.

Not published, and chosen here: the data; the schedule at 256 (the same); 128 tokens;
captions dropped in 10 % of the examples; the flag alone in another 10 %, so that
prompts need none; heads and dropout of the level of 32x32 (those of the trunk), how its
blocks merge skips ((x + skip) / sqrt 2), and a learned position table for it; the
guidance of the reported FID (the paper sweeps 1 to 4).

Variants: `square`, the default, and `landscape`, images of 5:3 and about as many
pixels. As in the paper, portrait images are turned to landscape, with a flag as a
condition that tells so; `sample.vector=1` asks for portrait images, 0 for others.
"""

from simple_diffusion.configs import base, conditions, imagenet

LANDSCAPE = {256: "192x320", 512: "384x640"}


def recipe(resolution: int, variant: str = "square"):
    """Returns the config at 256 or 512 pixels.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in ("square", "landscape"):
        raise ValueError(f"variant {variant!r} must be one of square, landscape")
    config = base.default()
    config.data.source = "records:/data/records"
    config.data.resolution = resolution
    config.data.num_classes = 0
    # Stored features are those of the captions of images that are not mirrored.
    config.data.flip = False
    imagenet.uvit(config)
    # Of sides 128, 64 and 32 after the wavelets; the trunk has 16.
    config.model.kinds = ("conv", "conv", "transformer")
    config.conditions.text_features = conditions.text_features(
        features=4096, length=128, width=2048
    )
    config.diffusion.schedule = base.interpolated_cosine(clean_d=256, noisy_d=32)
    if variant == "landscape":
        config.data.resolution = LANDSCAPE[resolution]
        config.data.portrait = "turn"
        config.conditions.vector = conditions.vector("portrait")
        config.conditions.vector.drop = 0.1
    config.train.total_steps = 700_000
    config.sample.steps = 1000
    config.sample.gamma = 1.0
    config.evaluate.networks = ("thumbnail",)
    # FID-30K needs the weights of Inception, see the README, and 1 MB of memory for
    # the features of each caption.
    config.evaluate.count = 30_000
    return config
