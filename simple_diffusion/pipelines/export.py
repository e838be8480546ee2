"""A trained model as a folder of plain files: safetensors and JSON, no pickle.

model.safetensors   one set of parameters, float32 or bfloat16
config.json         the config of the run, with every key
process.json        meaning of the parameters: prediction, schedule, size, null class
classes.json        names of the classes, by number
tokenizer.json      of the captions, if the model has prompts
condition_names.json  names of the classes of layouts and maps, if it has these
text_encoder.json   which frozen text encoder the model reads prompts by, if it has one
metrics.json        the last evaluation of the run, if there was one
samples.png         grid of samples, if the run has one
README.md           a model card for the Hugging Face hub
SHA256SUMS          checksums of these files, checked when the folder is loaded
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import safetensors
import safetensors.flax
from etils import epath
from flax import traverse_util

from simple_diffusion.build import codec as codecs
from simple_diffusion.build import network
from simple_diffusion.build.conditioning import lexicon
from simple_diffusion.core import arrays, files
from simple_diffusion.core.options import Config, pick
from simple_diffusion.core.types import Params, Weights
from simple_diffusion.pipelines import model_card, runs
from simple_diffusion.pipelines.trained import Trained
from simple_diffusion.training import sharding

PARAMS = "model.safetensors"
PROCESS = "process.json"
CARD = "README.md"
SUMS = "SHA256SUMS"
FORMAT = 1
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Exported:
    """The content of an export folder; its fields are the arguments of `Model`."""

    config: Config
    trained: Trained
    weights_name: str
    metrics: Mapping[str, Any]
    sheet: bytes | None


def save(model: Exported, folder: Path, *, dtype: str = "float32") -> Path:
    """Writes an export folder and returns it.

    Args:
      model: the model to write, without its weaker model for guidance.
      folder: created if it does not exist; files of an earlier export are replaced.
      dtype: of the stored parameters, "float32" or "bfloat16".

    Raises:
      ValueError: the dtype is unknown, or the folder holds other files.
      OSError: the folder cannot be written.
    """
    kind = pick(DTYPES, dtype, "dtype")
    if folder.exists() and any(folder.iterdir()) and not (folder / PROCESS).exists():
        raise ValueError(
            f"{folder} is not empty and holds no export; choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    flat = traverse_util.flatten_dict(model.trained.weights.network, sep="/")
    params = {name: jnp.asarray(jax.device_get(v), kind) for name, v in flat.items()}
    process, words = describe(model, dtype), model.trained.lexicon.to_files()
    contents = {
        PARAMS: safetensors.flax.save(params, {"format": "flax"}),
        files.CONFIG: _json(json.loads(model.config.to_json_best_effort())),
        PROCESS: _json(process),
        files.CLASSES: _json(list(model.trained.classes)),
        **{name: words.get(name) for name in lexicon.FILES},
        files.METRICS: _json(model.metrics) if model.metrics else None,
        files.SAMPLES: model.sheet,
        CARD: model_card.render(process, model.metrics, folder.name).encode(),
    }
    written = {name: data for name, data in contents.items() if data is not None}
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
    written[SUMS] = "".join(f"{sums[name]}  {name}\n" for name in sums).encode()
    for name, data in written.items():
        with files.open_atomic(folder / name) as file:
            file.write(data)
    for name in contents.keys() - written.keys():
        (folder / name).unlink(missing_ok=True)  # of an earlier export
    return folder


def describe(model: Exported, dtype: str) -> dict[str, Any]:
    """Returns the meaning of the parameters, as plain JSON."""
    config, trained = model.config, model.trained
    net, settings = trained.net, json.loads(config.diffusion.to_json_best_effort())
    size = [side * trained.codec.factor for side in net.size[:2]]
    return {
        "format": FORMAT,
        "network": config.model.name,
        "parameters": arrays.tree_size(trained.weights.network),
        "dtype": dtype,
        "weights": model.weights_name,
        "step": trained.step,
        "prediction": net.kind,
        "family": net.family.name,
        "schedule": settings["schedule"],
        "shift_by_resolution": settings["shift_by_resolution"],
        "value_range": [-1.0, 1.0],
        "size": size,
        "channels": net.size[2],
        "num_classes": net.num_classes,
        "null_class": net.num_classes if net.num_classes else None,
    }


def load(folder: Path) -> Exported:
    """Returns the content of an export folder, on all devices of this machine.

    Raises:
      ValueError: a file is missing, damaged, of a newer format, or does not match.
    """
    process = _read_json(folder / PROCESS)
    if process.get("format", 0) > FORMAT:
        raise ValueError(
            f"{folder / PROCESS} is of format {process['format']}; this version of "
            f"simple_diffusion reads up to {FORMAT}: upgrade it"
        )
    _check_sums(folder)
    config = runs.complete_config(_read_json(folder / files.CONFIG))
    classes = tuple(_read_json(folder / files.CLASSES))
    net = network.build_network(config, len(classes))
    mesh = sharding.make_mesh()
    params = _read_params(folder / PARAMS, net)
    params = jax.device_put(params, sharding.state_shardings(params, mesh))
    codec, codec_params = codecs.build_codec(config)
    weights = Weights(params, None, codec_params)
    words = lexicon.load(config, epath.Path(folder))
    step = process["step"]
    trained = Trained(net, weights, mesh, classes, step, None, codec, words)
    metrics, sheet = folder / files.METRICS, folder / files.SAMPLES
    return Exported(
        config=config,
        trained=trained,
        weights_name=process["weights"],
        metrics=_read_json(metrics) if metrics.exists() else {},
        sheet=sheet.read_bytes() if sheet.exists() else None,
    )


def _read_params(path: Path, net: network.Network) -> Params:
    """Returns the parameters as float32, checked against the network's shapes."""
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    expected: Any = traverse_util.flatten_dict(shapes, sep="/")
    try:
        stored = safetensors.flax.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    missing = sorted(expected.keys() - stored.keys())
    unexpected = sorted(stored.keys() - expected.keys())
    differing = [
        f"{name} is {list(stored[name].shape)}, not {list(leaf.shape)}"
        for name, leaf in expected.items()
        if name in stored and stored[name].shape != leaf.shape
    ]
    for what, names in (
        ("lacks", missing),
        ("has unexpected", unexpected),
        ("has other shapes:", differing),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"{path} {what} {', '.join(names[:5])}{more}")
    flat = {name: leaf.astype(jnp.float32) for name, leaf in stored.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def _check_sums(folder: Path) -> None:
    """Raises ValueError for a file that is missing or damaged.

    The model card is not checked, because people edit it.
    """
    path = folder / SUMS
    if not path.exists():
        raise ValueError(f"{path} is missing: the folder is not complete")
    for line in path.read_text().splitlines():
        expected, _, name = line.partition("  ")
        if name == CARD:
            continue
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing")
        with (folder / name).open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            raise ValueError(f"{folder / name} is damaged: its SHA-256 is not {SUMS}'s")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
