"""Names of metrics: what they are made of, and which way is better."""

import re

INCEPTION = "inception"

# Kinds by which way is better, with what each says for a person. A longer kind comes
# before the one that it begins with.
_LOWER = {
    "fid_infinity": "Fréchet distance, extrapolated to endlessly many samples",
    "fd_infinity": "Fréchet distance, extrapolated to endlessly many samples",
    "sfid": "Fréchet distance of spatial features",
    "fid": "Fréchet distance",
    "fd": "Fréchet distance",
    "frechet": "Fréchet distance",
    "kid": "kernel distance",
    "kd": "kernel distance",
    "held_out_loss": "loss on held-out images",
    "loss": "loss",
    "bits_per_dimension_bound": "bits per dimension, upper bound",
    "bits_per_dimension": "bits per dimension",
    "bits": "bits per dimension",
    "copies": "samples that are a training image",
    "lpips": "perceptual distance to the original",
    "residual_stored": "disagreement with what was measured, as stored in 8 bits",
    "residual": "disagreement with what was measured",
}
_HIGHER = {
    "inception_score": "sharpness and spread of predicted classes",
    "class_score": "sharpness and spread of predicted classes",
    "precision": "share of samples among the references",
    "recall": "share of references among the samples",
    "density": "how densely references surround the samples",
    "coverage": "share of references with a sample nearby",
    "accuracy": "share of samples seen as the class asked for",
    "psnr_input": "signal to noise of the input alone, dB",
    "ssim_input": "structural similarity of the input alone",
    "psnr": "signal to noise against the original, dB",
    "ssim": "structural similarity to the original",
}
_NEITHER = {
    "held_out_images": "how many images were held out",
    "near_training": "share of samples nearer to the training than held-out images are",
    "nearest_ratio": "distance to the training, over that of held-out images",
}
_WORDS = _LOWER | _HIGHER | _NEITHER
_KINDS = "|".join(map(re.escape, sorted(_WORDS, key=len, reverse=True)))
# The network is asked for last: fid_50k has a number, not a network called 50k.
_NAME = re.compile(rf"(patch\d+_)?({_KINDS})(?:_(.+?))??(?:_(\d+k?))?(@\d+x\d+)?")


def metric_name(kind: str, network: str, n: int) -> str:
    """Returns the name of a metric on features, such as fid_50k or fd_scenes_2400.

    Args:
      kind: fid, fd, kid, kd, precision and so on.
      network: whose features; Inception goes without saying.
      n: how many generated samples are behind it.
    """
    count = f"{n // 1000}k" if n and n % 1000 == 0 else str(n)
    parts = [kind, count] if network == INCEPTION else [kind, network, count]
    return "_".join(parts)


def split_name(name: str) -> tuple[str, str | None, int | None]:
    """Returns (kind, network, n), the inverse of `metric_name`.

    The side of patches before a name (patch32_fd_scenes_1k) and the size of images
    after it (fd_scenes_1k@64x64) belong to the kind: patch32_fd, fd@64x64. Metrics
    without features have no network and no n. A name of no known kind is a kind itself,
    and the bins of a loss are kinds of their own.
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
    """Returns the kind of a metric, whatever its bin, patches and size."""
    found = _NAME.fullmatch(name.split("[")[0])
    return found.group(2) if found else name


def better_lower(name: str) -> bool | None:
    """Returns whether less is better; None for what is neither good nor bad.

    Args:
      name: of a metric, or its kind.
    """
    kind = plain_kind(name)
    if kind in _LOWER:
        return True
    return False if kind in _HIGHER else None


def best(name: str, values: list[float | None]) -> int | None:
    """Returns which of the values is best; None if none is, or it cannot be said."""
    lower = better_lower(name)
    known = [(v, k) for k, v in enumerate(values) if v is not None and v == v]
    if lower is None or not known:
        return None
    # Of equal values the first.
    return min(known, key=lambda pair: pair[0] if lower else -pair[0])[1]


def explain(name: str) -> str:
    """Returns in a few words what a metric is; "" for an unknown one."""
    return _WORDS.get(plain_kind(name), "")
