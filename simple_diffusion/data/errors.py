"""Errors of the data layer: of a whole data source, or of one image."""

from pathlib import Path


class DataError(ValueError):
    """The data cannot be used; the message names the config key to change."""


def format_path(path: str | Path) -> str:
    """Returns a path as valid Unicode, which a file name need not be."""
    return str(path).encode("utf-8", "replace").decode()


class BadImage(Exception):
    """One image cannot be used, for a reason that lies in its file.

    The pipeline skips such an image, with a warning that names it.

    Args:
      path: the file, or the position of the image in its dataset.
      reason: what is wrong with it, in a few words.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{format_path(path)}: {reason}")


class UnsuitableImage(Exception):
    """One image can be decoded, but does not suit the settings.

    Its text says what is wrong with the image, in a few words. The code that knows the
    name of the image turns this into a `BadImage`.
    """
