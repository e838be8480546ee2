"""What can be wrong with data: with its place or form, or with one image of it."""

from pathlib import Path


class DataError(ValueError):
    """The data cannot be used; the message names the config key to change."""


def printable(path: str | Path) -> str:
    """Returns a path as text: a file name need not be valid Unicode, a log must be."""
    return str(path).encode("utf-8", "replace").decode()


class BadImage(Exception):
    """One image cannot be read, for a reason that lies in its file.

    The pipeline skips such an image, with a warning that names it.

    Args:
      path: the file, or where the image stands in its data set.
      why: what is wrong with it, in a few words.
    """

    def __init__(self, path: str | Path, why: str):
        super().__init__(f"{printable(path)}: {why}")


class Unfit(Exception):
    """One image can be read, but not used; whoever knows its name makes it a BadImage.

    Args:
      why: what is wrong with it, in a few words.
    """
