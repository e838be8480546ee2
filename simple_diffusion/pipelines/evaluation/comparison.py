"""Compares sets of images by the outputs of feature networks."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from simple_diffusion.build.data import Data
from simple_diffusion.build.evaluation import Plan
from simple_diffusion.core import console, files, memory
from simple_diffusion.data.sources.protocols import Split
from simple_diffusion.evaluation import feature_bank, metric_names, published, scoring
from simple_diffusion.evaluation.feature_bank import Banks
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork
from simple_diffusion.evaluation.scoring import Metric
from simple_diffusion.pipelines.evaluation import image_files, image_sets, references
from simple_diffusion.pipelines.evaluation.extractor import Extractor
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet, Size
from simple_diffusion.pipelines.evaluation.references import Reference
from simple_diffusion.training import cluster

FOLDER = "evaluation"
_FEATURES = "features_"
_HELD_OUT = 2_000  # held-out images, as a baseline of the distance to training images
_UNUSED = 8  # number of feature files to keep that this evaluation does not use
_ABANDONED_SECONDS = 3600.0
ENDLESS = 2**32  # examples; a source with more generates them on demand


class Comparison:
    """Compares sets of images with reference sets, which are computed only once.

    plan: of the evaluation.
    networks: with their weights.
    dataset: the data source; None if it is not used.
    mesh: the devices.
    folder: where features are stored.
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
        self.dataset = dataset
        self._mesh = mesh
        self._folder = folder
        self.batch_size = round_batch(plan.batch_size, mesh)
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
        """Returns the reference set for images of a size.

        Args:
          size: height and width.
          label: restrict the reference to this class; None uses all classes.

        Raises:
          ValueError: the reference has another size, or a statistics file belongs to
            other images.
          OSError: the reference cannot be read.
        """
        key = size, label
        if key not in self._references:
            self._references[key] = self._open_reference(size, label)
        return self._references[key]

    def features_of(
        self,
        images: ImageSet,
        keep: int,
        store: bool = True,
        path: Any = None,
        label: str = "reading the reference",
    ) -> Banks:
        """Returns the network outputs of a set of images.

        Args:
          images: the set.
          keep: number of images whose individual features are kept.
          store: store the result in a file, to compute it only once and to continue
            after an interruption.
          path: of this file; by default a file in the folder.
          label: what is done, for the progress bar.

        Raises:
          ValueError: images cannot be read, are smaller than a patch, or features are
            not finite.
          Mismatch: the file belongs to other images.
        """
        references.check_size(self.plan, images.size)
        identity = images.identity | self._extract.identity
        keep = min(keep, images.count)
        default_path = self._folder / f"{_FEATURES}{feature_bank.digest(identity)}.npz"
        stored = None
        if store and path is not None and path.exists():
            stored = _check_kept(
                feature_bank.load(path, identity), path, keep, images.count
            )
        elif store and path is None and default_path.exists():
            stored = _load_stored(default_path, identity, keep, images.count)
        path = path or default_path
        self._used.add(path.name)
        # All processes must continue at one position, even if some read another file.
        position = 0 if stored is None else stored.position
        if not cluster.all_true(cluster.broadcast_from_first([position]) == [position]):
            stored = None

        def save(banks: Banks) -> None:
            if jax.process_index() == 0:
                feature_bank.save(banks, path)

        advice = (
            f"lower evaluate.batch_size={self.plan.batch_size} or sample.batch_size"
        )
        with (
            memory.explain(advice),
            console.show_progress(label, images.count, "images") as show,
        ):
            banks = feature_bank.gather(
                identity,
                images.count,
                keep,
                images.parts,
                self._extract,
                stored=stored,
                save=save if store else None,
                progress=show,
            )
        cluster.all_true(True)  # wait until the file is written
        return banks

    def metrics(
        self,
        generated: Banks,
        size: Size,
        names: tuple[str, ...],
        label: int | None = None,
    ) -> Iterator[Metric]:
        """Yields the metrics of a set, compared with the reference of its size.

        The names of patch metrics contain the side of the patches, as in patch32_fd.
        """
        reference, plan = self.reference(size, label), self.plan
        reference_banks = reference.banks
        prefix = "" if plan.patch is None else f"patch{plan.patch}_"
        for network in self.networks:
            if network.name not in reference_banks.by_network:
                self.note(f"{plan.reference} has no features of {network.name}")
                continue
            likely_resize, is_inception = (
                reference.resize,
                network.name == metric_names.INCEPTION,
            )
            if is_inception and likely_resize not in (None, network.resize):
                self.note(
                    f"{plan.reference} does not state how its images were resized, "
                    f"most likely by {likely_resize}; with evaluate.resize="
                    f"{network.resize} distances to it are not comparable"
                )
            sample_bank, reference_bank = (
                banks.by_network[network.name] for banks in (generated, reference_banks)
            )
            metrics = scoring.compute_metrics(
                network,
                sample_bank,
                reference_bank,
                generated.labels,
                names,
                self._options,
                self.note,
            )
            for metric in metrics:
                yield metric._replace(name=prefix + metric.name)

    def note(self, line: str) -> None:
        """Prints a note for the reader of the metrics and adds it to the record."""
        if line not in self._notes:
            self._notes.append(line)
        if line not in self._printed:
            self._printed.add(line)
            console.print_line(f"  note: {line}")

    def clear_notes(self) -> None:
        """Deletes the notes, before another evaluation starts."""
        self._notes = []

    def settings(self, size: Size, label: int | None = None) -> dict[str, Any]:
        """Returns all settings that metrics depend on, without the samples, as JSON."""
        return {
            "reference": self.reference(size, label).about["hash"],
            "label": label,
            "options": self._options._asdict(),
            "labels": self.plan.labels,
            "kept": self.plan.reference_features,
            **self._extract.identity,
        }

    def training(self, size: Size) -> tuple[ImageSet, Banks, Banks] | None:
        """Returns training images, their features, and those of held-out images.

        Returns None without a data source or without held-out images.
        """
        if self.dataset is None:
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
        """Returns references, networks and notes, for the record."""
        about = {
            "x".join(map(str, size)) + ("" if label is None else f" {label}"): ref.about
            for (size, label), ref in self._references.items()
        }
        return {
            "reference": next(iter(about.values()), None),
            "references": about,
            "networks": {
                n.name: {"digest": n.digest, "resize": n.resize} for n in self.networks
            },
            "patch": self.plan.patch,
            "notes": list(self._notes),
        }

    def remove_unused(self) -> None:
        """Removes feature files, except the used ones and the newest of the others."""
        if jax.process_index() or not self._folder.exists():
            return
        paths = self._folder.glob(f"{_FEATURES}*.npz")
        unused = [path for path in paths if path.name not in self._used]
        unused.sort(key=lambda path: path.stat().mtime, reverse=True)
        for path in unused[_UNUSED:]:
            path.unlink()
        for partial in self._folder.glob(f".{_FEATURES}*{files.PARTIAL}"):
            with contextlib.suppress(FileNotFoundError):  # complete in the meantime
                if partial.stat().mtime < time.time() - _ABANDONED_SECONDS:
                    partial.unlink()  # left by a killed process

    def _open_reference(self, size: Size, label: int | None) -> Reference:
        plan, spec = self.plan, self.plan.reference
        kind, _, name = spec.partition(":")
        if kind == "npz" and published.has_statistics(Path(name).expanduser()):
            return self._published(Path(name).expanduser(), spec, size)
        path = None
        if kind in ("data", "statistics"):
            split, count = plan.reference_split, plan.reference_count
            # The content of a statistics file does not depend on a training's limit.
            most = plan.reference_most if kind == "data" else None
            images = self._of_data(size, split, count, label, most)
            references.check_count(plan, images.identity["examples"])
            if kind == "statistics":
                sized = name.replace(references.SIZE, f"{size[0]}x{size[1]}")
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
                "these statistics, or restore the old settings"
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
        # Statistics of ADM have spatial features, those of pytorch-fid have not.
        resize = "torch_bilinear" if known.spatial is None else "tf1_bilinear"
        empty = np.zeros(0, np.int32), 0, np.zeros(0)
        banks = Banks({}, 0, *empty, {"inception": known})
        if "arr_0" in image_files.array_names(path, spec):
            key, batch = "evaluate.reference", self.batch_size
            images = image_files.open_files(spec, key, self.plan.size, batch)
            references.check_same_size(images, size, spec)
            keep = self.plan.reference_features
            banks = self.features_of(images, keep)
            # Distances use the published statistics, other metrics these few images.
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
        dataset = self.dataset
        if dataset is None:
            raise ValueError(
                f"evaluate.reference={self.plan.reference} needs a data.source"
            )
        examples = dataset.describe(split, size)["examples"]
        if count is None:
            endless_count = max(self.plan.count, self.plan.reference_features)
            count = examples if examples < ENDLESS else endless_count
        return image_sets.from_data(
            dataset,
            self._mesh,
            count=min(count, examples, examples if most is None else most),
            batch_size=self.batch_size,
            size=size,
            split=split,
            label=label,
        )


def round_batch(batch_size: int, mesh: Mesh) -> int:
    """Returns the next multiple of the devices: the last batch is padded anyway."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-batch_size // devices) * devices


def _check_kept(stored: Banks, path: epath.Path, keep: int, count: int) -> Banks:
    """Returns stored banks; raises ValueError if they keep too few features."""
    complete = stored.position >= count
    if stored.keep < (min(keep, stored.n) if complete else keep):
        raise ValueError(
            f"{path} keeps the features of {stored.keep} images, fewer than evaluate."
            f"reference_features={keep}; lower this key, or name another file"
        )
    return stored


def _load_stored(
    path: epath.Path, identity: dict[str, Any], keep: int, count: int
) -> Banks | None:
    """Returns stored banks, or None if they must be computed again."""
    try:
        if "://" not in str(path):
            Path(path).touch()  # `remove_unused` removes the oldest files first
        return _check_kept(feature_bank.load(path, identity), path, keep, count)
    except ValueError as error:
        console.print_line(f"note: {error}; computed again")
        return None
