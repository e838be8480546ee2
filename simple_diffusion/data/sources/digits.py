"""Real handwritten digits of 8x8 pixels, which come with scikit-learn."""

import numpy as np
from PIL import Image

from simple_diffusion.core.examples import Example
from simple_diffusion.data import decode


class DigitsSource:
    """The 1797 digits of scikit-learn's `load_digits`, of which a tenth is held out.

    Args:
      split: "train" or "holdout".
      channels: 1, 3 or 4; all grey.
    """

    class_names = tuple("0123456789")
    fields = frozenset({"image", "label"})

    def __init__(self, split: str, channels: int = 3):
        self.channels = channels
        # Imported here: it takes a second, and only this source needs it.
        from sklearn import datasets

        ink, labels = datasets.load_digits(return_X_y=True)  # ink [n, 64], 0 to 16
        images = np.round(np.asarray(ink) * (255 / 16)).astype(np.uint8)
        # Neighbours are by the same writer, so every tenth image samples all writers.
        held_out = np.arange(len(images)) % 10 == 9
        chosen = held_out if split == "holdout" else ~held_out
        self._images = images.reshape(-1, 8, 8)[chosen]
        self._labels = np.asarray(labels)[chosen]

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, index: int, resolution: int) -> Example:
        """Returns white on black at exactly the resolution; see `protocols.Source`."""
        image = Image.fromarray(self._images[index])
        image = image.resize((resolution, resolution), Image.Resampling.BICUBIC)
        pixels = decode.from_rgb(np.asarray(image.convert("RGB")), self.channels)
        return Example(pixels, int(self._labels[index]))
