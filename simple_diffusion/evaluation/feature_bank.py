"""What feature networks say of a set of images: gathered, stored, resumed.

A bank holds the statistics of all features, in float64, and the features of some images
themselves, for metrics that look at neighbours. It is one .npz file that carries
what it was made of. That is how an evaluation goes on after an interruption, how the
statistics of a data set are computed once and kept, and how they are known to be those
of the same images, prepared in the same way.
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
_SAVE_SHARE = 20  # times as long as a save takes is waited for the next one
_ROWS = 4096  # images at a time whose features are joined to the others

Outcome = Mapping[str, Outputs]  # by the name of the network


class Part(NamedTuple):
    """A few images on their way into a bank.

    Fields:
      images: of which those with a false mask do not count; on the host the same in
        all processes, or spread over the devices.
      labels: their classes.
      mask: which count.
    """

    images: UInt8[Any, "b h w c"]
    labels: Int[np.ndarray, "b"]
    mask: Bool[np.ndarray, "b"]


@dataclasses.dataclass
class Bank:
    """What one network says of n images.

    total: statistics of all features.
    spatial: statistics of the spatial features; None if the network has none.
    features: of all images or a fair sample of them, in their order.
    logits: of the same; None if the network has none.
    counted: whether the number of images in the statistics is known.
    """

    total: Statistics
    spatial: Statistics | None
    features: Float32[np.ndarray, "kept d"]
    logits: Float32[np.ndarray, "kept classes"] | None
    counted: bool = True


@dataclasses.dataclass
class Banks:
    """What several networks say of the same images.

    identity: what the images are and how the features came about, as plain JSON; banks
      with the same identity hold the same numbers.
    position: images read, with those that did not count.
    labels: of all images that counted.
    keep: images whose features are kept, at most.
    priority: of each of these images; those with the smallest of all are kept, so that
      the few of a smaller `keep` are among the many of a larger one.
    of: network -> bank.
    """

    identity: dict[str, Any]
    position: int
    labels: Int[np.ndarray, "n"]
    keep: int
    priority: Float[np.ndarray, "kept"]
    of: dict[str, Bank]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.labels)

    def reduced(self, keep: int) -> "Banks":
        """Returns the same with the features of fewer images."""
        if keep >= len(self.priority):
            return self
        kept = np.sort(np.argsort(self.priority)[:keep])
        of = {name: _only(bank, kept) for name, bank in self.of.items()}
        return dataclasses.replace(self, keep=keep, priority=self.priority[kept], of=of)


class Mismatch(ValueError):
    """A stored bank is of other images or networks, or of images prepared otherwise."""


def digest(identity: Mapping[str, Any]) -> str:
    """Returns 12 digits that stand for an identity."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def gather(
    identity: dict[str, Any],
    count: int,
    keep: int,
    parts: Callable[[int], Iterable[Part]],
    extract: Callable[[UInt8[Any, "b h w c"], int], Outcome],
    *,
    stored: Banks | None = None,
    save: Callable[[Banks], None] | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> Banks:
    """Returns the banks of exactly `count` positions of a stream of images.

    Args:
      identity: see `Banks`.
      count: positions of the stream.
      keep: images whose features are kept: a fair sample if there are more, always the
        same, since a set may be sorted by class.
      parts: position to begin at -> the parts from there on.
      extract: images, position of the first -> what the networks say of each, on the
        host.
      stored: what an earlier call has gathered; it is gone on with.
      save: stores what is there so far; called now and then, and at the end.
      progress: is told the position.

    Raises:
      ValueError: there are fewer images, or features that are not finite.
    """
    banks = stored or Banks(identity, 0, np.zeros(0, np.int32), keep, np.zeros(0), {})
    begun, saved, pause = banks.position, time.perf_counter(), _SAVE_SECONDS
    priority = np.random.default_rng(0).random(count)
    pending = _Pending(priority)
    for images, labels, mask in parts(banks.position) if banks.position < count else ():
        mask = mask[: count - banks.position]
        if mask.any():  # of one class among many there are few
            outcome = extract(images, banks.position)
            pending.add(banks.position, outcome, labels[: len(mask)], mask)
        banks.position += len(mask)
        progress(banks.position)
        if pending.count >= _ROWS:  # not by the clock: the same in all processes
            banks, pending = pending.joined(banks), _Pending(priority)
        if save is not None and time.perf_counter() - saved > pause:
            start = time.perf_counter()
            save(pending.joined(banks))
            saved = time.perf_counter()
            pause = max(_SAVE_SECONDS, _SAVE_SHARE * (saved - start))
        if banks.position >= count:
            break
    if banks.position < count:
        raise ValueError(f"asked for {count} images, got {banks.position}")
    banks = pending.joined(banks)
    if save is not None and banks.position > begun:
        save(banks)
    return banks.reduced(keep)


