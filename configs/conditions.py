"""The section `conditions`: what a network is conditioned on besides class, place."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from simple_diffusion.configs.keys import Declaration, choice, number, section


def text(length: int = 32) -> ConfigDict:
    """Captions, read by a small transformer that is trained with the network."""
    return section(
        "conditions.text",
        dict(
            # Number of tokens; longer captions are cut.
            length=number(length, "[1, 4096]"),
            # Number of different words that are known, with padding and "unknown".
            vocabulary=number(1024, "[3, 1e6]"),
            # Of the transformer. All conditions with tokens need the same width.
            width=number(128, "[1, 65536]"),
            depth=number(2, "[0, 1024]"),
            heads=number(4, "[1, 1024]"),
            # Whether the mean of the tokens is also added to the embedding (Imagen).
            pooled=False,
            drop=_drop(),
        ),
    )


def text_features(
    encoder: str | None = None,
    features: int = 4096,
    length: int = 128,
    width: int = 512,
) -> ConfigDict:
    """Captions, read by a frozen text encoder: T5 or CLIP.

    Training reads features that simple_diffusion.modes.prepare --text_encoder stored.
    """
    return section(
        "conditions.text_features",
        dict(
            # Folder of the encoder, for prompts. Training compares it with the one
            # that made the features, if it exists there.
            encoder=placeholder(str) if encoder is None else encoder,
            # Of each token: 4096 of T5-XXL.
            features=number(features, "[1, 65536]"),
            # Number of tokens, at least as many as were stored of the longest caption.
            length=number(length, "[1, 4096]"),
            # Of the tokens that cross-attention reads, a linear map of the features.
            # All conditions with tokens need the same width.
            width=number(width, "[1, 65536]"),
            drop=_drop(),
        ),
    )


def layout(classes: int = 1) -> ConfigDict:
    """Boxes with classes, as tokens without an order."""
    return section(
        "conditions.layout",
        dict(
            # Number of classes of objects, as the data source has them.
            classes=number(classes, "[1, 1e6]"),
            # Largest number of boxes; of more, the largest ones are kept.
            objects=number(12, "[1, 4096]"),
            # All conditions with tokens need the same width.
            width=number(128, "[1, 65536]"),
            # Frequencies of the Fourier features of corners, each twice the last.
            bands=number(8, "[1, 32]"),
            drop=_drop(),
        ),
    )


def semantic(classes: int = 1) -> ConfigDict:
    """A map with a class for each pixel, joined to the input by channels."""
    return section(
        "conditions.semantic",
        dict(
            # Name of the map in the examples.
            map="semantic",
            # Number of its classes, as the data source has them.
            classes=number(classes, "[1, 1e6]"),
            # Of the learned 1x1 convolution that reduces the one-hot classes.
            channels=number(8, "[1, 65536]"),
            drop=_drop(),
        ),
    )


def low_resolution(factor: int = 4) -> ConfigDict:
    """A small image, enlarged and joined to the input by channels: super-resolution."""
    return section(
        "conditions.low_resolution",
        dict(
            # Pixels of a large image along a side of one pixel of the small image.
            factor=number(factor, "[2, 64]"),
            # How small images are made; bsr_light also blurs, compresses, adds noise.
            degradation=choice("bicubic", "bicubic | area | bsr_light"),
            # Noise of the small image in training: times of the cosine schedule from 0,
            # which is none, to this one. The network is told the level.
            augmentation=number(0.0, "[0, 1)"),
            drop=_drop(),
        ),
    )


def inpainting() -> ConfigDict:
    """The image outside of a hole, and the mask of the hole, joined by channels."""
    return section(
        "conditions.inpainting",
        dict(
            # Kinds of holes in training, as LaMa draws them, in equal parts.
            holes=choice(("strokes", "boxes", "half"), "strokes | boxes | half"),
            drop=_drop(),
        ),
    )


def image(name: str = "depth", channels: int = 1) -> ConfigDict:
    """Any map, such as depth, edges or a picture, joined by channels."""
    return section(
        "conditions.image",
        dict(
            # Name of the map in the examples.
            map=name,
            channels=number(channels, "[1, 1024]"),
            # Whether it holds pixels (0 to 255) or a measure between low and high;
            # both are scaled to [-1, 1].
            kind=choice("measure", "pixels | measure"),
            low=number(0.0, "[-1e9, 1e9]"),
            high=number(1.0, "[-1e9, 1e9]"),
            drop=_drop(),
        ),
    )


def vector(name: str = "features", features: int = 1) -> ConfigDict:
    """Numbers of each example, such as a camera, added to the embedding."""
    return section(
        "conditions.vector",
        dict(
            # Name of the vector in the examples, and how many numbers it has.
            vector=name,
            features=number(features, "[1, 65536]"),
            drop=_drop(),
        ),
    )


def _drop() -> Declaration:
    # Fraction of examples in which this condition alone is dropped.
    return number(0.0, "[0, 1]")


# By name, as in the section `conditions`.
KINDS = {
    "text": text,
    "text_features": text_features,
    "layout": layout,
    "semantic": semantic,
    "low_resolution": low_resolution,
    "inpainting": inpainting,
    "image": image,
    "vector": vector,
}


def conditions() -> ConfigDict:
    """No conditions; each is a section that the function of the same name builds."""
    return section(
        "conditions",
        dict(
            # Fraction of examples in which all conditions are dropped, for guidance.
            drop_all=number(0.1, "[0, 1]"),
            # Captions.
            text=placeholder(ConfigDict),
            # Captions, by a frozen text encoder.
            text_features=placeholder(ConfigDict),
            # Boxes with classes.
            layout=placeholder(ConfigDict),
            # A class for each pixel.
            semantic=placeholder(ConfigDict),
            # A small image, for super-resolution.
            low_resolution=placeholder(ConfigDict),
            # An image with a hole.
            inpainting=placeholder(ConfigDict),
            # Any other map, such as depth.
            image=placeholder(ConfigDict),
            # Numbers, such as a camera.
            vector=placeholder(ConfigDict),
        ),
    )


def guidance_of() -> ConfigDict:
    """The section `sample.guidance_of`: no weights of single conditions."""
    weights = {
        # Each its own placeholder: a value of a shared one would be that of all.
        name: number(placeholder(float), "[0, 1000]")
        for name in ("classes", *KINDS)
    }
    return section("sample.guidance_of", weights)
