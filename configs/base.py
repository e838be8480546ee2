"""Every key of a run, with its default and its meaning.

A recipe starts from `default()` and changes keys. The tree is locked: an unknown key is
an error that names it. Sections with several kinds (`model`, `schedule`) have one
function per kind, so that a recipe has only the keys of the kind that it uses.

Each duration of `train` has three keys, `*_steps`, `*_epochs` and `*_examples`: at most
one is set, the others are 0. They are converted to steps when the run is built.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def _duration(name: str, steps: int) -> dict:
    """Returns the three keys of a duration; at most one may be other than 0."""
    return {f"{name}_steps": steps, f"{name}_epochs": 0.0, f"{name}_examples": 0}


def cosine() -> ConfigDict:
    """The unshifted cosine schedule, between two bounds of logsnr."""
    return ConfigDict(dict(name="cosine", logsnr_min=-15.0, logsnr_max=15.0))


def shifted_cosine(noise_d: int = 64) -> ConfigDict:
    """The cosine schedule with its SNR at `noise_d` pixels (section 3.1)."""
    return ConfigDict(
        dict(
            name="shifted_cosine",
            logsnr_min=-15.0,
            logsnr_max=15.0,
            # Reference resolution in pixels; smaller means more noise.
            noise_d=noise_d,
            # Move the bounds so that the ends stay at logsnr_min and logsnr_max.
            keep_end_points=False,
        )
    )


def interpolated_cosine(clean_d: int = 256, noisy_d: int = 32) -> ConfigDict:
    """From the shift of `clean_d` at t = 0 to that of `noisy_d` at t = 1."""
    return ConfigDict(
        dict(
            name="interpolated_cosine",
            logsnr_min=-15.0,
            logsnr_max=15.0,
            clean_d=clean_d,
            noisy_d=noisy_d,
        )
    )


def flow() -> ConfigDict:
    """Rectified flow: t = sigmoid(-logsnr / 2)."""
    return ConfigDict(
        dict(
            name="flow",
            logsnr_min=-15.0,
            logsnr_max=15.0,
            # As for shifted_cosine; None means no shift.
            noise_d=placeholder(int),
        )
    )


def patches(smallest: int, largest: int | None) -> ConfigDict:
    """Patches of side `data.resolution`, cropped from randomly resized full images.

    The size of a full image is its shorter side in pixels.
    """
    return ConfigDict(
        dict(
            # Range of sizes; stored images are never enlarged. None as the largest
            # means the stored size of each image.
            smallest=smallest,
            largest=largest if largest is not None else placeholder(int),
            # Probability of the smallest size; otherwise the size is sampled from the
            # range by the size distribution `law`: uniform | log_uniform
            probability_smallest=0.5,
            law="uniform",
            # Largest aspect ratio of a full image: 1 crops it to a square (data.crop),
            # above 1 samples a ratio, None keeps the ratio of each image.
            aspect=1.0,
        )
    )


def default() -> ConfigDict:
    """Returns every key with its default; `model` is the U-ViT of the paper."""
    # Imported here, so that the sections in this file keep their order.
    from simple_diffusion.configs import evaluation, networks

    config = ConfigDict()

    config.data = ConfigDict(
        dict(
            # scenes | digits | folder:PATH | records:PATH | tfds:NAME
            source="scenes",
            # Folder of TFDS datasets; None means the default of TFDS.
            data_dir=placeholder(str),
            # Side in pixels of the square training images.
            resolution=64,
            # Number of classes: None means those of the source, 0 ignores labels.
            num_classes=placeholder(int),
            # area | antialias (Lanczos)
            resize="area",
            # center | random
            crop="center",
            # Mirror each image with probability 1/2.
            flip=True,
            # Fraction of a folder's images that are held out from training.
            holdout_fraction=0.05,
            # (y0, x0, y1, x1) in pixels: crop every stored image to this box first.
            crop_box=placeholder(tuple),
            # Train on patches of images of many sizes: a section built by `patches`.
            patches=placeholder(ConfigDict),
        )
    )

    config.model = networks.uvit()

    config.diffusion = ConfigDict(
        dict(
            # Scale of z: vp | flow
            family="vp",
            schedule=shifted_cosine(),
            # Lower logsnr by 2 log(R / reference) for images of side R: when sampling
            # at another size than trained, and for patches by their full-image size.
            # The reference is data.patches.smallest, or data.resolution.
            shift_by_resolution=True,
            # How training samples t: uniform | stratified | logit_normal
            time_law="stratified",
            time_mean=0.0,
            time_std=1.0,
            # What the network predicts: eps | x | v | u
            prediction="v",
        )
    )

    config.loss = ConfigDict(
        dict(
            # eps_mse | v_mse | x_mse | u_mse | snr_trunc | min_snr | soft_min_snr |
            # sigmoid | edm
            weighting="v_mse",
            min_snr_gamma=5.0,
            # Bias of the sigmoid weighting; None means that of the resolution (SiD2).
            sigmoid_bias=placeholder(float),
            edm_mean=-1.2,
            edm_std=1.2,
            edm_sigma_data=0.5,
            # Add the errors of pooled images, for more than 256 pixels (section 3.2).
            multiscale=False,
            multiscale_smallest=32,
            # mean | paper: with or without the factor d that keeps clip_norm meaningful
            multiscale_normalise="mean",
            # Fraction of labels replaced by the null class, for guidance.
            label_drop=0.1,
        )
    )

    config.optimizer = ConfigDict(
        dict(
            # adam | adamw
            name="adam",
            # Not scaled by batch size or number of devices.
            learning_rate=1e-4,
            # constant | cosine | rsqrt, after the warm-up
            decay="constant",
            warmup_steps=10_000,
            b1=0.9,
            b2=0.99,
            eps=1e-12,
            weight_decay=0.0,
            # Largest global norm of the gradient; 0 means no clipping.
            clip_norm=1.0,
        )
    )

    config.ema = ConfigDict(
        dict(
            decay=0.9999,
            # Increase the decay from 0.1 during the first steps: for short runs.
            warmup=False,
            # Lengths of additional power-function averages (EDM2), such as (0.05, 0.1);
            # other lengths can be reconstructed from their snapshots afterwards.
            power=(),
            # Interval of the snapshots; 0 means no snapshots.
            snapshot_every_steps=0,
        )
    )

    # Devices along each axis of the mesh; one axis may be -1: the remaining devices.
    config.mesh = ConfigDict(
        dict(
            # Replicas of the state, each with its part of the batch.
            data=-1,
            # Devices that share both state and batch: the first choice for a state that
            # is too large for one device.
            fsdp=1,
            # Devices that share the channels of transformer blocks and the attention
            # heads, for the same part of the batch.
            tensor=1,
            # Parts of the cluster with a slow network between them, such as TPU slices;
            # mesh.data must be a multiple and spans them. 1 means no slices, -1 the
            # number that the devices report.
            slices=1,
            # Also split the pixel rows of each image over mesh.tensor: for images whose
            # activations do not fit on one device.
            split_rows=False,
        )
    )

    config.train = ConfigDict(
        dict(
            seed=0,
            batch_size=512,
            # Number of parts of each batch, processed in sequence to save memory.
            accumulate=1,
            **_duration("total", steps=500_000),
            **_duration("log_every", steps=100),
            **_duration("checkpoint_every", steps=5_000),
            **_duration("sample_every", steps=10_000),
            # Evaluate evaluate.count_during_training samples and store the best
            # checkpoint; 0 evaluates only at the end.
            **_duration("evaluate_every", steps=0),
            # Number of newest checkpoints to keep, at least 2; and the interval of
            # checkpoints that are never deleted.
            keep_checkpoints=2,
            keep_every_steps=placeholder(int),
            # Number of consecutive non-finite steps that may be skipped.
            skips_allowed=0,
            # Number of steps to trace, for TensorBoard; the trace is in the workdir.
            profile_steps=0,
            # Print a warning if a step, batch or checkpoint takes longer.
            stall_warning_seconds=60.0,
            # Stop the run with exit code 75 if one takes longer, so that it can be
            # restarted; 0 waits without limit.
            stall_limit_seconds=0.0,
            # With several processes: one that is silent for longer counts as lost.
            peer_timeout_seconds=60.0,
        )
    )

    config.sample = ConfigDict(
        dict(
            seed=0,
            count=64,
            # Mode `sample`: folder of the samples, which must not hold files yet; None
            # means the first of samples, samples_2, ... in the workdir that is free.
            output=placeholder(str),
            # Images per batch, on all devices together.
            batch_size=64,
            # HxW; None means data.resolution, square.
            size=placeholder(str),
            # More sizes to sample at the end of training, such as ("48x48", "32x64").
            also_sizes=(),
            # How a model trained on patches treats an image that is not square: as a
            # full image with four borders (whole), or as the central part of a square
            # image (cut). whole | cut
            frame="whole",
            # For images larger than all training images: extrapolate noise level and
            # scale, or keep those of data.patches.largest.
            extrapolate=False,
            # HxW of a smaller image that is sampled first, enlarged, noised to the time
            # coarse_time and refined. Training has seen full images of that size, but
            # only parts of larger ones. None samples at the final size from noise.
            coarse_size=placeholder(str),
            coarse_time=0.7,
            # Side in pixels of windows, for images that do not fit in memory; windows
            # are fused at every step. None means no windows. The default stride is half
            # of the side.
            window=placeholder(int),
            window_stride=placeholder(int),
            # Windows per call of the network.
            window_batch=16,
            # Fraction of the overlap in which windows are blended; the rest, at their
            # borders, is discarded.
            window_taper=0.5,
            # Comma-separated names or numbers, repeated in turn; None means all.
            classes=placeholder(str),
            # ancestral | ddim | heun | dpmpp_2m
            solver="ancestral",
            # Noise levels of the solver: uniform_t | uniform_logsnr | karras
            # (karras has the same noise levels at every size)
            grid="uniform_t",
            # Noise levels, with one network call each; two for heun.
            steps=256,
            # ancestral: between posterior variance (0) and its upper bound (1).
            gamma=0.2,
            # ddim: fraction of fresh noise; 0 is deterministic.
            eta=0.0,
            # x = x_weak + guidance (x_strong - x_weak); 1 means no guidance.
            guidance=1.0,
            # Guide only while low < logsnr < high; None means no bound.
            guidance_low=placeholder(float),
            guidance_high=placeholder(float),
            # Workdir of a weaker model for guidance, instead of the null class, and the
            # step of its checkpoint; None means the newest.
            guidance_workdir=placeholder(str),
            guidance_step=placeholder(int),
            # static | dynamic | none
            clip="static",
            # ema | params | power_LENGTH, such as power_0.07: an average of ema.power,
            # or of another length, reconstructed from the snapshots of the run
            weights="ema",
            # Step of the checkpoint; None means the newest.
            checkpoint_step=placeholder(int),
            # Load the checkpoint with the best evaluate.best_metric instead.
            best_checkpoint=False,
        )
    )

    config.evaluate = evaluation.evaluate()
    config.sweep = evaluation.sweep()
    config.restore = restore()
    config.export = ConfigDict(
        dict(
            # Folder of the export; None means the folder export in the workdir.
            output=placeholder(str),
            # Type of the stored parameters: float32 | bfloat16
            dtype="float32",
        )
    )
    return config.lock()


def restore() -> ConfigDict:
    """Zero-shot restoration.

    Guidance, windows, grid, weights, seed and batch size are keys of `sample`.
    """
    return ConfigDict(
        dict(
            # The degradation: denoise | inpaint | super_resolution | colourise | deblur
            # | sense, or several, in this order: inpaint+super_resolution+colourise
            task="inpaint",
            # An image, a folder of images, or held_out:COUNT images of data.source. For
            # sense without degrade: .npy files that this mode wrote.
            input=placeholder(str),
            # White is filled, black is kept. An image, a folder with a mask of the same
            # name for each input, box:HxW (a central hole) or random:SHARE (a fraction
            # of the pixels). In inpaint+super_resolution the means over pixels treat
            # holes as mid-grey.
            hole_mask=placeholder(str),
            # The input is an original: degrade it first and compare with it at the end.
            degrade=False,
            # HxW of the result, to which inputs are cropped and resized first; None
            # leaves them as they are.
            size=placeholder(str),
            # Folder of the results; None means restored/TASK in the workdir.
            output=placeholder(str),
            # Number of different restorations per input.
            samples=1,
            # Comma-separated names or numbers, one for each input in turn; None means
            # no class, and then no guidance by the null class.
            classes=placeholder(str),
            # super_resolution: down-sampling factor of each side, and the method:
            # average | bicubic
            factor=4,
            downsampling="average",
            # deblur: uniform | gaussian | anisotropic. Sigmas in pixels, vertical and
            # horizontal; None means the paper's: (10, 10) with 5 taps, (1, 20) with 9.
            # uniform has 9 taps; other sigmas have taps up to 3 sigma.
            kernel="uniform",
            blur_sigma=placeholder(tuple),
            blur_taps=placeholder(int),
            # Components that the blur reduces below this fraction count as lost.
            blur_threshold=0.03,
            # sense (compressed sensing): hadamard | blocks, and the number of
            # measurements per number of the image.
            sensing="hadamard",
            ratio=0.25,
            # blocks: side of a block in pixels.
            block_side=32,
            # Seed of the random choices of both.
            operator_seed=0,
            # Standard deviation of the measurement noise, for images in [0, 1].
            sigma_y=0.0,
            # ddnm | ddnm_simplified (as published, including errors), or, without
            # sigma_y, ancestral | ddim | heun | dpmpp_2m
            solver="ddnm",
            steps=100,
            # ddnm, ddnm_simplified, ddim: fraction of fresh noise.
            eta=0.85,
            # ddnm: eta is a fraction of all noise (constant), or of the noise that a
            # DDIM step renews (ddim): constant | ddim
            fresh="constant",
            # none | static | dynamic, before the projection
            clip="none",
            # Time travel: steps to go back at a time, and passes of each segment.
            travel_length=1,
            travel_repeat=1,
            # Go back from the estimate of the image; otherwise from the noisy image.
            travel_from_estimate=True,
            # Cells by which the hole grows, towards smaller and larger indices; None
            # means (2, 2) in the latents of an autoencoder and (0, 0) in pixels.
            dilate=placeholder(tuple),
            # A latent cell is a hole if its first pixel is one (nearest), or if any is
            # one (block_max): nearest | block_max
            mask_mode="nearest",
            # Use the operators as published, including their errors.
            compat=False,
            # File of LPIPS weights; see simple_diffusion/modes/convert.py.
            lpips_weights=placeholder(str),
        )
    )
