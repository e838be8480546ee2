"""A folder of unusual pictures, and what it is prepared to."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from simple_diffusion.data.records import encoding, preparation, shards
from simple_diffusion.data.sources import catalogue

SMALL_SHARDS = 0.02  # megabytes: a few pictures each


def pixels(number: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-8, 9, (height, width, 3))
    return np.clip(np.asarray(image).astype(int) + noise, 0, 255).astype(np.uint8)


def make(root: Path, count: int = 40, bad: tuple[int, ...] = ()) -> Path:
    """Writes pictures of three classes in every way that a decoder has to know."""
    for k in range(count):
        image = Image.fromarray(pixels(k, 20 + 7 * k % 40, 24 + 11 * k % 50))
        path = root / ("cat", "dog", "dog-like")[k % 3] / f"{k:03d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        match k % 8:
            case 0:
                exif = Image.Exif()
                exif[0x0112] = 6  # lies on its side
                image.save(path.with_suffix(".jpg"), exif=exif)
            case 1:
                image.convert("CMYK").save(path.with_suffix(".jpg"))
            case 2:
                wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
                Image.fromarray(wide).save(path.with_suffix(".png"))
            case 3:
                image.convert("P").save(path.with_suffix(".gif"))
            case 4:
                image.putalpha(k)
                image.save(path.with_suffix(".png"))
            case 5:
                image.convert("L").save(path.with_suffix(".jpeg"))
            case 6:
                image.save(path.with_suffix(".webp"))
            case _:
                image.save(path.with_suffix(".png"))
        if k in bad:
            (file,) = path.parent.glob(f"{k:03d}.*")
            file.write_bytes(file.read_bytes()[:60])
    return root


def prepare(images: Path, output: Path, **options) -> Path:
    """Prepares a folder, in small shards; returns the output."""
    running = {k: options.pop(k) for k in ("workers", "verify") if k in options}
    options = {"shard_megabytes": SMALL_SHARDS, **options}
    settings = encoding.Settings(f"folder:{images}", **options)
    preparation.prepare(settings, output, report=lambda line: None, **running)
    return output


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every file of a folder, and of those in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def manifest_of(root: Path) -> dict:
    return json.loads((root / shards.MANIFEST).read_text())


def load_all(root: Path) -> dict[str, np.ndarray]:
    """Returns every image of both splits, by name."""
    found = {}
    for split in ("train", "holdout"):
        source = catalogue.open_source(f"records:{root}", split=split)
        for k in range(len(source)):
            found[source.name(k).split(": ")[1]] = source.read(k, 1000).image
    return found
