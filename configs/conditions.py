"""The section `conditions`: what a network is conditioned on besides class, place."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from simple_diffusion.configs.keys import number, section


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
            # Fraction of examples in which this condition alone is dropped.
            drop=number(0.0, "[0, 1]"),
        ),
    )


# By name, as in the section `conditions`.
KINDS = {"text": text}


def conditions() -> ConfigDict:
    """No conditions."""
    return section(
        "conditions",
        dict(
            # Fraction of examples in which all conditions are dropped, for guidance.
            drop_all=number(0.1, "[0, 1]"),
            # Captions: a section built by `text`.
            text=placeholder(ConfigDict),
        ),
    )
