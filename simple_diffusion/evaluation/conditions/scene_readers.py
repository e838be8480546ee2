"""Predictors for the scenes, trained on real scenes alone and kept in a folder."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Int, UInt8

from simple_diffusion.core import images
from simple_diffusion.data import decode
from simple_diffusion.data.scenes import scenes
from simple_diffusion.data.scenes.scenes import Scenes
from simple_diffusion.evaluation.metrics.conditions.layout import Layouts
from simple_diffusion.evaluation.networks import stored_weights
from simple_diffusion.evaluation.networks.predictors import (
    attribute_reader,
    detector,
    segmenter,
    training,
)
from simple_diffusion.evaluation.networks.predictors.training import (
    Predictor,
    Recipe,
    Targets,
    Task,
    TrainingBatch,
)

# The most that a caption counts is nine; position is left, middle or right.
ATTRIBUTES = {
    "object": len(scenes.CLASS_NAMES),
    "colour": len(scenes.COLOUR_NAMES),
    "count": 10,
    "position": 3,
}
_MAX_SIDE = 64  # shorter side in pixels of the input of the predictors
_SEED = 0
STEPS = 800
# A pixel teaches more than an image: the other two learn from all of them.
_BATCH = {"attribute reader": 32, "segmenter": 16, "detector": 16}


class SceneReaders:
    """Reads from images of scenes what they show; see `condition_metrics.Readers`.

    Each predictor is trained when it is first needed, in about half a minute on two
    cores, and kept in the folder. The training scenes are of the split "train".

    Args:
      folder: where weights are kept.
      size: height and width of the images; predictors see at most 64 pixels along the
        shorter side.
      channels: of the images; of grey ones the colour is hardly read.
      log: called with lines about the progress.
      steps: training steps of each predictor.
    """

    classes = len(scenes.CATEGORY_NAMES)

    def __init__(
        self,
        folder: epath.Path,
        size: tuple[int, int],
        channels: int = 3,
        log: Callable[[str], None] = lambda line: None,
        steps: int = STEPS,
    ):
        scale = min(1.0, _MAX_SIDE / min(size))
        self.size = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        self._folder, self._channels, self._log = folder, channels, log
        self._steps = steps

    def prepare(self, kind: str) -> None:
        """Loads or trains what reads a kind of condition: text, layout or semantic."""
        parts = {
            "text": lambda: self._attribute_reader,
            "layout": lambda: self._detector,
            "semantic": lambda: self._segmenter,
        }
        parts[kind]()

    def read_attributes(
        self, pictures: UInt8[np.ndarray, "n h w c"]
    ) -> dict[str, Int[np.ndarray, "n"]]:
        """Returns the number of each of `ATTRIBUTES`."""
        return attribute_reader.read(self._attribute_reader, pictures)

    def find_objects(self, pictures: UInt8[np.ndarray, "n h w c"]) -> Layouts:
        """Returns the objects, with the categories of the scenes."""
        return detector.detect(self._detector, pictures)

    def segment(
        self, pictures: UInt8[np.ndarray, "n h w c"]
    ) -> Int[np.ndarray, "n H W"]:
        """Returns the category of each pixel, at the size of the predictor."""
        return segmenter.segment(self._segmenter, pictures)

    @functools.cached_property
    def _attribute_reader(self) -> Predictor:
        task = attribute_reader.make_task(ATTRIBUTES)
        return self._open(task, attributes_of)

    @functools.cached_property
    def _detector(self) -> Predictor:
        return self._open(detector.make_task(self.classes), _boxes)

    @functools.cached_property
    def _segmenter(self) -> Predictor:
        return self._open(segmenter.make_task(self.classes), self._ids)

    def _ids(self, found: Scenes) -> Targets:
        return {segmenter.TARGET: scenes.maps(found, *self.size)["semantic"][..., 0]}

    def _open(self, task: Task, targets: Callable[[Scenes], Targets]) -> Predictor:
        """Returns a predictor; trains it if it is not stored."""
        batch_size = _BATCH[task.name]
        first = next(self._batches(targets, batch_size, 1))
        recipe = Recipe(
            self.size,
            # The weights depend on how scenes are drawn.
            data=stored_weights.digest({"images": first.images, **first.targets}),
            steps=self._steps,
            seed=_SEED,
        )
        name = f"{task.name.replace(' ', '_')}_{self.size[0]}x{self.size[1]}.npz"
        path = self._folder / name
        stored = training.load(path, task, recipe)
        missing = stored is None
        if jax.process_count() > 1:  # all train, even if only one could not read it
            missing = bool(multihost_utils.process_allgather(np.array(missing)).any())
        if not missing:
            assert stored is not None
            return stored
        self._log(f"training the {task.name} on real scenes; stored in {path}")
        batches = self._batches(targets, batch_size, recipe.steps)
        trained = training.train(task, recipe, batches, self._log)
        if jax.process_count() > 1:  # use one process's weights: rounding may differ
            params = multihost_utils.broadcast_one_to_all(trained.params)
            trained = Predictor(task, recipe, jax.tree.map(np.asarray, params))
        if jax.process_index() == 0:
            training.save(trained, path)
        return trained

    def _batches(
        self, targets: Callable[[Scenes], Targets], batch_size: int, count: int
    ) -> Iterator[TrainingBatch]:
        for k in range(count):
            numbers = np.arange(k * batch_size, (k + 1) * batch_size)
            found = scenes.describe(_SEED, numbers)
            pixels = decode.from_rgb(scenes.render(found, *self.size), self._channels)
            yield TrainingBatch(images.to_rgb(pixels), targets(found))


def attributes_of(found: Scenes) -> dict[str, Int[np.ndarray, "n"]]:
    """Returns the number of each of `ATTRIBUTES`; -1 where a scene does not have it."""
    return {
        "object": found.label,
        "colour": found.colour,
        "count": found.count,
        "position": found.place,
    }


def named_attributes(
    found: Scenes, captions: Sequence[str]
) -> dict[str, Int[np.ndarray, "n"]]:
    """Returns `attributes_of` as far as captions name them; -1 for the others.

    Args:
      found: the scenes.
      captions: one for each.
    """
    values = {name: value.copy() for name, value in attributes_of(found).items()}
    for k, caption in enumerate(captions):
        words = set(caption.lower().replace(",", " ").replace(".", " ").split())
        for name, known in _WORDS.items():
            number = int(values[name][k])
            if number >= 0 and not words & known[number]:
                values[name][k] = -1
    return values


def _boxes(found: Scenes) -> Mapping[str, np.ndarray]:
    return scenes.boxes(found)._asdict()


_COUNTS: tuple[set[str], ...] = (
    {"no"},
    {"one", "a", "an", "single"},
    *({word} for word in "two three four five six seven eight nine".split()),
)
# What names each value; an object is always named, by one word or another.
_WORDS: dict[str, tuple[set[str], ...]] = {
    "colour": tuple({name} for name in scenes.COLOUR_NAMES),
    "count": _COUNTS,
    "position": ({"left"}, {"middle", "centre", "center"}, {"right"}),
}
