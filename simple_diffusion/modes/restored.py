"""What mode `restore` leaves: pictures, a sheet that compares them, and a record."""

import dataclasses
import math

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image

from simple_diffusion.build.degradation import Degradation
from simple_diffusion.core import images
from simple_diffusion.evaluation import similarity
from simple_diffusion.evaluation.lpips import Lpips
from simple_diffusion.modes.inputs import MEASUREMENT

# Rows of the sheet, and the longest side of a picture in it.
MOST_ROWS = 16
MOST_PIXELS = 512

Picture = UInt8[np.ndarray, "h w c"]


@dataclasses.dataclass(frozen=True)
class Restored:
    """One input and what became of it.

    label: the class that the model was told; the number of classes is none.
    restored: [n, h, w, c], n restorations.
    measurement: what they were made of.
    guess: its pseudo-inverse, in pixels.
    whole: the original; None if it is not known.
    known_mask: 1 where a pixel is known.
    residuals: of each restoration, before it was rounded to pixels.
    """

    name: str
    label: int
    restored: UInt8[np.ndarray, "n h w c"]
    measurement: Float[np.ndarray, "..."]
    guess: Picture
    whole: Picture | None
    known_mask: Float[np.ndarray, "h w 1"]
    residuals: Float[np.ndarray, "n"]


def write(folder: epath.Path, lost: Degradation, one: Restored) -> None:
    """Writes the pictures of one input."""
    for k, image in enumerate(one.restored):
        number = f"_{k}" if len(one.restored) > 1 else ""
        images.write_png(folder / f"{one.name}{number}.png", image)
    if lost.is_image:
        shown = np.asarray(images.to_uint8(one.measurement))
        images.write_png(folder / f"{one.name}_input.png", shown)
    else:
        path = folder / f"{one.name}_input{MEASUREMENT}"
        with path.open("wb") as file:
            np.save(file, one.measurement)
    if lost.needs_mask:
        hole = ((1 - one.known_mask) * 255).astype(np.uint8)
        images.write_png(folder / f"{one.name}_mask.png", hole)


def measure(one: Restored, lpips: Lpips | None) -> dict[str, list[float]]:
    """Returns metric -> value of each restoration.

    `psnr_input` and `ssim_input` are those of the pseudo-inverse alone: what a
    restoration has to exceed.
    """
    found = {"residual": one.residuals}
    if one.whole is not None:
        every = np.broadcast_to(one.whole, one.restored.shape)
        found["psnr"] = similarity.psnr(one.restored, every)
        found["psnr_input"] = similarity.psnr(one.guess[None], every[:1])
        if min(one.whole.shape[:2]) >= similarity.SMALLEST:
            found["ssim"] = similarity.ssim(one.restored, every)
            found["ssim_input"] = similarity.ssim(one.guess[None], every[:1])
        if lpips is not None:
            found[f"lpips_{lpips.trunk}"] = lpips(one.restored, every)
    return {name: [float(v) for v in values] for name, values in found.items()}


def means(records: list[dict[str, list[float]]]) -> dict[str, float]:
    """Returns metric -> mean over all restorations that have it."""
    names = {name: None for record in records for name in record}
    return {
        name: float(np.mean([v for r in records for v in r.get(name, [])]))
        for name in names
    }


def sheet(lost: Degradation, every: list[Restored]) -> Picture:
    """Returns a picture: each row an input, what it was restored to, and the original.

    Of many inputs only the first are shown. Smaller pictures are enlarged by whole
    factors, larger ones reduced, and what is not as large as the others is put on
    white.
    """
    rows = [_row(lost, one) for one in every[:MOST_ROWS]]
    height, width = (
        max(picture.shape[axis] for row in rows for picture in row) for axis in (0, 1)
    )
    columns = max(len(row) for row in rows)
    cells = np.full((len(rows), columns, height, width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            h, w, _ = picture.shape
            cells[y, x, :h, :w] = picture  # one channel is repeated
    return images.grid(cells.reshape(-1, height, width, 3), columns)


def _row(lost: Degradation, one: Restored) -> list[Picture]:
    shown = one.guess
    if lost.is_image:
        # As it came, not as its pseudo-inverse, which of a blur is full of ringing.
        small = np.asarray(images.to_uint8(one.measurement))
        shown = images.enlarge(small, lost.factor)
    last = [] if one.whole is None else [one.whole]
    return [_visible(picture) for picture in (shown, *one.restored, *last)]


def _visible(picture: Picture) -> UInt8[np.ndarray, "H W d"]:
    longest = max(picture.shape[:2])
    if longest <= MOST_PIXELS:
        return images.enlarge(picture, max(1, 96 // min(picture.shape[:2])))
    if picture.shape[-1] == 1:
        picture = picture.repeat(3, axis=-1)
    factor = math.ceil(longest / MOST_PIXELS)
    return np.asarray(Image.fromarray(picture).reduce(factor))
