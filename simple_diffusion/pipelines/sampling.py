"""Sampling a trained model in batches."""

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from simple_diffusion.build import sampling
from simple_diffusion.core import files, memory
from simple_diffusion.core.options import Config, training_size
from simple_diffusion.core.types import Progress, Request
from simple_diffusion.data.fields import PORTRAIT
from simple_diffusion.pipelines import keywords
from simple_diffusion.pipelines.programs import Drawer, ProgressRelay, make_drawer
from simple_diffusion.pipelines.requests import pictures, readers
from simple_diffusion.pipelines.requests.plan import read_plan
from simple_diffusion.pipelines.trained import Trained

FOLDER = "samples"
# Keys of `sample` that are arguments of a program, or do not affect it.
_NOT_COMPILED = (
    *("seed", "count", "classes", "batch_size", "also_sizes", "output"),
    *(*readers.KEYS, "low_resolution_noise"),
    *("weights", "checkpoint_step", "best_checkpoint"),
)


class Samples:
    """The samples that the section `sample` of a config asks for, drawn when iterated.

    labels: the class of each image, [n].
    prompts: the text of each image; () for a model without text.
    titles: of each image; () if its class is its title.
    groups: which images belong together, by prompt or class, [n].
    pictures: what the conditions of each image look like, uint8; None if they do not.
    size: height and width in pixels.
    is_portrait: whether all images are turned upright, see `data.portrait`.
    network_calls: per image; a guided call counts once.
    guidance: the weight in effect.
    windows: number of windows of an image; None without windows.
    note: a warning about this size for the user; None if there is none.

    Raises:
      ValueError: classes, sizes or settings are invalid.
    """

    def __init__(
        self,
        trained: Trained,
        config: Config,
        progress: Progress | None = None,
        programs: dict | None = None,
        given: Mapping[str, Any] | None = None,
        counts_values: bool = False,
    ):
        """Prepares sampling; nothing is compiled yet.

        Args:
          trained: the model.
          config: the whole config.
          progress: called at every step of the solver, for each batch.
          programs: cache of compiled programs, by the settings that they depend on.
          given: values of conditions as Python objects, by keys of `sample`.
          counts_values: as in `read_plan`.
        """
        plan = read_plan(
            *(config, trained.net, trained.classes, trained.lexicon),
            given=given,
            examples=trained.examples,
            counts_values=counts_values,
        )
        programs = {} if programs is None else programs
        # Reduce the batch to the number of images: two must not cost as much as 64.
        batch_size = min(plan.batch_size, len(plan.request.label))
        without = [f"sample.{key}" for key in _NOT_COMPILED]
        key = keywords.fingerprint(config, ("sample",), without)
        key = "sample", key, batch_size, progress is not None
        if key not in programs:
            programs[key] = _compile(trained, config, batch_size, progress is not None)
        sampler, drawer, self._relay = programs[key]
        # The seed of this call; the cached drawer may have another.
        self._drawer = Drawer(drawer.program, config.sample.seed)
        self._trained, self._progress, self._config = trained, progress, config
        self.labels, self.prompts = np.asarray(plan.request.label), plan.prompts
        self._request, self.groups = plan.request, plan.groups
        self.titles = plan.titles
        self.windows = sampler.windows
        self.is_portrait = _is_portrait(config, plan.request)
        self.size = sampler.size[::-1] if self.is_portrait else sampler.size
        drawn = pictures.draw_conditions(plan.request, sampler.size)
        self.pictures = drawn if drawn is None else self._turn(drawn)
        self.network_calls, self.guidance = sampler.network_calls, sampler.guidance
        self.note = _note(trained, config, sampler)
        self._advice = advise(config, sampler.windows, "sample.size", batch_size)

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self) -> dict[str, Any]:
        """Returns the settings that the images depend on, as plain JSON."""
        h, w = self.size
        return {
            "size": f"{h}x{w}",
            "seed": self._config.sample.seed,
            "solver": self._config.sample.solver,
            "steps": self._config.sample.steps,
            "guidance": self.guidance,
            "weights": self._config.sample.weights,
            **self._describe_conditions(),
        }

    def _describe_conditions(self) -> dict[str, Any]:
        """Returns the weights of single conditions and the files of their values."""
        c = self._config.sample
        weights = {f"guidance_of.{k}": w for k, w in c.guidance_of.items()}
        files = {key: c[key] for key in readers.KEYS if key != "prompts"}
        found = weights | files
        return {key: value for key, value in found.items() if value is not None}

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        """Yields the images in batches."""
        batches = self._drawer(self._trained.weights, self._request)
        done, batch = 0, None
        while done < len(self.labels):
            listener = self._progress_of(len(self.labels) - done)
            with memory.explain(self._advice), self._relay.listen(listener):
                batch = next(batches)
            done += len(batch)
            yield self._turn(batch)

    def _turn(self, batch: UInt8[np.ndarray, "b h w c"]) -> np.ndarray:
        """Returns images upright, which the network knows as turned by 90 degrees."""
        return np.rot90(batch, -1, axes=(1, 2)) if self.is_portrait else batch

    def _progress_of(self, count: int) -> Progress | None:
        """Returns the user's callback, without the images that only pad a batch."""
        progress = self._progress
        if progress is None:
            return None
        return lambda done, steps, x_hat: progress(done, steps, x_hat[:count])


