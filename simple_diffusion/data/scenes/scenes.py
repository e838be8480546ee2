"""The built-in dataset: procedural, labelled scenes, endless and at any resolution.

A scene is described once, by (seed, split, index), as layered shapes; its image at any
size, caption, boxes, semantic map and depth map are all read off that description.

    few = scenes.describe(seed=0, indices=np.arange(8))
    images = scenes.render(few, 64, 64)
    print(captions.write(few))
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Shaped, UInt8, UInt64

from simple_diffusion.core.examples import Objects
from simple_diffusion.data import fields as example_fields
from simple_diffusion.data.scenes import render as renderer
from simple_diffusion.data.scenes import shapes
from simple_diffusion.data.scenes.hashes import (
    hash_to_uniforms,
    hash_words,
    to_uniform,
)
from simple_diffusion.data.scenes.scene_classes import CLASSES
from simple_diffusion.data.scenes.sketch import CATEGORIES, COLOURS, Sketch, assemble

CLASS_NAMES = tuple(CLASSES)
CATEGORY_NAMES = CATEGORIES
COLOUR_NAMES = tuple(COLOURS)
SPLITS = ("train", "holdout")
MAX_OBJECTS = 12  # that a scene may have

FULL_IMAGE = (0.0, 0.0, 1.0, 1.0)

# What random numbers are for: those of one purpose say nothing about another's.
_CONTENT, _ORDER, _WORDING, _REPLACEMENT = range(4)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """The descriptions of b scenes.

    label: class numbers, into `CLASS_NAMES`.
    count: how many there are of what the class counts.
    colour, accent: numbers into `COLOUR_NAMES`; -1 where the class has none. The colour
      is that of the largest part that varies: of the sun, leaves, walls, sails, rock,
      petals, fish, moon, paint, balloon, cactus, scarf. So a boat whose sails are red
      is "a red boat"; its hull, of other colours than sails have, is the accent.
    place: 0 left, 1 middle, 2 right: where the object, or the group of them, is.
    wording: a random number in [0, 1), which chooses the form of the caption.
    primitives: what to paint.
    """

    label: Int32[np.ndarray, "b"]
    count: Int32[np.ndarray, "b"]
    colour: Int32[np.ndarray, "b"]
    accent: Int32[np.ndarray, "b"]
    place: Int32[np.ndarray, "b"]
    wording: Float32[np.ndarray, "b"]
    primitives: shapes.Primitives

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: Any) -> "Scenes":
        """Returns the scenes of these rows (a slice or an array of row numbers)."""
        fields = dataclasses.fields(self)
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields})


class Boxes(NamedTuple):
    """The objects of b scenes, n places for each.

    box: corners (y0, x0, y1, x1) in units of the window, cut off at its edges; of the
      full object, also where something nearer hides a part of it.
    category: numbers into `CATEGORY_NAMES`.
    present: False for a place without an object, or whose object is not in the window.
    """

    box: Float32[np.ndarray, "b n 4"]
    category: Int32[np.ndarray, "b n"]
    present: Bool[np.ndarray, "b n"]


def _keys(
    seed: int, split: str, numbers: Shaped[np.ndarray, "n"], *purpose: int
) -> UInt64[np.ndarray, "n"]:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    return hash_words(seed % 2**64, SPLITS.index(split), *purpose, numbers)


def labels(seed: int, indices: Any, split: str = "train") -> Int32[np.ndarray, "b"]:
    """Returns the classes of these scenes.

    Each run of as many scenes as there are classes, counted from index 0, has every
    class once, in an order of its own: any stretch of the stream is balanced.
    """
    n = len(CLASS_NAMES)
    block, place = np.divmod(np.asarray(indices, np.int64), n)
    slots = block[:, None] * n + np.arange(n)
    order = np.argsort(_keys(seed, split, slots.ravel(), _ORDER).reshape(-1, n), 1)
    return np.take_along_axis(order, place[:, None], 1)[:, 0].astype(np.int32)


def describe(
    seed: int,
    indices: Any,
    classes: Any = None,
    split: str = "train",
    replacement: int = 0,
) -> Scenes:
    """Returns the scenes with these numbers; each depends on (seed, split, index) only.

    Args:
      seed: any integer.
      indices: numbers from 0, [b].
      classes: class numbers [b] or one for all, where not those of the stream.
      split: "train" or "holdout", two streams without a scene in common.
      replacement: 0 for the scenes of the stream; 1, 2, ... for others of the same
        classes, to take instead of them.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    if classes is None:
        label = labels(seed, indices, split)
    else:
        label = np.broadcast_to(np.asarray(classes, np.int32), indices.shape)
        if np.any((label < 0) | (label >= len(CLASSES))):
            raise ValueError(f"classes={classes} must be 0 to {len(CLASSES) - 1}")
    purpose = (_REPLACEMENT, replacement) if replacement else (_CONTENT,)
    random = hash_to_uniforms(_keys(seed, split, indices, *purpose))
    wording = to_uniform(_keys(seed, split, indices, _WORDING))
    facts = np.zeros((4, len(indices)), np.int32)
    drawings, order = [], []
    for k, scene_class in enumerate(CLASSES.values()):
        rows = np.flatnonzero(label == k)
        if rows.size:
            sketch = Sketch(random[:, rows])
            scene_class.draw(sketch)
            place = _classify_place(sketch.x)
            values = sketch.count, sketch.colour, sketch.accent, place
            for fact, value in zip(facts, values, strict=True):
                fact[rows] = value
            drawings.append(sketch.finish())
            order.append(rows)
    return Scenes(
        np.array(label),
        *facts,
        wording=wording,
        primitives=assemble(drawings, order),
    )


