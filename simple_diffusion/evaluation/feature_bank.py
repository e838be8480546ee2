"""Features of a set of images: extracted, stored and resumed.

A bank holds the statistics of all features, in float64, and the features of some images
themselves, for metrics that need neighbours. Banks are stored as one .npz file together
with their identity: which images they describe, and how these were preprocessed. So an
interrupted evaluation can resume, the statistics of a dataset are computed only once,
and a stored file is used only for the images that it belongs to.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Float32, Int, UInt8

from simple_diffusion.core import files
from simple_diffusion.evaluation.metrics import statistics
from simple_diffusion.evaluation.metrics.statistics import Statistics
from simple_diffusion.evaluation.networks.feature_network import Outputs

_FORMAT = 2
_SAVE_SECONDS = 60.0
_SAVE_SHARE = 20  # the pause between saves, in durations of the last save
_ROWS = 4096  # images whose features are merged into the banks at a time

NetworkOutputs = Mapping[str, Outputs]  # by the name of the network


class ImageBatch(NamedTuple):
    """A batch of images whose features go into a bank.

    Fields:
      images: either on the host and equal in all processes, or sharded over devices.
      labels: their classes.
      mask: which images count; the others are padding.
    """

    images: UInt8[Any, "b h w c"]
    labels: Int[np.ndarray, "b"]
    mask: Bool[np.ndarray, "b"]


@dataclasses.dataclass
class Bank:
    """The features of n images by one network.

    total: statistics of all features.
    spatial: statistics of the spatial features; None if the network has none.
    features: of all images, or of a random sample of them, in their order.
    logits: of the same images; None if the network has none.
    has_count: whether the number of images in the statistics is known.
    """

    total: Statistics
    spatial: Statistics | None
    features: Float32[np.ndarray, "kept d"]
    logits: Float32[np.ndarray, "kept classes"] | None
    has_count: bool = True


@dataclasses.dataclass
class Banks:
    """The features of the same images by several networks.

    identity: which images these are and how the features were computed, as plain JSON;
      banks with the same identity hold the same numbers.
    position: number of images read, including those that did not count.
    labels: of all images that counted.
    keep: maximum number of images whose features are kept.
    priority: one random number for each kept image. The images with the smallest are
      kept, so a smaller `keep` selects a subset of a larger one.
    by_network: the bank of each network, by its name.
    """

    identity: dict[str, Any]
    position: int
    labels: Int[np.ndarray, "n"]
    keep: int
    priority: Float[np.ndarray, "kept"]
    by_network: dict[str, Bank]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.labels)

    def subsample(self, keep: int) -> "Banks":
        """Returns the same statistics with the features of at most `keep` images."""
        if keep >= len(self.priority):
            return self
        rows = np.sort(np.argsort(self.priority)[:keep])
        by_network = {
            name: _select(bank, rows) for name, bank in self.by_network.items()
        }
        return dataclasses.replace(
            self, keep=keep, priority=self.priority[rows], by_network=by_network
        )


class Mismatch(ValueError):
    """Stored banks belong to other images, networks or preprocessing."""


def digest(identity: Mapping[str, Any]) -> str:
    """Returns a hash of an identity, 12 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def gather(
    identity: dict[str, Any],
    count: int,
    keep: int,
    parts: Callable[[int], Iterable[ImageBatch]],
    extract: Callable[[UInt8[Any, "b h w c"], int], NetworkOutputs],
    *,
    stored: Banks | None = None,
    save: Callable[[Banks], None] | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> Banks:
    """Returns the banks of exactly `count` positions of a stream of images.

    Args:
      identity: see `Banks`.
      count: positions of the stream.
      keep: maximum number of images whose features are kept. If there are more, a
        random sample is kept, since a set may be sorted by class; always the same one.
      parts: first position -> the batches of images from there on.
      extract: (images, position of the first) -> outputs of the networks, on the host.
      stored: banks of an earlier call, to resume from.
      save: stores intermediate banks; called from time to time, and at the end.
      progress: called with the position.

    Raises:
      ValueError: if there are fewer images, or features that are not finite.
    """
    banks = stored or Banks(identity, 0, np.zeros(0, np.int32), keep, np.zeros(0), {})
    start_position, saved, pause = banks.position, time.perf_counter(), _SAVE_SECONDS
    priority = np.random.default_rng(0).random(count)
    pending = _Pending(priority)
    for images, labels, mask in parts(banks.position) if banks.position < count else ():
        mask = mask[: count - banks.position]
        if mask.any():  # none, where one class among many is selected
            outputs = extract(images, banks.position)
            pending.add(banks.position, outputs, labels[: len(mask)], mask)
        banks.position += len(mask)
        progress(banks.position)
        if pending.count >= _ROWS:  # by count, not by time: equal in all processes
            banks, pending = pending.merge_into(banks), _Pending(priority)
        if save is not None and time.perf_counter() - saved > pause:
            start = time.perf_counter()
            save(pending.merge_into(banks))
            saved = time.perf_counter()
            pause = max(_SAVE_SECONDS, _SAVE_SHARE * (saved - start))
        if banks.position >= count:
            break
    if banks.position < count:
        raise ValueError(f"asked for {count} images, got {banks.position}")
    banks = pending.merge_into(banks)
    if save is not None and banks.position > start_position:
        save(banks)
    return banks.subsample(keep)


class _Pending:
    """Outputs that are not merged into the banks yet: a merge takes as long for one
    image as for many.

    count: number of images.
    """

    def __init__(self, priority: Float[np.ndarray, "n"]):
        self.count = 0
        self._all_priorities = priority
        self._labels: list[np.ndarray] = []
        self._priority: list[np.ndarray] = []
        self._rows: dict[str, list[Outputs]] = {}

    def add(
        self,
        position: int,
        network_outputs: NetworkOutputs,
        labels: Int[np.ndarray, "b"],
        mask: Bool[np.ndarray, "b"],
    ) -> None:
        """Adds the outputs of the networks for one batch.

        Raises:
          ValueError: if features are not finite, naming network and images.
        """
        for name, outputs in network_outputs.items():
            rows = _map_outputs(outputs, lambda v: v[: len(mask)][mask])
            _check_finite(name, rows, position, mask)
            self._rows.setdefault(name, []).append(rows)
        self._priority.append(self._all_priorities[position:][: len(mask)][mask])
        self._labels.append(labels[mask].astype(np.int32))
        self.count += int(mask.sum())

    def merge_into(self, banks: Banks) -> Banks:
        """Returns banks extended by the pending outputs, which are not changed."""
        by_network = dict(banks.by_network)
        for name, parts in self._rows.items():
            rows = jax.tree.map(lambda *some: np.concatenate(some), *parts)
            by_network[name] = _extend(by_network.get(name), rows)
        merged = dataclasses.replace(
            banks,
            labels=np.concatenate([banks.labels, *self._labels]),
            priority=np.concatenate([banks.priority, *self._priority]),
            by_network=by_network,
        )
        return merged.subsample(banks.keep)


def _select(bank: Bank, rows: Int[np.ndarray, "m"]) -> Bank:
    """Returns a bank with some of its features; statistics stay those of all images."""
    logits = None if bank.logits is None else bank.logits[rows]
    return dataclasses.replace(bank, features=bank.features[rows], logits=logits)


def _map_outputs(
    outputs: Outputs, change: Callable[[np.ndarray], np.ndarray]
) -> Outputs:
    """Returns the outputs on the host, each transformed by `change`."""
    first, *others = outputs
    return Outputs(
        change(np.asarray(first)),
        *(None if v is None else change(np.asarray(v)) for v in others),
    )


def _extend(bank: Bank | None, rows: Outputs) -> Bank:
    """Returns a bank extended by the outputs of more images."""
    features, spatial, logits = rows
    features = np.asarray(features, np.float32)
    total = statistics.compute(features)
    space = None if spatial is None else statistics.compute(np.asarray(spatial))
    logits = None if logits is None else np.asarray(logits, np.float32)
    if bank is None:
        return Bank(total, space, features, logits)
    if space is not None and bank.spatial is not None:
        space = statistics.merge(bank.spatial, space)
    if logits is not None and bank.logits is not None:
        logits = np.concatenate([bank.logits, logits])
    total = statistics.merge(bank.total, total)
    return Bank(total, space, np.concatenate([bank.features, features]), logits)


def _check_finite(
    name: str, rows: Outputs, position: int, mask: Bool[np.ndarray, "b"]
) -> None:
    for kind, values in zip(rows._fields, rows, strict=True):
        if values is None:
            continue
        bad = np.flatnonzero(~np.isfinite(np.asarray(values)).all(axis=1))
        if bad.size:
            where = (np.flatnonzero(mask)[bad[:5]] + position).tolist()
            raise ValueError(
                f"{kind} of the network {name} are not finite for {bad.size} of "
                f"{len(rows.features)} images, first at positions {where} (from 0) of "
                "the set; its weights may be damaged"
            )


def save(banks: Banks, path: epath.PathLike) -> None:
    """Writes banks as one .npz file, atomically."""
    arrays: dict[str, Any] = {
        "identity": np.array(json.dumps({"format": _FORMAT} | banks.identity)),
        "position": np.array(banks.position),
        "labels": banks.labels,
        "keep": np.array(banks.keep),
        "priority": banks.priority,
    }
    for name, bank in banks.by_network.items():
        for kind, total in (("total", bank.total), ("spatial", bank.spatial)):
            if total is not None:
                values = zip(total._fields, total, strict=True)
                arrays |= {f"{name}/{kind}/{field}": v for field, v in values}
        arrays[f"{name}/features"] = bank.features
        if bank.logits is not None:
            arrays[f"{name}/logits"] = bank.logits
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with files.open_atomic(path) as file:
        np.savez(file, **arrays)


def load(path: epath.PathLike, identity: Mapping[str, Any] | None = None) -> Banks:
    """Returns the banks that `save` wrote.

    Args:
      path: the file.
      identity: the identity that the banks must have; None accepts any.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is of another kind or damaged.
      Mismatch: if it has another identity; the message names the differences.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        found = json.loads(str(arrays.pop("identity")))
    except Exception as error:  # NumPy raises many types for other files
        raise ValueError(
            f"{path} is not a feature file of this library, or is damaged: {error}"
        ) from error
    if found.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} was written by another version of this library")
    if identity is not None and found != identity:
        keys = sorted(found.keys() | identity.keys())
        differ = [
            f"{key}: {found.get(key)!r} in the file, {identity.get(key)!r} expected"
            for key in keys
            if found.get(key) != identity.get(key)
        ]
        raise Mismatch(f"{path} holds other features: " + "; ".join(differ))
    names = [name.removesuffix("/features") for name in arrays if "/features" in name]
    banks = {name: _bank(arrays, name) for name in names}
    position, keep = (int(arrays[name]) for name in ("position", "keep"))
    labels, priority = arrays["labels"], arrays["priority"]
    return Banks(found, position, labels, keep, priority, banks)


def _bank(arrays: Mapping[str, np.ndarray], name: str) -> Bank:
    def total(kind: str) -> Statistics | None:
        fields = [arrays.get(f"{name}/{kind}/{f}") for f in Statistics._fields]
        if any(v is None for v in fields):
            return None
        n, mean, scatter = fields
        assert n is not None and mean is not None and scatter is not None
        return Statistics(int(n), mean, scatter)

    every = total("total")
    assert every is not None
    logits = arrays.get(f"{name}/logits")
    return Bank(every, total("spatial"), arrays[f"{name}/features"], logits)