def choose_output(config: Config, workdir: epath.Path) -> epath.Path:
    """Returns the folder for the samples of mode `sample`, which holds no files.

    Raises:
      ValueError: `sample.output` holds files.
    """
    text = config.sample.output
    if text is None:
        names = (f"{FOLDER}_{k}" if k > 1 else FOLDER for k in itertools.count(1))
        return next(path for path in map(workdir.__truediv__, names) if _is_free(path))
    output = files.resolve_folder(os.path.expanduser(text), "sample.output")
    if not _is_free(output):
        raise ValueError(
            f"sample.output={text} already holds files, which are not replaced; name "
            "another folder, or None for the next free one in the workdir"
        )
    return output


def _is_free(path: epath.Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def advise(config: Config, windows: int | None, size_key: str, batch_size: int) -> str:
    """Returns which keys bound the memory of sampling, for `memory.explain`.

    Args:
      config: the whole config.
      windows: number of windows of an image; None without windows.
      size_key: key of the size of the images.
      batch_size: images at a time.
    """
    c, side = config.sample, min(training_size(config))
    if windows is not None:
        keys = f"sample.window={c.window} or sample.window_batch={c.window_batch}"
        return f"lower {keys}, or set a smaller {size_key}=HxW"
    lower = f"lower sample.batch_size={batch_size}, " if batch_size > 1 else ""
    return (
        f"{lower}set sample.window={side}, which makes images in windows of that side, "
        f"or a smaller {size_key}=HxW"
    )


def _compile(
    trained: Trained, config: Config, batch_size: int, reports: bool
) -> tuple[sampling.Sampling, Drawer, ProgressRelay]:
    relay = ProgressRelay(trained.mesh)
    sampler = sampling.build_sampling(
        config,
        trained.net,
        trained.weak,
        mesh=trained.mesh,
        codec=trained.codec,
        progress=relay if reports else None,
    )
    return sampler, make_drawer(sampler, trained.mesh, batch_size), relay


def _is_portrait(config: Config, request: Request) -> bool:
    """Returns whether all images are asked for as portrait, see `data.portrait`."""
    section = config.conditions.vector
    if config.data.portrait != "turn" or section is None or section.vector != PORTRAIT:
        return False
    flag = request.fields.get("vector")  # not there where only prompts are given
    return flag is not None and bool(np.all(np.asarray(flag)[:, 0] > 0.5))


def _note(trained: Trained, config: Config, sampler: sampling.Sampling) -> str | None:
    size = trained.net.size[:2]
    if sampler.size == size or config.data.get("patches") is not None:
        return None
    return (
        f"note: this model was trained at {size[0]}x{size[1]} without data.patches: at "
        "another size it extrapolates, and structure usually breaks; "
        "configs/anyres_*.py train for any size"
    )
