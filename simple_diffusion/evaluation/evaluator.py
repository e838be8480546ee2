"""What a model is worth: held-out loss, likelihood, and a distance of its samples.

Every number comes with the name of what it is; a metric on features is named after the
features, and after the number of samples behind it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, UInt8

from simple_diffusion.core.types import Batch
from simple_diffusion.evaluation import metrics, statistics

# Batches may differ in size, hence no name for their number.
Images = Iterable[UInt8[np.ndarray, "_ h w c"]]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates against held-out images.

    held_out: starts a pass over the held-out images in batches, on the device, padded
      with a mask; always the same images in the same order. They are what training
      would see: patches, for a model that is trained on patches.
    real: the same, as whole images of the size of the samples.
    loss: (batch, number of the batch) -> (loss, logsnr, bits per dimension), each [b],
      the loss normalised as in training.
    bin_edges: logsnr at the bounds between the bins of the loss.
    features: uint8 images [b, h, w, c] -> [b, d].
    feature_name: what the features are.
    """

    held_out: Callable[[], Iterator[Batch]]
    real: Callable[[], Iterator[Batch]]
    loss: Callable[[Batch, int], tuple[Array, Array, Array]]
    bin_edges: tuple[float, ...]
    features: Callable[[Array], Float[Array, "b d"]]
    feature_name: str

    def run(self, sample: Callable[[int], Images]) -> Iterator[tuple[str, float]]:
        """Yields (name, value), cheap ones first.

        Args:
          sample: n -> n generated images, in batches; as many are drawn as held-out
            images exist. With fewer than two of those there is no distance.
        """
        yield from self.held_out_loss()
        yield from self.distance(sample)

    def held_out_loss(self) -> Iterator[tuple[str, float]]:
        """Yields the mean loss, its mean in each logsnr bin, and bits per dimension."""
        losses, logsnrs, bits = [], [], []
        for number, batch in enumerate(self.held_out()):
            values = _gathered((*self.loss(batch, number), batch.mask))
            loss, logsnr, bit, mask = (np.asarray(v) for v in values)
            losses.append(loss[mask].astype(np.float64))
            logsnrs.append(logsnr[mask])
            bits.append(bit[mask].astype(np.float64))
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
        yield "bits_per_dimension_bound", float(np.concatenate(bits).mean())

    def distance(self, sample: Callable[[int], Images]) -> Iterator[tuple[str, float]]:
        """Yields the Fréchet distance between generated and real features."""
        real = self._statistics(
            image[mask]
            for batch in self.real()
            for image, mask in [_gathered((batch.image, batch.mask))]
        )
        if real is None or real.n < 2:
            return  # too few to have a covariance; held_out_images says how few
        generated = self._statistics(sample(real.n))
        if generated is None or generated.n != real.n:
            got = 0 if generated is None else generated.n
            raise ValueError(f"asked for {real.n} samples, got {got}")
        name = f"frechet_{self.feature_name}_{real.n}"
        yield name, metrics.frechet_distance(real, generated)

    def _statistics(self, images: Images) -> statistics.Statistics | None:
        total = None
        for batch in images:
            if not len(batch):
                continue
            part = statistics.of(np.asarray(self.features(jnp.asarray(batch))))
            total = part if total is None else statistics.merge(total, part)
        return total


def _gathered(tree: Any) -> Any:
    """Returns arrays on the host, whichever process's devices hold their parts."""
    return multihost_utils.process_allgather(tree, tiled=True)