class _Pending:
    """What has been extracted, not yet joined to the banks: joining takes as long for
    one image as for many.

    count: of images.
    """

    def __init__(self, priority: Float[np.ndarray, "n"]):
        self.count = 0
        self._every = priority
        self._labels: list[np.ndarray] = []
        self._priority: list[np.ndarray] = []
        self._rows: dict[str, list[Outputs]] = {}

    def add(
        self,
        position: int,
        outcome: Outcome,
        labels: Int[np.ndarray, "b"],
        mask: Bool[np.ndarray, "b"],
    ) -> None:
        """Takes what the networks say of the images of a part.

        Raises:
          ValueError: features are not finite, naming network and images.
        """
        for name, outputs in outcome.items():
            rows = _each(outputs, lambda v: v[: len(mask)][mask])
            _check_finite(name, rows, position, mask)
            self._rows.setdefault(name, []).append(rows)
        self._priority.append(self._every[position:][: len(mask)][mask])
        self._labels.append(labels[mask].astype(np.int32))
        self.count += int(mask.sum())

    def joined(self, banks: Banks) -> Banks:
        """Returns banks with what is pending, which stays as it is."""
        of = dict(banks.of)
        for name, parts in self._rows.items():
            rows = jax.tree.map(lambda *some: np.concatenate(some), *parts)
            of[name] = _extended(of.get(name), rows)
        more = dataclasses.replace(
            banks,
            labels=np.concatenate([banks.labels, *self._labels]),
            priority=np.concatenate([banks.priority, *self._priority]),
            of=of,
        )
        return more.reduced(banks.keep)


def _only(bank: Bank, rows: Int[np.ndarray, "m"]) -> Bank:
    """Returns a bank with some of its features; the statistics stay those of all."""
    logits = None if bank.logits is None else bank.logits[rows]
    return dataclasses.replace(bank, features=bank.features[rows], logits=logits)


def _each(outputs: Outputs, change: Callable[[np.ndarray], np.ndarray]) -> Outputs:
    """Returns outputs on the host, each changed."""
    first, *others = outputs
    return Outputs(
        change(np.asarray(first)),
        *(None if v is None else change(np.asarray(v)) for v in others),
    )


def _extended(bank: Bank | None, rows: Outputs) -> Bank:
    """Returns a bank that has taken in more images."""
    features, spatial, logits = rows
    features = np.asarray(features, np.float32)
    total = statistics.of(features)
    space = None if spatial is None else statistics.of(np.asarray(spatial))
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
                f"{len(rows.features)} images, the first at places {where} (from 0) of "
                "the set; its weights may be damaged"
            )


def save(banks: Banks, path: epath.PathLike) -> None:
    """Writes banks as one .npz file; a reader never sees one that is half written."""
    arrays: dict[str, Any] = {
        "identity": np.array(json.dumps({"format": _FORMAT} | banks.identity)),
        "position": np.array(banks.position),
        "labels": banks.labels,
        "keep": np.array(banks.keep),
        "priority": banks.priority,
    }
    for name, bank in banks.of.items():
        for kind, total in (("total", bank.total), ("spatial", bank.spatial)):
            if total is not None:
                values = zip(total._fields, total, strict=True)
                arrays |= {f"{name}/{kind}/{field}": v for field, v in values}
        arrays[f"{name}/features"] = bank.features
        if bank.logits is not None:
            arrays[f"{name}/logits"] = bank.logits
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as file:
        np.savez(file, **arrays)


def load(path: epath.PathLike, identity: Mapping[str, Any] | None = None) -> Banks:
    """Returns what `save` wrote.

    Args:
      path: the file.
      identity: that the banks shall have; None takes any.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is of another kind or damaged.
      Mismatch: it has another identity; the message says what differs.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        found = json.loads(str(arrays.pop("identity")))
    except Exception as error:  # whatever NumPy makes of a file of another kind
        raise ValueError(
            f"{path} holds no features of this library, or is damaged: {error}"
        ) from error
    if found.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} is of another version of this library")
    if identity is not None and found != identity:
        keys = sorted(found.keys() | identity.keys())
        differ = [
            f"{key}: {found.get(key)!r} there, {identity.get(key)!r} here"
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
