"""The trained model of the Python API: sample, restore, denoise, save."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from simple_diffusion.build import diffusion, sampling
from simple_diffusion.build.denoising import build_denoising
from simple_diffusion.build.image_geometry import build_geometry
from simple_diffusion.core import images as pixels
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import (
    ApplyFn,
    DenoiseFn,
    HostOrDevice,
    Params,
    Progress,
    Request,
)
from simple_diffusion.diffusion.process import Family
from simple_diffusion.diffusion.schedules import Schedule
from simple_diffusion.pipelines import export, keywords
from simple_diffusion.pipelines.export import Exported
from simple_diffusion.pipelines.keywords import Classes, RestoreKeys, SampleKeys
from simple_diffusion.pipelines.requests import readers
from simple_diffusion.pipelines.requests.plan import read_plan
from simple_diffusion.pipelines.restoration import arrays
from simple_diffusion.pipelines.restoration.arrays import ImageLike, Restoration
from simple_diffusion.pipelines.sampling import Samples
from simple_diffusion.pipelines.trained import Trained


class Model:
    """A trained model.

    Keyword arguments have the names of the config keys (`steps` is `sample.steps`, or
    `restore.steps` in `restore`); their defaults are the values of the run's config.
    Programs are compiled at the first call and cached: another call with the same sizes
    and settings does not compile again.

    config: the config of the run, with all keys.
    trained: the network, its weights, and their devices.
    weights_name: which parameters: "ema", "params", or "power_LENGTH".
    metrics: of the last evaluation of the run; {} without one.
    sheet: grid of samples, as the bytes of a PNG file; None without one.
    """

    def __init__(
        self,
        config: Config,
        trained: Trained,
        *,
        weights_name: str = "ema",
        metrics: Mapping[str, Any] | None = None,
        sheet: bytes | None = None,
    ):
        """Takes a config and weights; users call `simple_diffusion.load`."""
        self.config = config
        self.trained = trained
        self.weights_name = weights_name
        self.metrics = dict(metrics or {})
        self.sheet = sheet
        self._programs: dict[Any, Any] = {}

    @property
    def params(self) -> Params:
        """The parameters of the network, a tree of arrays."""
        return self.trained.weights.network

    @property
    def apply(self) -> ApplyFn:
        """The network: (params, z_t, logsnr, cond) -> prediction, a pure function."""
        return self.trained.net.apply

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; () for a model without classes."""
        return self.trained.classes

    @property
    def step(self) -> int | None:
        """The training step of the weights."""
        return self.trained.step

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the training images."""
        h, w, _ = self.trained.net.size
        return h * self.trained.codec.factor, w * self.trained.codec.factor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of x, the space of the network."""
        return self.trained.net.size

    @property
    def family(self) -> Family:
        """How z mixes signal and noise, for custom solvers."""
        return self.trained.net.family

    @property
    def schedule(self) -> Schedule:
        """Time t in [0, 1] -> logsnr, for images of the training size."""
        return diffusion.build_schedule(self.config)

    def __repr__(self) -> str:
        h, w = self.size
        parts = [f"{self.config.model.name} at {h}x{w}"]
        parts += [f"{len(self.classes)} classes"] if self.classes else []
        parts += [f"step {self.step}"] if self.step is not None else []
        return f"<simple_diffusion.Model: {', '.join(parts)}, {self.weights_name}>"

    def sample(
        self,
        classes: Classes | None = None,
        *,
        as_pil: bool = False,
        progress: Progress | None = None,
        **keys: Unpack[SampleKeys],
    ) -> UInt8[np.ndarray, "n h w c"] | list[Image.Image]:
        """Returns samples, the same as those of `--mode sample` with the same keys.

        Args:
          classes: of the images, by name or number: ["boat", 3]. The default is one
            image per class; with a larger `count` the classes repeat in turn. None
            means all classes and `sample.count` images. For a model that was trained on
            captions they are prompts: ["a red boat"], the same as the key `prompts`.
          as_pil: return a list of PIL images.
          progress: called on the host as (done, steps, x_hat) at every step of every
            batch; x_hat is the current estimate of the image, float32 in [-1, 1],
            [b, h, w, c]; portrait images are still turned, see `data.portrait`. An
            exception that it raises stops sampling, on several devices
            at the end of the batch, and is raised here.
          **keys: keys of the section `sample`. Values of conditions may be files, as on
            the command line, or Python objects: `prompts` a list of texts, `layout` a
            list of {"class": "car", "box": (y0, x0, y1, x1)} or one such list for each
            image, `map`, `low_resolution` and `image` arrays, PIL images or lists of
            them, `hole_mask` bool arrays that are True in the hole, `vector` numbers.
            The default is one image per value.

        Raises:
          ValueError: a key or class does not exist, or a value or size is invalid.
        """
        samples = self.prepare_samples(progress, classes=classes, **keys)
        images = np.concatenate(list(samples))
        return _to_pil(images) if as_pil else images

    def prepare_samples(self, progress: Progress | None = None, **keys: Any) -> Samples:
        """Returns the samples of `sample` in batches, drawn as they are iterated.

        Args:
          progress: as in `sample`.
          **keys: as in `sample`, including `classes`.

        Raises:
          ValueError: as `sample`.
        """
        config, given = self._sample_config(keys)
        counts = "count" not in keys and bool(given)
        return Samples(
            *(self.trained, config, progress, self._programs),
            given=given,
            counts_values=counts,
        )

    @overload
    def restore(
        self,
        input: ImageLike,
        task: str = ...,
        *,
        hole_mask: ImageLike | None = ...,
        as_pil: bool = ...,
        progress: Progress | None = ...,
        **keys: Unpack[RestoreKeys],
    ) -> Restoration: ...

    @overload
    def restore(
        self,
        input: Sequence[ImageLike],
        task: str = ...,
        *,
        hole_mask: ImageLike | Sequence[ImageLike] | None = ...,
        as_pil: bool = ...,
        progress: Progress | None = ...,
        **keys: Unpack[RestoreKeys],
    ) -> list[Restoration]: ...

    def restore(
        self,
        input: Any,
        task: str = "inpaint",
        *,
        hole_mask: Any = None,
        as_pil: bool = False,
        progress: Progress | None = None,
        **keys: Unpack[RestoreKeys],
    ) -> Restoration | list[Restoration]:
        """Returns restorations of degraded images, as `--mode restore` computes them.

        Args:
          input: an image as a uint8 array [h, w, c] or [h, w], a PIL image or the path
            of a file; or a list of them. For the task "sense" without `degrade`, the
            measurement: a float array or an .npy file.
          task: the degradation: denoise, inpaint, super_resolution, colourise, deblur,
            sense, or several joined by "+", see `restore.task`.
          hole_mask: for inpainting: an array (bool, or uint8 of 0 and 255; True or
            white is filled), a PIL image or a path; or one for each input; or
            "box:HxW", "random:SHARE".
          as_pil: return PIL images in the field `images`.
          progress: as in `sample`.
          **keys: keys of the section `restore`, such as samples=4, and of `sample`,
            such as guidance=3.0. A name that both have sets the key of `restore`.

        Raises:
          ValueError: a key does not exist, or an input does not fit the task.
          OSError: a file cannot be read.
        """
        restore_keys = set(self.config.restore)
        config = self._with(
            "sample", {k: v for k, v in keys.items() if k not in restore_keys}
        )
        keywords.set_keys(
            config, "restore", {k: v for k, v in keys.items() if k in restore_keys}
        )
        config.restore.task = task
        restorations = arrays.restore(
            self.trained, config, input, hole_mask, progress, self._programs
        )
        if as_pil:
            restorations = [
                one.replace_images(_to_pil(one.images)) for one in restorations
            ]
        return restorations if isinstance(input, list | tuple) else restorations[0]

    def denoiser(
        self, classes: Classes | None = None, **keys: Unpack[SampleKeys]
    ) -> DenoiseFn:
        """Returns (z_t, logsnr) -> x_hat, guided and clipped as in sampling.

        A pure function of jax arrays, for custom solvers: z_t [b, h, w, c] in the scale
        of `diffusion.family`, logsnr [b], x_hat [b, h, w, c].

        Args:
          classes: of the images: one for all, or one for each. None means no class, and
            without other conditions no guidance. For a model that was trained on
            captions they are prompts.
          **keys: as in `sample`: guidance, clip, size, values of conditions, ...

        Raises:
          ValueError: as `sample`.
        """
        trained = self.trained
        config, given = self._sample_config({"classes": classes, **keys})
        net, c = trained.net, config.sample
        mesh = trained.mesh
        geometry = build_geometry(config, net, c.size, c.steps, mesh=mesh)
        asked = Request(jnp.full(1, net.num_classes, jnp.int32))
        is_asked = classes is not None or bool(given)
        if given:
            plan = read_plan(
                *(config, net, trained.classes, trained.lexicon),
                given=given,
                size=geometry.size,
                counts_values=True,
            )
            asked = jax.tree.map(jnp.asarray, plan.request)
        elif is_asked:
            label = sampling.parse_classes(c.classes, trained.classes, net.num_classes)
            asked = Request(jnp.asarray(label, jnp.int32))
        guided = trained.weak is not None or (net.is_conditional and is_asked)
        guided_model = build_denoising(
            config, net, trained.weak, guided=guided, clip=c.clip
        )
        guided_model.check(geometry)

        def denoise(
            z_t: Float[Array, "b h w c"], logsnr: Float[Array, "b"]
        ) -> Float[Array, "b h w c"]:
            request = jax.tree.map(
                lambda v: jnp.broadcast_to(v, (len(z_t), *v.shape[1:])), asked
            )
            return guided_model.on(geometry, trained.weights, request)(z_t, logsnr)

        return denoise

    def _sample_config(self, keys: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
        """Returns the config for keyword arguments, and the values of conditions."""
        given = {k: v for k, v in keys.items() if k in readers.KEYS and v is not None}
        settings = {k: v for k, v in keys.items() if k not in readers.KEYS}
        classes = settings.pop("classes", None)
        if self.trained.lexicon.has_text and "prompts" not in given:
            if classes is not None:
                given["prompts"] = keywords.list_prompts(classes)
            classes = None
        elif isinstance(given.get("prompts"), str):
            given["prompts"] = [given["prompts"]]
        if classes is not None:
            settings["classes"] = text = keywords.join_classes(classes)
            if not given:
                settings.setdefault("count", text.count(",") + 1)
        return self._with("sample", settings), given

    def encode(
        self, images: ImageLike | Sequence[ImageLike]
    ) -> Float[Array, "b h w c"]:
        """Returns images in the space of the model: float32, for pixels in [-1, 1].

        Args:
          images: as in `restore`; a uint8 array may have a batch axis.
        """
        batch = arrays.stack_images(images, self.config.data.channels)
        codec, weights = self.trained.codec, self.trained.weights
        return codec.encode(weights.codec, pixels.to_unit_range(batch))

    def decode(
        self, x: Float[HostOrDevice, "b h w c"], *, as_pil: bool = False
    ) -> UInt8[np.ndarray, "b h w c"] | list[Image.Image]:
        """Returns x as uint8 images, the inverse of `encode`."""
        codec, weights = self.trained.codec, self.trained.weights
        batch = np.asarray(pixels.to_uint8(codec.decode(weights.codec, jnp.asarray(x))))
        return _to_pil(batch) if as_pil else batch

    def save(self, folder: str | Path, *, dtype: str = "float32") -> Path:
        """Writes an export folder, which `simple_diffusion.load` reads without orbax.

        Args:
          folder: created if needed; files of an earlier export there are replaced.
          dtype: of the stored parameters, "float32" or "bfloat16".

        Returns:
          The folder.

        Raises:
          ValueError: the dtype is unknown, or the folder holds other files.
        """
        exported = Exported(
            config=self.config,
            trained=self.trained,
            weights_name=self.weights_name,
            metrics=self.metrics,
            sheet=self.sheet,
        )
        return export.save(exported, Path(folder).expanduser(), dtype=dtype)

    def _with(self, section: str, keys: Mapping[str, Any]) -> Config:
        config = self.config.copy_and_resolve_references()
        keywords.set_keys(config, section, keys)
        return config


def _to_pil(batch: UInt8[np.ndarray, "n h w c"]) -> list[Image.Image]:
    grey = batch.shape[-1] == 1
    return [Image.fromarray(image[..., 0] if grey else image) for image in batch]