def _classify_place(x: Any) -> Any:
    """0, 1, 2 for the left, the middle and the right of the picture."""
    return 1 * (x >= 0.43) + 1 * (x > 0.57)


def render(
    scenes: Scenes, height: int, width: int, window: Any = FULL_IMAGE, xp: Any = np
) -> UInt8[Any, "b h w 3"]:
    """Returns the images.

    Args:
      scenes: descriptions.
      height: rows, of the window.
      width: columns, of the window. Pixels are square: a window that is wider than
        high shows more of the scenery at the sides.
      window: the part to render, (y0, x0, y1, x1) in units of the full image, as
        four numbers or [b, 4]; the result is that crop of the full image rendered at
        height / (y1 - y0) by width / (x1 - x0).
      xp: numpy, or jax.numpy.

    Raises:
      ValueError: if a window is empty.
    """
    return renderer.render(scenes.primitives, height, width, window, xp)


def maps(
    scenes: Scenes, height: int, width: int, window: Any = FULL_IMAGE
) -> dict[str, Shaped[np.ndarray, "b h w 1"]]:
    """Returns the semantic, instance and depth maps as maps of examples.

    Arguments as `render`; all three cost as much as one.
    """
    slot, depth = renderer.front(scenes.primitives, height, width, window, np)
    p = scenes.primitives
    ids = {"semantic": p.category, "instance": p.instance}
    found = {
        name: _look_up_slots(values, slot, np).astype(np.int32)
        for name, values in ids.items()
    }
    return {name: v[..., None] for name, v in (found | {"depth": depth}).items()}


def semantic_map(
    scenes: Scenes, height: int, width: int, window: Any = FULL_IMAGE, xp: Any = np
) -> UInt8[Any, "b h w"]:
    """Returns the category seen at each pixel; arguments as `render`."""
    slot, _ = renderer.front(scenes.primitives, height, width, window, xp)
    return _look_up_slots(scenes.primitives.category, slot, xp)


def instance_map(
    scenes: Scenes, height: int, width: int, window: Any = FULL_IMAGE, xp: Any = np
) -> UInt8[Any, "b h w"]:
    """Returns 1 + the object's place in `boxes`, or 0; arguments as `render`."""
    slot, _ = renderer.front(scenes.primitives, height, width, window, xp)
    return _look_up_slots(scenes.primitives.instance, slot, xp)


def _look_up_slots(values: Shaped[np.ndarray, "b s"], slot: Any, xp: Any) -> Any:
    flat = slot.reshape(len(slot), -1)
    seen = xp.take_along_axis(xp.asarray(values.astype(np.uint8)), flat, 1)
    return seen.reshape(slot.shape)


def depth_map(
    scenes: Scenes, height: int, width: int, window: Any = FULL_IMAGE, xp: Any = np
) -> Float32[Any, "b h w"]:
    """Returns depth from 0, the nearest, to 1, the sky; arguments as `render`."""
    return renderer.front(scenes.primitives, height, width, window, xp)[1]


def boxes(
    scenes: Scenes, height: int = 1, width: int = 1, window: Any = FULL_IMAGE
) -> Boxes:
    """Returns a box around each object; arguments as `render`."""
    uncut, category = _full_boxes(scenes, height, width, window)
    box = np.clip(uncut, 0.0, 1.0).astype(np.float32)
    present = np.all(box[..., 2:] > box[..., :2], axis=-1)
    return Boxes(
        np.where(present[..., None], box, np.float32(0)),
        np.where(present, category, 0),
        present,
    )


def objects(
    scenes: Scenes, height: int = 1, width: int = 1, window: Any = FULL_IMAGE
) -> list[Objects]:
    """Returns the objects of each scene of which enough is in the window.

    Arguments as `render`; how much is enough: `fields.MIN_VISIBLE`, of what is in the
    full image.
    """
    box, category = _full_boxes(scenes, height, width, window)
    window = np.atleast_2d(np.asarray(window, np.float64))
    corner, side = window[:, None, :2], (window[:, 2:] - window[:, :2])[:, None]
    full = box.reshape(-1, MAX_OBJECTS * 2, 2) * side + corner  # in its units
    full = np.clip(full, 0.0, 1.0).reshape(box.shape)
    exists = np.all(full[..., 2:] > full[..., :2], axis=-1)
    windows = np.broadcast_to(window, (len(scenes), 4))
    return [
        example_fields.crop_objects(
            Objects(full[k, exists[k]], category[k, exists[k]]),
            tuple(windows[k].tolist()),
        )
        for k in range(len(scenes))
    ]


def _full_boxes(
    scenes: Scenes, height: int, width: int, window: Any
) -> tuple[Float[np.ndarray, "b n 4"], Int32[np.ndarray, "b n"]]:
    """Returns the boxes in units of the window, however far outside, and categories."""
    p = scenes.primitives
    window = np.atleast_2d(np.asarray(window, np.float64))
    pixel, corner = shapes.scene_frame(height, width, window)
    unit = np.array([height, width]) * pixel[:, None]  # the window in scene units
    box = np.zeros((len(scenes), MAX_OBJECTS, 4))
    category = np.zeros((len(scenes), MAX_OBJECTS), np.int32)
    around = shapes.bounds(p.kind, p.geometry)
    solid = p.opacity > shapes.OPAQUE
    for k in range(MAX_OBJECTS):
        part = (p.instance == k + 1) & solid
        low = np.where(part[..., None], around[..., :2], shapes.FAR).min(1)
        high = np.where(part[..., None], around[..., 2:], -shapes.FAR).max(1)
        ends = np.stack([low, high], 1) - corner[:, None]
        box[:, k] = (ends / unit[:, None]).reshape(-1, 4)
        category[:, k] = np.where(part, p.category, 0).max(1)
    return box, category
