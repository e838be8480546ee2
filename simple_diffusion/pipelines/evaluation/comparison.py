"""Comparing sets of images by what feature networks say of them."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build.data import Data
from simple_diffusion.build.evaluation import Plan
from simple_diffusion.core import console, files
from simple_diffusion.data.sources.protocols import Split
from simple_diffusion.evaluation import feature_bank, metric_names, published, scoring
from simple_diffusion.evaluation.feature_bank import Banks
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines.evaluation import image_files, image_sets, references
from simple_diffusion.pipelines.evaluation.extractor import Extractor
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet, Size
from simple_diffusion.pipelines.evaluation.references import Reference
from simple_diffusion.training import cluster, report

FOLDER = "evaluation"
_FEATURES = "features_"
SIZE = "{size}"  # in the name of a file of statistics
_HELD_OUT = 2_000  # images that say how near to the training strangers are
_SAY_SECONDS = 20.0
_UNUSED = 8  # files of features that are kept though this evaluation has no use of them
_ABANDONED_SECONDS = 3600.0
ENDLESS = 2**32  # examples; a source with more makes them as they are asked for


class Comparison:
    """Compares sets of images with a reference; what does not change is made once.

    plan: of the evaluation.
    networks: with their weights.
    dataset: the data source; None where nothing is compared with it.
    mesh: the devices.
    folder: where features are kept.
    """

    def __init__(
        self,
        plan: Plan,
        networks: list[FeatureNetwork],
        dataset: Data | None,
        mesh: Mesh,
        folder: epath.Path,
    ):
        self.plan = plan
        self.networks = networks
        self._dataset = dataset
        self._mesh = mesh
        self._folder = folder
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        # Rounded up: the last batch is padded and masked anyway.
        self.batch_size = -(-plan.batch_size // ways) * ways
        self._extract = Extractor(
            networks, mesh, self.batch_size, plan.patch, plan.seed
        )
        self._references: dict[tuple[Size, int | None], Reference] = {}
        self._used: set[str] = set()
        self._options = scoring.Options(
            plan.seed, plan.neighbours, plan.density_neighbours
        )
        self._notes: list[str] = []
        self._printed: set[str] = set()

    def reference(self, size: Size, label: int | None = None) -> Reference:
        """Returns what images of a size are compared with.

        Args:
          size: height and width.
          label: the class that alone counts; None for all.

        Raises:
          ValueError: it is of another size, or a file of statistics of other images.
          OSError: it cannot be read.
        """
        key = size, label
        if key not in self._references:
            self._references[key] = self._open_reference(size, label)
        return self._references[key]

    def features_of(
        self, images: ImageSet, keep: int, store: bool = True, path: Any = None
    ) -> Banks:
        """Returns what the networks say of a set.

        Args:
          images: the set.
          keep: images of which the features themselves are kept.
          store: keep it in a file, so that this is done once, and goes on where it was
            interrupted.
          path: of this file, by default one in the folder.

        Raises:
          ValueError: images cannot be read or have no patch of the size, or features
            are not finite.
          Mismatch: the file is of other images.
        """
        references.check_size(self.plan, images.size)
        identity = images.identity | self._extract.identity
        keep = min(keep, images.count)
        own = self._folder / f"{_FEATURES}{feature_bank.digest(identity)}.npz"
        stored = None
        if store and path is not None and path.exists():
            stored = _enough(
                feature_bank.load(path, identity), path, keep, images.count
            )
        elif store and path is None and own.exists():
            stored = _usable(own, identity, keep, images.count)
        path = path or own
        self._used.add(path.name)
        # They go on together, from one place, whatever each has seen of the disk.
        place = 0 if stored is None else stored.position
        if not cluster.all_true(cluster.broadcast_from_first([place]) == [place]):
            stored = None

        def save(banks: Banks) -> None:
            if jax.process_index() == 0:
                feature_bank.save(banks, path)

        found = feature_bank.gather(
            identity,
            images.count,
            keep,
            images.parts,
            self._extract,
            stored=stored,
            save=save if store else None,
            progress=_progress(images.count),
        )
        cluster.all_true(True)  # that it is written, before anyone reads it
        return found

    def metrics(
        self,
        generated: Banks,
        size: Size,
        wanted: tuple[str, ...],
        label: int | None = None,
    ) -> Iterator[Metric]:
        """Yields the metrics of a set, compared with the reference of its size.

        Those of patches are called after the side of these, such as patch32_fd.
        """
        reference, plan = self.reference(size, label), self.plan
        theirs = reference.banks
        prefix = "" if plan.patch is None else f"patch{plan.patch}_"
        for network in self.networks:
            if network.name not in theirs.by_network:
                self.note(f"{plan.reference} says nothing of {network.name}")
                continue
            guess, is_inception = (
                reference.resize,
                network.name == metric_names.INCEPTION,
            )
            if is_inception and guess not in (None, network.resize):
                self.note(
                    f"{plan.reference} does not say how its images were resized, most "
                    f"likely by {guess}; with evaluate.resize={network.resize} "
                    "distances to it do not compare"
                )
            mine, real = (
                banks.by_network[network.name] for banks in (generated, theirs)
            )
            labels = generated.labels
            found = scoring.compute_metrics(
                network, mine, real, labels, wanted, self._options, self.note
            )
            for metric in found:
                yield metric._replace(name=prefix + metric.name)

    def note(self, line: str) -> None:
        """Says what a reader of the metrics should know, and puts it on record."""
        if line not in self._notes:
            self._notes.append(line)
        if line not in self._printed:
            self._printed.add(line)
            console.print_line(f"  note: {line}")

    def forget_notes(self) -> None:
        """Begins another evaluation, of which earlier notes say nothing."""
        self._notes = []

    def settings(self, size: Size, label: int | None = None) -> dict[str, Any]:
        """Returns all that metrics depend on besides the samples, as plain JSON."""
        return {
            "reference": self.reference(size, label).about["hash"],
            "label": label,
            "options": self._options._asdict(),
            "labels": self.plan.labels,
            "kept": self.plan.reference_features,
            **self._extract.identity,
        }

    def training(self, size: Size) -> tuple[ImageSet, Banks, Banks] | None:
        """Returns training images, and what is said of them and of held-out ones.

        None where there is no data source, or nothing of it is held out.
        """
        if self._dataset is None:
            return None
        keep = self.plan.reference_features
        train = self._of_data(size, "train", keep, None)
        held_out = self._of_data(size, "holdout", _HELD_OUT, None)
        if held_out.count < 2:
            return None
        return (
            train,
            self.features_of(train, keep),
            self.features_of(held_out, _HELD_OUT),
        )

    def record(self) -> dict[str, Any]:
        """Returns what was compared with what, for the record."""
        every = {
            "x".join(map(str, size)) + ("" if only is None else f" {only}"): found.about
            for (size, only), found in self._references.items()
        }
        return {
            "reference": next(iter(every.values()), None),
            "references": every,
            "networks": {
                n.name: {"digest": n.digest, "resize": n.resize} for n in self.networks
            },
            "patch": self.plan.patch,
            "notes": list(self._notes),
        }

    def remove_unused(self) -> None:
        """Removes features in the folder, but for those used and a few younger ones."""
        if jax.process_index() or not self._folder.exists():
            return
        every = list(self._folder.glob(f"{_FEATURES}*.npz"))
        unused = [path for path in every if path.name not in self._used]
        unused.sort(key=lambda path: path.stat().mtime, reverse=True)
        for path in unused[_UNUSED:]:
            path.unlink()
        for piece in self._folder.glob(f".{_FEATURES}*{files.PARTIAL}"):
            with contextlib.suppress(FileNotFoundError):  # it is complete by now
                if piece.stat().mtime < time.time() - _ABANDONED_SECONDS:
                    piece.unlink()  # of a process that was killed

    def _open_reference(self, size: Size, label: int | None) -> Reference:
        plan, spec = self.plan, self.plan.reference
        kind, _, name = spec.partition(":")
        if kind == "npz" and published.has_statistics(Path(name).expanduser()):
            return self._published(Path(name).expanduser(), spec, size)
        path = None
        if kind in ("data", "statistics"):
            split, count = plan.reference_split, plan.reference_count
            # A file of statistics is of what it is of, in training too.
            most = plan.reference_most if kind == "data" else None
            images = self._of_data(size, split, count, label, most)
            references.check_count(plan, images.identity["examples"])
            if kind == "statistics":
                sized = name.replace(SIZE, f"{size[0]}x{size[1]}")
                path = epath.Path(sized).expanduser()
        else:
            key, batch = "evaluate.reference", self.batch_size
            images = image_files.open_files(spec, key, plan.size, batch)
        references.check_same_size(images, size, spec)
        console.print_line(
            f"reference: {images.count} images of {references.describe(spec, plan)}"
        )
        try:
            banks = self.features_of(images, plan.reference_features, path=path)
        except feature_bank.Mismatch as error:
            raise ValueError(
                f"evaluate.reference={spec}: {error}. Name another file to compute "
                "these statistics, or change the keys back"
            ) from error
        about = {
            "what": references.describe(spec, plan),
            "n": banks.n,
            "hash": feature_bank.digest(banks.identity),
            "identity": banks.identity,
        }
        return Reference(banks, about)

    def _published(self, path: Path, spec: str, size: Size) -> Reference:
        known = published.read(path)
        # ADM's have spatial features, pytorch-fid's have not.
        resize = "torch_bilinear" if known.spatial is None else "tf1_bilinear"
        nothing = np.zeros(0, np.int32), 0, np.zeros(0)
        banks = Banks({}, 0, *nothing, {"inception": known})
        if "arr_0" in image_files.members(path, spec):
            key, batch = "evaluate.reference", self.batch_size
            images = image_files.open_files(spec, key, self.plan.size, batch)
            references.check_same_size(images, size, spec)
            keep = self.plan.reference_features
            banks = self.features_of(images, keep)
            # Distances by the published statistics, all else by these few images.
            few = banks.by_network["inception"]
            known = dataclasses.replace(known, features=few.features)
            banks.by_network["inception"] = known
        about = {
            "what": f"{spec} (published statistics)",
            "n": None,
            "hash": image_files.checksum(path),
            "images": banks.n,
        }
        return Reference(banks, about, resize)

    def _of_data(
        self,
        size: Size,
        split: Split,
        count: int | None,
        label: int | None,
        most: int | None = None,
    ) -> ImageSet:
        dataset = self._dataset
        if dataset is None:
            raise ValueError(
                f"evaluate.reference={self.plan.reference} needs data.source to open"
            )
        examples = dataset.describe(split, size)["examples"]
        if count is None:
            enough = max(self.plan.count, self.plan.reference_features)
            count = examples if examples < ENDLESS else enough
        return image_sets.of_data(
            dataset,
            self._mesh,
            count=min(count, examples, examples if most is None else most),
            batch_size=self.batch_size,
            size=size,
            split=split,
            label=label,
        )


def _enough(stored: Banks, path: epath.Path, keep: int, count: int) -> Banks:
    """Returns banks, if they keep as many features as are wanted."""
    complete = stored.position >= count
    if stored.keep < (min(keep, stored.n) if complete else keep):
        raise ValueError(
            f"{path} keeps the features of {stored.keep} images, fewer than evaluate."
            f"reference_features={keep}; lower that, or name another file"
        )
    return stored


def _usable(
    path: epath.Path, identity: dict[str, Any], keep: int, count: int
) -> Banks | None:
    """Returns banks that were kept, or None where they must be gathered anew."""
    try:
        if "://" not in str(path):
            Path(path).touch()  # the longest unused goes first, see `tidy`
        return _enough(feature_bank.load(path, identity), path, keep, count)
    except ValueError as error:
        console.print_line(f"note: {error}; gathered anew")
        return None


def _progress(count: int) -> Callable[[int], None]:
    """Returns what says now and then how far a pass over images is."""
    start = said = time.perf_counter()
    first: int | None = None

    def tell(done: int) -> None:
        nonlocal said, first
        now = time.perf_counter()
        if first is None:  # with it came the compilation
            first = done
        elif now - said > _SAY_SECONDS and done > first:
            said = now
            rate = (done - first) / (now - start)
            left = report.format_duration((count - done) / rate)
            console.print_line(f"  {done}/{count}  {rate:.1f} images/s  {left} left")

    return tell
