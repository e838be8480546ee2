"""Restoration of images in memory or in files, for the Python API."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from simple_diffusion.build.restoration import restoration
from simple_diffusion.core import images
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Progress
from simple_diffusion.data import decode
from simple_diffusion.pipelines.restoration import masks, outputs, photos
from simple_diffusion.pipelines.restoration.inputs import Input
from simple_diffusion.pipelines.restoration.outputs import Restored
from simple_diffusion.pipelines.restoration.restorer import Restorer
from simple_diffusion.pipelines.trained import Trained

ImageLike = np.ndarray | Image.Image | str | os.PathLike
# The path of inputs that are arrays.
_IN_MEMORY = "array"


@dataclasses.dataclass(frozen=True)
class Restoration:
    """The restorations of one input.

    images: [n, h, w, c], n restorations; a list of PIL images if requested.
    inputs: the degraded image for viewing, with holes in the middle of the range; the
      pseudo-inverse if the measurement is not an image.
    measurement: the measurement y, in the shape of the operator's output.
    residual: of each restoration, the root mean square of A x - y for images in
      [-1, 1], before rounding to pixels.
    original: the image before degradation, with `degrade=True`; otherwise None.
    metrics: metric -> value of each restoration: the residuals, and with
      `degrade=True` PSNR and SSIM.
    """

    images: Any
    inputs: UInt8[np.ndarray, "H W d"]
    measurement: Float[np.ndarray, "..."]
    residual: Float[np.ndarray, "n"]
    original: UInt8[np.ndarray, "h w c"] | None
    metrics: dict[str, list[float]]

    def replace_images(self, images: Any) -> "Restoration":
        """Returns the same with other images."""
        return dataclasses.replace(self, images=images)


def restore(
    trained: Trained,
    config: Config,
    given: ImageLike | Sequence[ImageLike],
    hole_mask: ImageLike | Sequence[ImageLike] | None,
    progress: Progress | None,
    cache: dict,
) -> list[Restoration]:
    """Returns the restorations of each input, in the order of the inputs.

    Args:
      trained: the model.
      config: the whole config; its `restore.input` and `restore.hole_mask` are not
        used.
      given: the inputs, see `Model.restore`.
      hole_mask: see there.
      progress: see there.
      cache: of compiled programs.

    Raises:
      ValueError: settings or inputs are invalid.
      OSError: a file cannot be read.
    """
    values = list(given) if isinstance(given, list | tuple) else [given]
    if not values:
        raise ValueError("restore needs at least one input, got an empty list")
    holes: list[Any] = [None] * len(values)
    config.restore.input, config.restore.hole_mask = _IN_MEMORY, None
    if isinstance(hole_mask, str | os.PathLike):
        config.restore.hole_mask = os.fspath(hole_mask)
        masks.check(config.restore.hole_mask)
    elif hole_mask is not None:
        is_list = isinstance(hole_mask, list | tuple)
        holes = list(hole_mask) if is_list else [hole_mask] * len(values)
        if len(holes) != len(values):
            raise ValueError(f"got {len(holes)} hole masks for {len(values)} inputs")
        config.restore.hole_mask = _IN_MEMORY
    plan = restoration.read_plan(config, trained.net, trained.classes)
    is_image = plan.degrade or plan.degradation.is_image
    items = [
        _input(k, value, hole, is_image, trained.net.size[2])
        for k, (value, hole) in enumerate(zip(values, holes, strict=True))
    ]
    if len({item.name for item in items}) < len(items):  # a/x.png and b/x.png
        items = [
            dataclasses.replace(item, name=f"{item.name}_{k}")
            for k, item in enumerate(items)
        ]
    restorer = Restorer(
        *(trained, config, plan), notify=lambda _: None, progress=progress, cache=cache
    )
    restored: dict[str, Restored] = {}
    for number, item in enumerate(items):
        restorer.add(item, number)
        restored |= {one.name: one for one in restorer.ready()}
    restored |= {one.name: one for one in restorer.rest()}
    return [_restoration(restored[item.name], plan) for item in items]


def stack_images(
    given: ImageLike | Sequence[ImageLike], channels: int
) -> UInt8[np.ndarray, "b h w c"]:
    """Returns images of one size as one array.

    Raises:
      ValueError: the sizes differ, or an input is not an image.
    """
    if isinstance(given, np.ndarray) and given.ndim == 4:
        return _check_pixels(given)
    values = given if isinstance(given, list | tuple) else [given]
    batch = [_photo(image, channels).pixels for image in values]
    if channels == 4:
        batch = [
            decode.from_rgb(image, 4) if image.shape[2] == 3 else image
            for image in batch
        ]
    batch = [image[..., :channels] for image in batch]
    if len({image.shape for image in batch}) != 1:
        shapes = ", ".join(f"{h}x{w}" for h, w, _ in (i.shape for i in batch))
        raise ValueError(f"images must have one size, got {shapes}")
    return np.stack(batch)


def _input(number: int, value: Any, hole: Any, is_image: bool, channels: int) -> Input:
    pixels = None if hole is None else _hole(hole)
    if isinstance(value, str | os.PathLike):
        path = Path(value).expanduser()
        # The same name as on the command line: random numbers depend on it.
        return Input(path.stem, path.stem, path, hole=pixels)
    name = f"{_IN_MEMORY}_{number}"
    if is_image:
        return Input(name, name, Path(name), photo=_photo(value, channels), hole=pixels)
    return Input(name, name, Path(name), measurement=np.asarray(value), hole=pixels)


def _photo(value: Any, channels: int) -> photos.Photo:
    if isinstance(value, str | os.PathLike):
        return photos.read(Path(value).expanduser(), channels)
    if isinstance(value, Image.Image):
        is_grey = value.mode in ("1", "L")
        colours = "RGBA" if channels == 4 else "RGB"
        value = np.asarray(value.convert("L" if is_grey else colours))
    return photos.from_pixels(_check_pixels(value))


def _check_pixels(value: Any) -> UInt8[np.ndarray, "*b h w c"]:
    array = np.asarray(value)
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or not array.size:
        raise ValueError(
            "an image must be a uint8 array [h, w, c] or [h, w] with values from 0 to "
            f"255, a PIL image or a path; got {array.dtype} {list(array.shape)}"
        )
    return array


def _hole(value: Any) -> UInt8[np.ndarray, "h w c"]:
    if isinstance(value, str | os.PathLike):
        masks.check(os.fspath(value))
        return photos.read(Path(value).expanduser()).pixels
    array = np.asarray(value.convert("L") if isinstance(value, Image.Image) else value)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        raise ValueError(
            "hole_mask must be bool, or uint8 with 255 where the image is filled and 0 "
            f"where it is known; got {array.dtype}"
        )
    return array[..., None] if array.ndim == 2 else array


def _restoration(one: Restored, plan: restoration.Plan) -> Restoration:
    shown = one.guess
    if plan.degradation.is_image:
        shown = np.asarray(images.to_uint8(one.measurement))
    return Restoration(
        images=one.restored,
        inputs=shown,
        measurement=one.measurement,
        residual=one.residuals,
        original=one.original,
        metrics=outputs.measure(one, None),
    )
