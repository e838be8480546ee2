"""The outputs of restorations: pictures, metrics, and an overview sheet."""

import dataclasses
import math

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image

from simple_diffusion.build.restoration.degradation import Degradation
from simple_diffusion.core import images
from simple_diffusion.evaluation.metrics import intervals, similarity
from simple_diffusion.evaluation.networks.lpips import Lpips
from simple_diffusion.pipelines.restoration.inputs import MEASUREMENT

# Number of rows of the sheet, and longest side of a picture in it.
MOST_ROWS = 16
MOST_PIXELS = 512

# Folders of the written files.
KINDS = ("images", "inputs", "masks")

Picture = UInt8[np.ndarray, "h w c"]


@dataclasses.dataclass(frozen=True)
class Restored:
    """One input and its restorations.

    label: the class that the model is given; the number of classes means no class.
    restored: [n, h, w, c], n restorations.
    measurement: the measurement y of the input.
    guess: its pseudo-inverse, in pixels.
    original: the image before degradation; None if it is unknown.
    known_mask: 1 where a pixel is known.
    residuals: of each restoration, before rounding to pixels.
    residuals_stored: of each restoration as stored in 8 bits.
    """

    name: str
    label: int
    restored: UInt8[np.ndarray, "n h w c"]
    measurement: Float[np.ndarray, "..."]
    guess: Picture
    original: Picture | None
    known_mask: Float[np.ndarray, "h w 1"]
    residuals: Float[np.ndarray, "n"]
    residuals_stored: Float[np.ndarray, "n"]


def write(folder: epath.Path, degradation: Degradation, one: Restored) -> list[str]:
    """Writes the files of one input; returns their paths relative to the folder.

    Each kind of file has its own folder, so that names cannot collide.
    """
    several = len(one.restored) > 1
    pictures = {
        f"images/{one.name}{f'_{k}' if several else ''}.png": image
        for k, image in enumerate(one.restored)
    }
    numbers = []
    if degradation.is_image:
        shown = np.asarray(images.to_uint8(one.measurement))
        pictures[f"inputs/{one.name}.png"] = shown
    else:
        numbers = [f"inputs/{one.name}{MEASUREMENT}"]
    if degradation.needs_mask:
        hole = ((1 - one.known_mask) * 255).astype(np.uint8)
        pictures[f"masks/{one.name}.png"] = hole
    for path, picture in pictures.items():
        images.write_png(folder / path, picture)
    for path in numbers:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("wb") as file:
            np.save(file, one.measurement)
    return [*pictures, *numbers]


def remove(folder: epath.Path, paths: list[str]) -> None:
    """Removes files of an earlier run, so that the folder holds one run only."""
    for path in paths:
        # The paths come from a record file: never delete outside of our folders.
        if path.split("/")[0] in KINDS and ".." not in path:
            (folder / path).unlink(missing_ok=True)


def measure(one: Restored, lpips: Lpips | None) -> dict[str, list[float]]:
    """Returns metric -> value of each restoration.

    `residual` is the root mean square of A x - y for images in [-1, 1], and
    `residual_stored` that of the 8-bit image. `psnr_input` and `ssim_input` are the
    values of the pseudo-inverse, a baseline for the restoration. Images that are too
    small for SSIM or LPIPS have no such values.
    """
    values = {"residual": one.residuals, "residual_stored": one.residuals_stored}
    if one.original is not None:
        originals = np.broadcast_to(one.original, one.restored.shape)
        h, w, channels = one.original.shape
        values["psnr"] = similarity.psnr(one.restored, originals)
        values["psnr_input"] = similarity.psnr(one.guess[None], originals[:1])
        if min(h, w) >= similarity.SMALLEST:
            values["ssim"] = similarity.ssim(one.restored, originals)
            values["ssim_input"] = similarity.ssim(one.guess[None], originals[:1])
        if lpips is not None and lpips.supports(h, w, channels):
            values[f"lpips_{lpips.trunk}"] = lpips(one.restored, originals)
    return {name: [float(v) for v in column] for name, column in values.items()}


def average(records: list[dict[str, list[float]]]) -> dict[str, float]:
    """Returns metric -> mean over all restorations that have it."""
    names = {name: None for record in records for name in record}
    return {
        name: float(np.mean([v for r in records for v in r.get(name, [])]))
        for name in names
    }


def estimate_intervals(records: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Returns metric -> 95 % interval of its mean, by bootstrap over the inputs.

    The bootstrap is not over restorations, because those of one input are correlated.
    There is no interval for infinite values, such as the PSNR of equal images, and for
    fewer than two inputs.
    """
    names = {name: None for record in records for name in record}
    intervals_by_name = {}
    for name in names:
        values = [np.mean(r[name]) for r in records if r.get(name)]
        if len(values) > 1 and np.isfinite(values).all():
            intervals_by_name[name] = list(intervals.bootstrap(np.array(values)))
    return intervals_by_name


def render_sheet(degradation: Degradation, results: list[Restored]) -> Picture:
    """Returns a picture with a row per input: input, restorations and original.

    Only the first inputs are shown. Small pictures are enlarged by integer factors,
    large ones reduced, and pictures smaller than the others are padded with white.
    """
    rows = [_row(degradation, one) for one in results[:MOST_ROWS]]
    height, width = (
        max(picture.shape[axis] for row in rows for picture in row) for axis in (0, 1)
    )
    columns = max(len(row) for row in rows)
    cells = np.full((len(rows), columns, height, width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            h, w, _ = picture.shape
            cells[y, x, :h, :w] = picture  # repeats a single channel
    return images.make_grid(cells.reshape(-1, height, width, 3), columns)


def _row(degradation: Degradation, one: Restored) -> list[Picture]:
    shown = one.guess
    if degradation.is_image:
        # Show the input, not its pseudo-inverse, which has ringing after a blur.
        small = np.asarray(images.to_uint8(one.measurement))
        shown = images.enlarge(small, degradation.factor)
    last = [] if one.original is None else [one.original]
    return [_visible(picture) for picture in (shown, *one.restored, *last)]


def _visible(picture: Picture) -> UInt8[np.ndarray, "H W d"]:
    if picture.shape[-1] == 4:
        picture = images.to_rgb(picture)
    longest = max(picture.shape[:2])
    if longest <= MOST_PIXELS:
        return images.enlarge(picture, max(1, 96 // min(picture.shape[:2])))
    if picture.shape[-1] == 1:
        picture = picture.repeat(3, axis=-1)
    factor = math.ceil(longest / MOST_PIXELS)
    return np.asarray(Image.fromarray(picture).reduce(factor))
