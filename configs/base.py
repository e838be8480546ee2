"""Every key of a run, with its default and its meaning.

A recipe starts from `default()` and changes keys. The tree is locked: an unknown key is
an error that names it. Sections with several kinds (`model`, `schedule`) have one
function per kind, so that a recipe has only the keys of the kind that it uses.

Each duration of `train` has three keys, `*_steps`, `*_epochs` and `*_examples`: at most
one is set, the others are 0. They are converted to steps when the run is built.

Numbers are declared with their range, which is checked when a run starts; entries of
tuples have the range each. `[0, 1)` contains 0, but not 1.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from simple_diffusion.configs.keys import (
    choice,
    number,
    section,
    size,
    whole_choice,
)

GRIDS = "uniform_t | uniform_logsnr | karras | leading | trailing | linspace"


def _duration(name: str, steps: int) -> dict:
    """Returns the three keys of a duration; at most one may be other than 0."""
    return {
        f"{name}_steps": number(steps, "[0, 1e9]"),
        f"{name}_epochs": number(0.0, "[0, 1e9]"),
        f"{name}_examples": number(0, "[0, 1e15]"),
    }


def _bounds() -> dict:
    """Returns the keys of the bounds of a schedule."""
    return dict(
        logsnr_min=number(-15.0, "[-100, 100]"),
        logsnr_max=number(15.0, "[-100, 100]"),
    )


def cosine() -> ConfigDict:
    """The unshifted cosine schedule, between two bounds of logsnr."""
    return section(
        "diffusion.schedule:cosine",
        dict(
            name="cosine",
            **_bounds(),
        ),
    )


def shifted_cosine(noise_d: int = 64) -> ConfigDict:
    """The cosine schedule with its SNR at `noise_d` pixels (section 3.1)."""
    return section(
        "diffusion.schedule:shifted_cosine",
        dict(
            name="shifted_cosine",
            **_bounds(),
            # Reference resolution in pixels; smaller means more noise.
            noise_d=number(noise_d, "[1, 65536]"),
            # Move the bounds so that the ends stay at logsnr_min and logsnr_max.
            keep_end_points=False,
        ),
    )


def interpolated_cosine(clean_d: int = 256, noisy_d: int = 32) -> ConfigDict:
    """From the shift of `clean_d` at t = 0 to that of `noisy_d` at t = 1."""
    return section(
        "diffusion.schedule:interpolated_cosine",
        dict(
            name="interpolated_cosine",
            **_bounds(),
            clean_d=number(clean_d, "[1, 65536]"),
            noisy_d=number(noisy_d, "[1, 65536]"),
        ),
    )


def flow() -> ConfigDict:
    """Rectified flow: t = sigmoid(-logsnr / 2)."""
    return section(
        "diffusion.schedule:flow",
        dict(
            name="flow",
            **_bounds(),
            # As for shifted_cosine; None means no shift.
            noise_d=number(placeholder(int), "[1, 65536]"),
        ),
    )


def discrete(
    first: float = 0.00085, last: float = 0.012, kind: str = "scaled_linear"
) -> ConfigDict:
    """A table of betas, by default that of Stable Diffusion.

    Latent diffusion has its 0.0015 to 0.0195, DDPM the linear 0.0001 to 0.02.
    """
    return section(
        "diffusion.schedule:discrete",
        dict(
            name="discrete",
            # Betas of the first and of the last step, and how they rise: scaled_linear
            # is linear in the root of beta.
            first=number(first, "(0, 1)"),
            last=number(last, "(0, 1)"),
            betas=choice(kind, "linear | scaled_linear"),
            steps=number(1000, "[2, 1e6]"),
        ),
    )


# By the key `name` of the section.
SCHEDULES = {
    "cosine": cosine,
    "shifted_cosine": shifted_cosine,
    "interpolated_cosine": interpolated_cosine,
    "flow": flow,
    "discrete": discrete,
}


def patches(smallest: int, largest: int | None) -> ConfigDict:
    """Patches of side `data.resolution`, cropped from randomly resized full images.

    The size of a full image is its shorter side in pixels.
    """
    return section(
        "data.patches",
        dict(
            # Range of sizes; stored images are never enlarged. None as the largest
            # means the stored size of each image.
            smallest=number(smallest, "[1, 65536]"),
            largest=number(
                placeholder(int) if largest is None else largest,
                "[1, 65536]",
                is_optional=True,
            ),
            # Probability of the smallest size; otherwise the size is sampled from the
            # range by the size distribution `law`.
            probability_smallest=number(0.5, "[0, 1]"),
            law=choice("uniform", "uniform | log_uniform"),
            # Largest aspect ratio of a full image: 1 crops it to a square (data.crop),
            # above 1 samples a ratio, None keeps the ratio of each image.
            aspect=number(1.0, "[1, 100]", is_optional=True),
        ),
    )


def default() -> ConfigDict:
    """Returns every key with its default; `model` is the U-ViT of the paper."""
    # Imported here, so that the sections in this file keep their order.
    from simple_diffusion.configs import (
        conditions,
        evaluation,
        networks,
        restoration,
    )

    config = ConfigDict()

    config.data = section(
        "data",
        dict(
            # scenes | digits | folder:PATH | tar:PATH | records:PATH | tfds:NAME |
            # scenes:held_out_combinations
            source="scenes",
            # Folder of TFDS datasets; None means the default of TFDS.
            data_dir=placeholder(str),
            # Features of a TFDS dataset that are captions, objects or maps, such as
            # "caption=captions.text, semantic=segmentation_mask, objects=objects".
            tfds_fields=placeholder(str),
            # Side in pixels of the square training images or patches, or HxW for
            # images that are not square.
            resolution=size(64, "[1, 65536]"),
            # Of the images: 1 is grey, 3 RGB, 4 RGB with transparency.
            channels=whole_choice(3, 1, 3, 4),
            # Number of classes: None means those of the source, 0 ignores labels.
            num_classes=number(placeholder(int), "[0, 1e6]"),
            # antialias is the Lanczos filter.
            resize=choice("area", "area | antialias"),
            crop=choice("center", "center | random"),
            # Mirror each image with probability 1/2.
            flip=True,
            # Captions of mirrored images: swap exchanges the words left and right, keep
            # leaves them. Required if a network with data.flip reads captions.
            flip_captions=choice(placeholder(str), "swap | keep"),
            # Images that are higher than wide, for a data.resolution that is wider than
            # high: crop them, or turn them by 90 degrees. Then the vector portrait is 1
            # for them and 0 for others, to condition the network on it.
            portrait=choice("crop", "crop | turn"),
            # Fraction of a folder's images that are held out from training.
            holdout_fraction=number(0.05, "[0, 1)"),
            # (y0, x0, y1, x1) in pixels: crop every stored image to this box first.
            crop_box=number(placeholder(tuple), "[0, 1e6]"),
            # Train on patches of images of many sizes: a section built by `patches`.
            patches=placeholder(ConfigDict),
        ),
    )

    config.model = networks.uvit()

    # Besides the class, which data.num_classes decides.
    config.conditions = conditions.conditions()

    config.diffusion = section(
        "diffusion",
        dict(
            # Scale of z.
            family=choice("vp", "vp | flow"),
            schedule=shifted_cosine(),
            # Lower logsnr by 2 log(R / reference) for images of side R: when sampling
            # at another size than trained, and for patches by their full-image size.
            # The reference is data.patches.smallest, or data.resolution.
            shift_by_resolution=True,
            # How training samples t, and the parameters of logit_normal. The loss is
            # divided by its density; see loss.weighting=logit_normal.
            time_law=choice("stratified", "uniform | stratified | logit_normal"),
            time_mean=number(0.0, "[-100, 100]"),
            time_std=number(1.0, "(0, 100]"),
            # What the network predicts.
            prediction=choice("v", "eps | x | v | u"),
        ),
    )

    config.loss = section(
        "loss",
        dict(
            weighting=choice(
                "v_mse",
                "eps_mse | v_mse | x_mse | u_mse | snr_trunc | min_snr | "
                "soft_min_snr | sigmoid | edm | logit_normal",
            ),
            min_snr_gamma=number(5.0, "(0, 1e6]"),
            # Smallest weight of min_snr on the error of x; 0 is that of the paper.
            min_snr_floor=number(0.0, "[0, 1e6]"),
            # Bias of the sigmoid weighting; None means that of the resolution (SiD2).
            sigmoid_bias=number(placeholder(float), "[-100, 100]"),
            edm_mean=number(-1.2, "[-100, 100]"),
            edm_std=number(1.2, "(0, 100]"),
            edm_sigma_data=number(0.5, "(0, 100]"),
            # u_mse over logit-normal t, for papers whose distribution of t is part of
            # the loss (SD3, JiT): diffusion.time_law alone changes no expected loss.
            logit_normal_mean=number(0.0, "[-100, 100]"),
            logit_normal_std=number(1.0, "(0, 100]"),
            # Add the errors of pooled images, for more than 256 pixels (section 3.2).
            multiscale=False,
            multiscale_smallest=number(32, "[1, 65536]"),
            # paper has the factor d, with which clip_norm has little meaning.
            multiscale_normalise=choice("mean", "mean | paper"),
            # Fraction of labels replaced by the null class, for guidance.
            label_drop=number(0.1, "[0, 1]"),
        ),
    )

    config.optimizer = section(
        "optimizer",
        dict(
            name=choice("adam", "adam | adamw"),
            # Not scaled by batch size or number of devices.
            learning_rate=number(1e-4, "[0, 10]"),
            # After the warm-up.
            decay=choice("constant", "constant | cosine | rsqrt"),
            warmup_steps=number(10_000, "[0, 1e9]"),
            b1=number(0.9, "[0, 1)"),
            b2=number(0.99, "[0, 1)"),
            eps=number(1e-12, "(0, 1]"),
            weight_decay=number(0.0, "[0, 10]"),
            # Largest global norm of the gradient; 0 means no clipping.
            clip_norm=number(1.0, "[0, 1e9]"),
        ),
    )

    config.ema = section(
        "ema",
        dict(
            decay=number(0.9999, "[0, 1)"),
            # Increase the decay from 0.1 during the first steps: for short runs.
            warmup=False,
            # Lengths of additional power-function averages (EDM2), such as (0.05, 0.1);
            # other lengths can be reconstructed from their snapshots afterwards.
            power=number((), "(0, 0.2886]"),
            # Interval of the snapshots; 0 means no snapshots.
            snapshot_every_steps=number(0, "[0, 1e9]"),
        ),
    )

    # Devices along each axis of the mesh; one axis may be -1: the remaining devices.
    config.mesh = section(
        "mesh",
        dict(
            # Replicas of the state, each with its part of the batch.
            data=number(-1, "[-1, 1e6]"),
            # Devices that share both state and batch: the first choice for a state that
            # is too large for one device.
            fsdp=number(1, "[-1, 1e6]"),
            # Devices that share the channels of transformer blocks and the attention
            # heads, for the same part of the batch.
            tensor=number(1, "[-1, 1e6]"),
            # Parts of the cluster with a slow network between them, such as TPU slices;
            # mesh.data must be a multiple and spans them. 1 means no slices, -1 the
            # number that the devices report.
            slices=number(1, "[-1, 1e6]"),
            # Also split the pixel rows of each image over mesh.tensor: for images whose
            # activations do not fit on one device.
            split_rows=False,
        ),
    )

    config.train = section(
        "train",
        dict(
            seed=number(0, "[0, 4294967295]"),
            batch_size=number(512, "[1, 1e6]"),
            # Number of parts of each batch, processed in sequence to save memory.
            accumulate=number(1, "[1, 1e6]"),
            **_duration("total", steps=500_000),
            **_duration("log_every", steps=100),
            **_duration("checkpoint_every", steps=5_000),
            **_duration("sample_every", steps=10_000),
            # Evaluate evaluate.count_during_training samples and store the best
            # checkpoint; 0 evaluates only at the end.
            **_duration("evaluate_every", steps=0),
            # Number of newest checkpoints to keep, at least 2; and the interval of
            # checkpoints that are never deleted.
            keep_checkpoints=number(2, "[2, 1e6]"),
            keep_every_steps=number(placeholder(int), "[1, 1e9]"),
            # Number of consecutive non-finite steps that may be skipped.
            skips_allowed=number(0, "[0, 1e9]"),
            # Number of steps to trace, for TensorBoard; the trace is in the workdir.
            profile_steps=number(0, "[0, 1e4]"),
            # Print a warning if a step, batch or checkpoint takes longer.
            stall_warning_seconds=number(60.0, "(0, 1e6]"),
            # Stop the run with exit code 75 if one takes longer, so that it can be
            # restarted; 0 waits without limit.
            stall_limit_seconds=number(0.0, "[0, 1e6]"),
            # With several processes: one that is silent for longer counts as lost.
            peer_timeout_seconds=number(60.0, "(0, 1e6]"),
        ),
    )

    config.sample = section(
        "sample",
        dict(
            seed=number(0, "[0, 4294967295]"),
            count=number(64, "[1, 1e9]"),
            # Mode `sample`: folder of the samples, which must not hold files yet; None
            # means the first of samples, samples_2, ... in the workdir that is free.
            output=placeholder(str),
            # Images per batch, on all devices together.
            batch_size=number(64, "[1, 1e6]"),
            # HxW; None means data.resolution, or with patches their smallest size.
            size=placeholder(str),
            # More sizes to sample at the end of training, such as ("48x48", "32x64").
            also_sizes=(),
            # How a model trained on patches treats an image that is not square: as a
            # full image with four borders (whole), or as the central part of a square
            # image (cut).
            frame=choice("whole", "whole | cut"),
            # For images larger than all training images: extrapolate noise level and
            # scale, or keep those of data.patches.largest.
            extrapolate=False,
            # HxW of a smaller image that is sampled first, enlarged, noised to the time
            # coarse_time and refined. Training has seen full images of that size, but
            # only parts of larger ones. None samples at the final size from noise.
            coarse_size=placeholder(str),
            coarse_time=number(0.7, "(0, 1]"),
            # Side in pixels of windows, for images that do not fit in memory; windows
            # are fused at every step. None means no windows. The default stride is half
            # of the side.
            window=number(placeholder(int), "[1, 65536]"),
            window_stride=number(placeholder(int), "[1, 65536]"),
            # Windows per call of the network.
            window_batch=number(16, "[1, 1e6]"),
            # Fraction of the overlap in which windows are blended; the rest, at their
            # borders, is discarded.
            window_taper=number(0.5, "[0, 1]"),
            # Comma-separated names or numbers, repeated in turn; None means all.
            classes=placeholder(str),
            # What the conditions of a model are, repeated in turn. If none is given,
            # they are those of held-out examples of data.source; if some are, the
            # others are dropped.
            # Captions: texts separated by ";", or a .txt file with one in each line.
            prompts=placeholder(str),
            # Boxes with classes: a JSON file, see docs/conditions.md.
            layout=placeholder(str),
            # Semantic or other maps: an image, an .npy file, or a folder of them; with
            # both conditions "semantic=PATH;image=PATH".
            map=placeholder(str),
            # Small images for super-resolution: an image, or a folder of them. Noise of
            # this time of the cosine schedule is added to them.
            low_resolution=placeholder(str),
            low_resolution_noise=number(0.0, "[0, 1)"),
            # Images with a hole, and their holes: as restore.input and
            # restore.hole_mask (a file, a folder, box:HxW or random:SHARE).
            image=placeholder(str),
            hole_mask=placeholder(str),
            # Numbers separated by ",", those of several images by ";".
            vector=placeholder(str),
            solver=choice("ancestral", "ancestral | ddim | heun | dpmpp_2m"),
            # Noise levels of the solver; those of karras are the same at every size.
            # Of a discrete schedule also: leading (latent diffusion), trailing and
            # linspace choose steps of its table.
            grid=choice("uniform_t", GRIDS),
            # Noise levels, with one network call each; two for heun.
            steps=number(256, "[1, 1e6]"),
            # ancestral: between posterior variance (0) and its upper bound (1).
            gamma=number(0.2, "[0, 1]"),
            # ddim: fraction of fresh noise; 0 is deterministic.
            eta=number(0.0, "[0, 1]"),
            # x = x_weak + guidance (x_strong - x_weak); 1 means no guidance.
            guidance=number(1.0, "[0, 1000]"),
            # Weights of single conditions; None means sample.guidance.
            guidance_of=conditions.guidance_of(),
            # Guide only while low < logsnr < high; None means no bound.
            guidance_low=number(placeholder(float), "[-100, 100]"),
            guidance_high=number(placeholder(float), "[-100, 100]"),
            # Workdir of a weaker model for guidance, instead of the null class, and the
            # step of its checkpoint; None means the newest.
            guidance_workdir=placeholder(str),
            guidance_step=number(placeholder(int), "[0, 1e9]"),
            # Limits estimates to [-1, 1]; dynamic is the thresholding of Imagen.
            clip=choice("static", "static | dynamic | none"),
            # ema | params | power_LENGTH, such as power_0.07: an average of ema.power,
            # or of another length, reconstructed from the snapshots of the run
            weights="ema",
            # Step of the checkpoint; None means the newest.
            checkpoint_step=number(placeholder(int), "[0, 1e9]"),
            # Load the checkpoint with the best evaluate.best_metric instead.
            best_checkpoint=False,
        ),
    )

    config.evaluate = evaluation.evaluate()
    config.sweep = evaluation.sweep()
    config.restore = restoration.restore()
    config.export = section(
        "export",
        dict(
            # Folder of the export; None means the folder export in the workdir.
            output=placeholder(str),
            # Type of the stored parameters.
            dtype=choice("float32", "float32 | bfloat16"),
        ),
    )
    return config.lock()
