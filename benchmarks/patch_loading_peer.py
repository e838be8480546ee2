"""The peers' side of `patch_loading`: PyTorch's DataLoader and Grain, with Pillow.

A worker of `protocol`, run by the interpreter of the peers' own environment. A variant
is a loader and a way to make a patch, such as "torch" or "grain:draft".
"""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import protocol

LANCZOS = Image.Resampling.LANCZOS


class Patch:
    """Makes a patch of a file: size, flip and place drawn at random, and its box.

    Args:
      spec: its resolution and largest size.
      way: "": decode, resize, crop, as it is commonly written. "draft": decode at the
        scale that leaves two pixels for each. "box": that, and resize only the patch.
    """

    def __init__(self, spec: protocol.Spec, way: str):
        self.side, self.largest, self.way = spec.resolution, spec.largest, way

    def __call__(self, path: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns image and box."""
        whether, where, coin, row, column = rng.random(5)
        p = s = self.side
        if whether >= 0.5:
            s = round(p + where * (self.largest - p))
        y, x = int(row * (s - p + 1)), int(column * (s - p + 1))
        flip = coin < 0.5
        with Image.open(path) as image:
            if self.way:
                image.draft("RGB", (2 * s, 2 * s))
            image = image.convert("RGB")
        if self.way == "box":
            left = s - p - x if flip else x
            pixels = image.width / s
            box = [v * pixels for v in (left, y, left + p, y + p)]
            image = image.resize((p, p), LANCZOS, box)
            if flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        else:
            image = image.resize((s, s), LANCZOS)
            if flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image = image.crop((x, y, x + p, y + p))
        box = np.array([y, x, y + p, x + p], np.float32) / s
        return {"image": np.array(image), "box": box}


def torch_batches(spec: protocol.Spec, files: list[str], patch: Patch) -> Iterator[Any]:
    """Returns batches from a DataLoader with worker processes."""
    import torch
    from torch.utils import data

    class Patches(data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> dict[str, np.ndarray]:
            return patch(files[index], self.rng)

        @property
        def rng(self) -> np.random.Generator:
            if not hasattr(self, "_rng"):
                self._rng = np.random.default_rng(torch.initial_seed())
            return self._rng

    class Endless(data.Sampler):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield from torch.randperm(len(files)).tolist()

    loader = data.DataLoader(
        Patches(),
        batch_size=spec.batch,
        sampler=Endless(),
        num_workers=spec.threads,
    )
    return iter(loader)


def grain_batches(spec: protocol.Spec, files: list[str], patch: Patch) -> Iterator[Any]:
    """Returns batches from Grain with worker processes."""
    import grain

    data = grain.MapDataset.source(files).seed(0).shuffle().repeat()
    # By default each process has sixteen threads and reads 500 batches ahead.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    data = data.random_map(patch).batch(spec.batch).to_iter_dataset(options)
    workers = grain.MultiprocessingOptions(num_workers=spec.threads)
    return iter(data.mp_prefetch(workers))


def grain_threads_batches(
    spec: protocol.Spec, files: list[str], patch: Patch
) -> Iterator[Any]:
    """Returns batches from Grain with threads, which Pillow lets run side by side."""
    import grain

    data = grain.MapDataset.source(files).seed(0).shuffle().repeat()
    options = grain.ReadOptions(num_threads=spec.threads, prefetch_buffer_size=4)
    return iter(data.random_map(patch).batch(spec.batch).to_iter_dataset(options))


LOADERS = {
    "torch": torch_batches,
    "grain": grain_batches,
    "grain_threads": grain_threads_batches,
}


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Starts the workers and makes the first batch."""
    loader, _, way = spec.variant.partition(":")
    files = sorted(map(str, Path(spec.folder).iterdir()))
    batches = LOADERS[loader](spec, files, Patch(spec, way))
    side = spec.resolution
    first = next(batches)
    assert tuple(first["image"].shape) == (spec.batch, side, side, 3)
    assert tuple(first["box"].shape) == (spec.batch, 4)

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    package = loader.split("_")[0]
    return {"version": f"{package} {importlib.metadata.version(package)}"}, run


if __name__ == "__main__":
    protocol.serve(prepare)
