"""Objects in an image: a box and a class for each.

As in CenterNet (Zhou et al. 2019, arXiv:1904.07850): for each cell a score of every
class, whose peaks are centres of objects, and a box, which is used at the peaks. The
box of a cell is learned in all cells near the centre of an object, which needs fewer
steps than learning it at the centre alone.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from simple_diffusion.evaluation.metrics.conditions.layout import Layouts
from simple_diffusion.evaluation.networks.predictors import pyramid
from simple_diffusion.evaluation.networks.predictors.training import Predictor, Task

# Width of the bump around a centre: this share of the box, and at least so many cells.
_SPREAD, _LEAST_SPREAD = 0.12, 0.7
_NEAR = 0.3  # of the bump: cells from which a box is learned
_THRESHOLD = 0.3  # of the score of an object


class _Detector(nn.Module):
    classes: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Array]:
        size = x.shape[1], x.shape[2]
        cell = pyramid.cell_size(size)
        features = pyramid.Pyramid(cell, self.widths)(x)
        bias = nn.initializers.constant(-4.0)  # at first no cell is a centre
        score = nn.Dense(self.classes, bias_init=bias)(features)
        place = nn.Dense(4)(features)
        y, x_ = pyramid.cell_centres((features.shape[1], features.shape[2]), cell, size)
        centre = jnp.stack(jnp.meshgrid(y, x_, indexing="ij"), -1)[None]
        unit = cell / jnp.asarray(size)[None, None, None]
        return {
            "score": score,
            "centre": centre + place[..., :2] * unit,
            # At first a third of the image.
            "log_side": place[..., 2:] - 1.0,
            "cell": jnp.broadcast_to(centre, (len(x), *centre.shape[1:])),
        }


def make_task(classes: int, widths: tuple[int, ...] = pyramid.WIDTHS) -> Task:
    """Returns the task of a detector.

    Its targets are "box" [b, k, 4], "category" [b, k] and "present" [b, k], as the
    fields of `Layouts`.

    Args:
      classes: number of them.
      widths: of the network, multiples of 8.
    """

    def loss(outputs: dict[str, Array], targets: Mapping[str, Array]) -> Array:
        bump = _bumps(outputs["cell"], targets["box"], targets["present"])
        score = _score_loss(outputs["score"], bump, targets["category"])
        return score + _box_loss(outputs, bump, targets["box"])

    about = {"classes": classes, "widths": widths}
    return Task("detector", _Detector(classes, widths), loss, about)


def _bumps(
    cell: Float[Array, "b y x 2"],
    box: Float[Array, "b k 4"],
    present: Bool[Array, "b k"],
) -> Float[Array, "b k y x"]:
    """Returns a bump of each object, 1 in the cell of its centre."""
    step = jnp.stack(
        [cell[0, 1, 0, 0] - cell[0, 0, 0, 0], cell[0, 0, 1, 1] - cell[0, 0, 0, 1]]
    )
    centre, side = (box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]
    nearest = (jnp.floor(centre / step[None, None]) + 0.5) * step[None, None]
    spread = jnp.maximum(_SPREAD * side, _LEAST_SPREAD * step[None, None])
    z = (cell[:, None] - nearest[:, :, None, None]) / spread[:, :, None, None]
    return jnp.exp(-0.5 * (z**2).sum(-1)) * present[:, :, None, None]


def _score_loss(
    score: Float[Array, "b y x c"],
    bump: Float[Array, "b k y x"],
    category: Int[Array, "b k"],
) -> Float[Array, ""]:
    """Returns the focal loss of eq. 1 of the paper, alpha = 2, beta = 4."""
    one_hot = jax.nn.one_hot(category, score.shape[-1])
    wanted = (bump[..., None] * one_hot[:, :, None, None]).max(1)
    is_centre = wanted > 0.999
    p = nn.sigmoid(score)
    found = -nn.log_sigmoid(score) * (1 - p) ** 2
    missing = -nn.log_sigmoid(-score) * p**2 * (1 - wanted) ** 4
    total = jnp.where(is_centre, found, missing).sum()
    return total / jnp.maximum(is_centre.sum(), 1)


def _box_loss(
    outputs: dict[str, Array], bump: Float[Array, "b k y x"], box: Float[Array, "b k 4"]
) -> Float[Array, ""]:
    """Returns the error of centres and sides, in units of the side of the box."""
    owner = bump.argmax(1)
    weight = bump.max(1)
    weight = jnp.where(weight > _NEAR, weight, 0.0)
    rows = jnp.arange(len(box))[:, None, None]
    mine = box[rows, owner]
    side = jnp.maximum(mine[..., 2:] - mine[..., :2], 1e-3)
    centre = (mine[..., 2:] + mine[..., :2]) / 2
    error = jnp.abs(outputs["centre"] - centre) / side
    error += jnp.abs(outputs["log_side"] - jnp.log(side))
    return (error.sum(-1) * weight).sum() / jnp.maximum(weight.sum(), 1)


def detect(
    predictor: Predictor, pictures: UInt8[np.ndarray, "n h w c"], most: int = 24
) -> Layouts:
    """Returns the objects of which the predictor is sure enough.

    Args:
      predictor: of a task that `make_task` made.
      pictures: of any one size.
      most: objects in an image; those with the highest scores.
    """
    return find_peaks(predictor(pictures), most)


def find_peaks(outputs: Mapping[str, np.ndarray], most: int) -> Layouts:
    """Returns the objects at the peaks of the scores.

    Args:
      outputs: of the network, [n, y, x, ...] for y x x cells.
      most: objects in an image.
    """
    score = np.exp(-np.logaddexp(0, -outputs["score"].astype(np.float32)))
    padded = np.pad(score, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = score.shape[1:3]
    around = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    peak = np.where(score >= np.max(around, 0), score, 0)
    n, _, _, c = peak.shape
    flat = peak.reshape(n, -1)
    order = np.argsort(-flat, 1, kind="stable")[:, :most]
    place, category = np.divmod(order, c)
    rows = np.arange(n)[:, None]
    centre = outputs["centre"].reshape(n, -1, 2)[rows, place]
    # No side is longer than that of the image.
    side = np.exp(np.minimum(outputs["log_side"], 0))
    half = side.reshape(n, -1, 2)[rows, place] / 2
    box = np.clip(np.concatenate([centre - half, centre + half], -1), 0, 1)
    present = flat[rows, order] >= _THRESHOLD
    return Layouts(box.astype(np.float32), category.astype(np.int32), present)
