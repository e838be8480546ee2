"""Evaluation without sampling: held-out loss and likelihood."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from simple_diffusion.core.types import Batch


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates against held-out images.

    held_out: starts a pass over the held-out images in batches on the device, padded
      with a mask; always the same images in the same order, preprocessed as in
      training: patches, for a model that is trained on patches.
    loss: (batch, index of the batch) -> (loss, logsnr, bits per dimension), each [b];
      the loss is normalised as in training, and None for the bits measures none.
    bin_edges: logsnr between neighbouring bins of the loss.
    """

    held_out: Callable[[], Iterator[Batch]]
    loss: Callable[[Batch, int], tuple[Array, Array, Array | None]]
    bin_edges: tuple[float, ...]

    def held_out_loss(
        self, progress: Callable[[int], None] = lambda images: None
    ) -> Iterator[tuple[str, float]]:
        """Yields the mean loss, its mean in each logsnr bin, and the mean bits.

        Args:
          progress: called with the number of images so far.
        """
        losses, logsnrs, bits = [], [], []
        for number, batch in enumerate(self.held_out()):
            values = _gather((*self.loss(batch, number), batch.mask))
            loss, logsnr, bit, mask = values
            losses.append(np.asarray(loss)[mask].astype(np.float64))
            logsnrs.append(np.asarray(logsnr)[mask])
            if bit is not None:
                bits.append(np.asarray(bit)[mask].astype(np.float64))
            progress(sum(map(len, losses)))
        images = sum(map(len, losses))
        yield "held_out_images", float(images)
        if not images:
            return
        loss, logsnr = np.concatenate(losses), np.concatenate(logsnrs)
        yield "held_out_loss", float(loss.mean())
        edges = (-np.inf, *self.bin_edges, np.inf)
        for low, high in itertools.pairwise(edges):
            inside = (low <= logsnr) & (logsnr < high)
            if inside.any():
                yield f"held_out_loss[{low:g},{high:g})", float(loss[inside].mean())
        if bits:
            yield "bits_per_dimension_bound", float(np.concatenate(bits).mean())


def _gather(tree: Any) -> Any:
    """Returns the full arrays on the host, also if they are sharded over processes."""
    return multihost_utils.process_allgather(tree, tiled=True)
