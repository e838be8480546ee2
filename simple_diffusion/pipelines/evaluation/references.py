"""The reference set that `evaluate.reference` names."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from simple_diffusion.build.data import Data
from simple_diffusion.build.evaluation import Plan
from simple_diffusion.evaluation import feature_bank, published
from simple_diffusion.evaluation.feature_bank import Banks
from simple_diffusion.pipelines.evaluation import image_files
from simple_diffusion.pipelines.evaluation.image_sets import ImageSet, Size

SIZE = "{size}"  # placeholder in the name of a statistics file


class Reference(NamedTuple):
    """A reference set.

    Fields:
      banks: its features.
      about: its description, for the record.
      resize: how its images were probably resized to the input of Inception; None if
        that is known for sure.
    """

    banks: Banks
    about: dict[str, Any]
    resize: str | None = None


def check(
    plan: Plan,
    networks: Collection[str],
    dataset: Data | None = None,
    size: Size | None = None,
) -> None:
    """Raises ValueError for a reference that cannot be used.

    Call it before anything that takes long.

    Args:
      plan: of the evaluation.
      networks: their names, as in `evaluate.networks`.
      dataset: the data source, if there is one.
      size: of the samples; if it is unknown (None), image files are not opened.
    """
    spec = plan.reference
    kind, _, name = spec.partition(":")
    if size is not None:
        check_size(plan, size)
    if kind == "statistics" and size is not None:
        _check_file(Path(name.replace(SIZE, f"{size[0]}x{size[1]}")), spec)
    if kind in ("data", "statistics"):
        if (
            plan.reference_count is not None
            and dataset is not None
            and size is not None
        ):
            check_count(plan, dataset.describe(plan.reference_split, size)["examples"])
        return
    for key, value, none in (
        ("reference_count", plan.reference_count, None),
        ("labels", plan.labels, "balanced"),
    ):
        if value != none:
            raise ValueError(
                f"evaluate.{key}={value} needs evaluate.reference=data, not "
                f"{spec}: all images in files are compared"
            )
    path = Path(name).expanduser()
    if kind != "npz" or not published.has_statistics(path):
        if size is not None:
            key, batch = "evaluate.reference", plan.batch_size
            images = image_files.open_files(spec, key, plan.size, batch)
            check_same_size(images, size, spec)
    elif plan.patch is not None or "inception" not in networks:
        raise ValueError(
            f"evaluate.reference={spec} holds statistics of Inception's features of "
            "full images: they need evaluate.networks=('inception',) and "
            "evaluate.patch=None"
        )
    else:
        published.read(path)


def _check_file(path: Path, spec: str) -> None:
    """Raises ValueError if a file of statistics exists, but is none."""
    try:
        feature_bank.load(path.expanduser())
    except FileNotFoundError:
        return  # it will be created
    except (ValueError, OSError) as error:
        raise ValueError(f"evaluate.reference={spec}: {error}") from error


def check_size(plan: Plan, size: Size) -> None:
    """Raises ValueError if images of a size cannot be compared."""
    patch = plan.patch
    if patch is not None and patch > min(size):
        raise ValueError(
            f"evaluate.patch={patch} does not fit into images of "
            f"{size[0]}x{size[1]} pixels"
        )


def check_count(plan: Plan, examples: int) -> None:
    """Raises ValueError if `reference_count` exceeds the images of the data source."""
    count = plan.reference_count
    if count is not None and count > examples:
        raise ValueError(
            f"evaluate.reference_count={count} is more than the {examples} images of "
            f"data.source that evaluate.reference_split={plan.reference_split} has"
        )


def check_same_size(images: ImageSet, size: Size, spec: str) -> None:
    """Raises ValueError if samples do not have the size of the reference images."""
    if images.size != size:
        raise ValueError(
            f"samples of {size[0]}x{size[1]} pixels cannot be compared with evaluate."
            f"reference={spec} of {images.size[0]}x{images.size[1]}; evaluate.size=HxW "
            "crops and resizes both"
        )


def describe(spec: str, plan: Plan) -> str:
    """Returns a description of the reference for messages."""
    if spec.partition(":")[0] in ("folder", "npz"):
        return spec
    return f"{spec}, {plan.reference_split}"
