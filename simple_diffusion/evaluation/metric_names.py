"""Names of metrics: how they are composed, and whether lower is better."""

import re

INCEPTION = "inception"

# Kinds by whether lower or higher is better, with a description.
_LOWER = {
    "fid_infinity": "Fréchet distance, extrapolated to infinitely many samples",
    "fd_infinity": "Fréchet distance, extrapolated to infinitely many samples",
    "sfid": "Fréchet distance of spatial features",
    "fid": "Fréchet distance",
    "fd": "Fréchet distance",
    "kid": "kernel distance",
    "kd": "kernel distance",
    "held_out_loss": "loss on held-out images",
    "bits_per_dimension_bound": "bits per dimension, upper bound",
    "copies": "samples that copy a training image",
    "lpips": "perceptual distance to the original",
    "residual_stored": "difference from the measurement, after rounding to 8 bits",
    "residual": "difference from the measurement",
    "hole_lpips": "perceptual distance to the original, with the hole filled",
    "consistency_error": "difference of the reduced sample from its input, of 255",
    "consistency_error_max": "largest difference of the reduced sample, of 255",
}
_HIGHER = {
    "inception_score": "sharpness and spread of predicted classes",
    "class_score": "sharpness and spread of predicted classes",
    "precision": "share of samples within the reference distribution",
    "recall": "share of references within the sample distribution",
    "density": "how densely references surround the samples",
    "coverage": "share of references with a sample nearby",
    "accuracy": "share of samples classified as their class",
    "psnr_input": "signal-to-noise ratio of the input, dB",
    "ssim_input": "structural similarity of the input",
    "psnr": "signal-to-noise ratio against the original, dB",
    "ssim": "structural similarity to the original",
    "accuracy_object": "share of samples with the object of their caption",
    "accuracy_colour": "share of samples with the colour of their caption",
    "accuracy_count": "share of samples with the count of their caption",
    "accuracy_position": "share of samples with the position of their caption",
    "layout_iou": "overlap of requested boxes with those found, mean over classes",
    "layout_recall": "share of requested boxes that are found, mean over classes",
    "layout_precision": "share of found boxes that were requested, mean over classes",
    "semantic_accuracy": "share of pixels with the requested class",
    "semantic_iou": "overlap of requested and found classes, mean over classes",
    "hole_psnr": "signal-to-noise ratio inside the hole, dB",
    "hole_ssim": "structural similarity inside the hole",
    "known_exact": "share of known pixels that are unchanged",
}
_NEITHER = {
    "held_out_images": "number of held-out images",
    "near_training": "share of samples closer to training than held-out images",
    "nearest_ratio": "distance to training images, relative to held-out images",
}
_DESCRIPTIONS = _LOWER | _HIGHER | _NEITHER
# Measured without samples, so that no setting of the sampler has a part in them.
_WITHOUT_SAMPLES = ("held_out_loss", "held_out_images", "bits_per_dimension_bound")
_KINDS = "|".join(map(re.escape, sorted(_DESCRIPTIONS, key=len, reverse=True)))
# The network is matched last: fid_50k has a number, not a network called 50k.
_NAME = re.compile(rf"(patch\d+_)?({_KINDS})(?:_(.+?))??(?:_(\d+k?))?(@\d+x\d+)?")


def metric_name(kind: str, network: str, n: int) -> str:
    """Returns the name of a metric on features, such as fid_50k or fd_scenes_2400.

    Args:
      kind: fid, fd, kid, kd, precision and so on.
      network: the feature network; Inception is left out of the name.
      n: number of generated samples.
    """
    count = f"{n // 1000}k" if n and n % 1000 == 0 else str(n)
    parts = [kind, count] if network == INCEPTION else [kind, network, count]
    return "_".join(parts)


def split_name(name: str) -> tuple[str, str | None, int | None]:
    """Returns (kind, network, n), the inverse of `metric_name`.

    A patch size before the name (patch32_fd_scenes_1k) and an image size after it
    (fd_scenes_1k@64x64) belong to the kind: patch32_fd, fd@64x64. Metrics without
    features have no network and no n. An unknown name is returned as the kind, and so
    is each bin of a loss.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return name, None, None
    patch, kind, network, count, size = found.groups()
    kind = f"{patch or ''}{kind}{size or ''}"
    if count is None:
        return kind, network, None
    n = int(count.removesuffix("k")) * (1000 if count.endswith("k") else 1)
    return kind, network or INCEPTION, n


def plain_kind(name: str) -> str:
    """Returns the kind of a metric without its bin, patch size and image size."""
    found = _NAME.fullmatch(name.split("[")[0])
    return found.group(2) if found else name


def is_lower_better(name: str) -> bool | None:
    """Returns whether a lower value is better; None if neither is.

    Args:
      name: of a metric, or its kind.
    """
    kind = plain_kind(name)
    if kind in _LOWER:
        return True
    return False if kind in _HIGHER else None


def needs_samples(name: str) -> bool:
    """Returns whether a metric depends on samples, and so on how they are drawn."""
    return plain_kind(name) not in _WITHOUT_SAMPLES


def best_index(name: str, values: list[float | None]) -> int | None:
    """Returns the index of the best value; None if there is none or no order."""
    lower = is_lower_better(name)
    known = [(v, k) for k, v in enumerate(values) if v is not None and v == v]
    if lower is None or not known:
        return None
    # The first of equal values.
    return min(known, key=lambda pair: pair[0] if lower else -pair[0])[1]


def explain(name: str) -> str:
    """Returns a short description of a metric; "" for an unknown one."""
    return _DESCRIPTIONS.get(plain_kind(name), "")
