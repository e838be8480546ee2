"""The degradation in the section `restore`: from task names to an operator."""

import dataclasses
import math
from collections.abc import Callable

import jax

from simple_diffusion.core.options import Config, pick
from simple_diffusion.restoration import operators, sensing, separable
from simple_diffusion.restoration.operators import LinearOperator

# In the order of a composition, which may have one spatial task at most.
SPATIAL = ("super_resolution", "deblur", "sense")
TASKS = ("denoise", "inpaint", *SPATIAL, "colourise")
# Dividing by less than this is inaccurate in float32.
LEAST_THRESHOLD = 1e-3

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Degradation:
    """The degradation of the images.

    tasks: names of the tasks.
    operator: (height and width of the full image, known_mask [b, h, w, 1]) -> A; raises
      ValueError for sizes that do not fit.
    factor: down-sampling factor of each side.
    """

    tasks: tuple[str, ...]
    operator: Callable[[Size, jax.Array], LinearOperator]
    factor: int

    @property
    def needs_mask(self) -> bool:
        """Whether some pixels are missing."""
        return "inpaint" in self.tasks

    @property
    def is_grey(self) -> bool:
        """Whether the measurement has one channel."""
        return "colourise" in self.tasks

    @property
    def is_image(self) -> bool:
        """Whether the measurement is an image and can be stored as one."""
        return "sense" not in self.tasks

    @property
    def keeps_pixels(self) -> bool:
        """Whether known pixels of the measurement are pixels of the image."""
        return self.tasks == ("inpaint",)


def parse_degradation(config: Config) -> Degradation:
    """Returns the degradation that `restore.task` names.

    Raises:
      ValueError: a name is unknown, or no pseudo-inverse of the composition is known.
    """
    c = config.restore
    tasks, compat, factor = _tasks(c.task), c.compat, c.factor
    spatial = [
        task for task in tasks if task in ("super_resolution", "deblur", "sense")
    ]
    masked, is_grey = "inpaint" in tasks, "colourise" in tasks
    table = {
        "super_resolution": _super_resolution(c, masked),
        "deblur": _deblur(c),
        "sense": _sensing(c),
    }
    if masked and spatial not in ([], ["super_resolution"]):
        raise ValueError(
            f"restore.task={c.task}: inpaint can be alone or with super_resolution and "
            f"colourise; no exact inverse of a mask before {spatial[0]} is known"
        )
    if masked and spatial and c.downsampling != "average":
        raise ValueError(
            f"restore.task={c.task} needs restore.downsampling=average: no exact "
            "inverse of a mask before bicubic down-sampling is known"
        )
    if compat and is_grey and "deblur" in spatial:
        raise ValueError(
            f"restore.task={c.task} needs restore.compat=False: the published blur is "
            "not the same for all colours, so no inverse of both is known"
        )
    # The simplified sampler was published with equal weights.
    compat_grey = compat and c.solver != "ddnm_simplified"
    if spatial:
        first = table[spatial[0]]
    else:
        first = _inpaint if masked else _identity

    def operator(size: Size, known_mask: jax.Array) -> LinearOperator:
        colour = first(size, known_mask)
        return operators.grey(colour, compat=compat_grey) if is_grey else colour

    return Degradation(tasks, operator, factor if "super_resolution" in tasks else 1)


def _tasks(text: str) -> tuple[str, ...]:
    tasks = tuple(task.strip() for task in text.split("+"))
    for task in tasks:
        if task not in TASKS:
            raise ValueError(
                f"restore.task={text!r}: {task!r} is unknown; known: "
                f"{', '.join(TASKS)}, or several joined by +"
            )
    spatial = [task for task in tasks if task in SPATIAL]
    ordered = tuple(task for task in TASKS if task in tasks)
    if "denoise" in tasks and len(tasks) > 1:
        raise ValueError(
            f"restore.task={text}: every task supports noise; remove denoise and set "
            "restore.sigma_y"
        )
    if len(spatial) > 1 or tasks != ordered:
        raise ValueError(
            f"restore.task={text} must be in the order inpaint, one of "
            f"{', '.join(SPATIAL)}, colourise"
        )
    return tasks


def _identity(size: Size, known_mask: jax.Array) -> LinearOperator:
    return operators.identity(size)


def _inpaint(size: Size, known_mask: jax.Array) -> LinearOperator:
    return operators.inpaint(known_mask)


def _super_resolution(c: Config, masked: bool) -> Callable[..., LinearOperator]:
    factor, compat = c.factor, c.compat

    def average(size: Size, known_mask: jax.Array) -> LinearOperator:
        mask = known_mask if masked else None
        return operators.average(size, factor, mask, compat=compat)

    def bicubic(size: Size, known_mask: jax.Array) -> LinearOperator:
        return separable.bicubic(size, factor)

    table = {"average": average, "bicubic": bicubic}
    return pick(table, c.downsampling, "restore.downsampling")


def _deblur(c: Config) -> Callable[..., LinearOperator]:
    # Kind -> (vertical and horizontal sigma, taps), as in the paper's experiments.
    papers = {
        "uniform": (None, 9),
        "gaussian": ((10.0, 10.0), 5),
        "anisotropic": ((1.0, 20.0), 9),
    }
    sigmas, taps = pick(papers, c.kernel, "restore.kernel")
    taps = (taps, taps) if c.blur_taps is None else (c.blur_taps, c.blur_taps)
    if c.blur_sigma is not None and sigmas is None:
        raise ValueError("restore.blur_sigma is not for restore.kernel=uniform")
    if c.blur_sigma is not None:
        sigmas = c.blur_sigma
        if len(sigmas) != 2 or not min(sigmas) > 0:
            raise ValueError(
                f"restore.blur_sigma={tuple(sigmas)} must be two positive "
                "numbers, vertical and horizontal"
            )
        if c.blur_taps is None:  # up to 3 sigma
            taps = tuple(2 * math.ceil(3 * sigma) + 1 for sigma in sigmas)
    if not LEAST_THRESHOLD <= c.blur_threshold < 1:
        raise ValueError(
            f"restore.blur_threshold={c.blur_threshold} must be in "
            f"[{LEAST_THRESHOLD}, 1): weaker components are lost in rounding"
        )
    if sigmas is None:
        kernels = tuple(separable.uniform_kernel(n) for n in taps)
    else:
        kernels = tuple(map(separable.gaussian_kernel, sigmas, taps))
    threshold, compat = c.blur_threshold, c.compat

    def blur(size: Size, known_mask: jax.Array) -> LinearOperator:
        return separable.blur(size, *kernels, threshold=threshold, compat=compat)

    return blur


def _sensing(c: Config) -> Callable[..., LinearOperator]:
    ratio, seed, side = c.ratio, c.operator_seed, c.block_side
    table = {
        "hadamard": lambda size, _: sensing.hadamard(size, ratio, seed),
        "group_means": lambda size, _: sensing.group_means(size, ratio, seed),
        "blocks": lambda size, _: sensing.blocks(size, ratio, seed, side),
    }
    return pick(table, c.sensing, "restore.sensing")
