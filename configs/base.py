"""Every key of a run, with its default and what it means.

A recipe starts from `default()` and changes what its experiment needs. The tree is
locked: a key that is not here is an error that names it. Sections that describe one of
several kinds of thing (`model`, `schedule`) are made by a function each, so that a
recipe holds the keys of the kind it uses and no others.

The durations of `train` that `_duration` makes come as three keys, `*_steps`,
`*_epochs` and `*_examples`: at most one is set, the others are 0. They are converted to
steps once, when the run is built.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def _duration(name: str, steps: int) -> dict:
    """Returns the three keys of a duration; at most one may be other than 0."""
    return {f"{name}_steps": steps, f"{name}_epochs": 0.0, f"{name}_examples": 0}


def cosine() -> ConfigDict:
    """The cosine schedule of the unit of resolution, between two bounds of logsnr."""
    return ConfigDict(dict(name="cosine", logsnr_min=-15.0, logsnr_max=15.0))


def shifted_cosine(noise_d: int = 64) -> ConfigDict:
    """The cosine schedule with the SNR it has at `noise_d` pixels (section 3.1)."""
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
            # As of shifted_cosine; none shifts nothing.
            noise_d=placeholder(int),
        )
    )


def patches(smallest: int, largest: int | None) -> ConfigDict:
    """Patches of side `data.resolution`, cut from whole images resized at random.

    The size of a whole image is its shorter side in pixels.
    """
    return ConfigDict(
        dict(
            # Sizes that are drawn; no stored image is enlarged. None as the largest is
            # each image's own.
            smallest=smallest,
            largest=largest if largest is not None else placeholder(int),
            # How often the smallest size is taken; otherwise one within the range, by
            # the law: uniform | log_uniform
            probability_smallest=0.5,
            law="uniform",
            # Largest ratio of the sides of a whole image: 1 cuts it square (data.crop),
            # more draws a ratio, none leaves each image its own.
            aspect=1.0,
        )
    )


def default() -> ConfigDict:
    """Returns every key with its default; `model` is the U-ViT of the paper."""
    # Imported here so that the sections of this file can be read in order.
    from simple_diffusion.configs import evaluation, networks

    config = ConfigDict()

    config.data = ConfigDict(
        dict(
            # scenes | digits | folder:PATH | records:PATH | tfds:NAME
            source="scenes",
            # Where TFDS data sets lie; none means TFDS's own default.
            data_dir=placeholder(str),
            # Side in pixels of the square images that are trained on.
            resolution=64,
            # Number of classes: none means as many as the source has, 0 ignores labels.
            num_classes=placeholder(int),
            # area | antialias (Lanczos)
            resize="area",
            # center | random
            crop="center",
            # Mirror every second image, at random.
            flip=True,
            # Share of a folder's images that is kept from training.
            holdout_fraction=0.05,
            # (y0, x0, y1, x1) in pixels: cut out of every stored image before all else.
            crop_box=placeholder(tuple),
            # Train on patches of images of many sizes: a section made by `patches`.
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
            # at another size than trained, and for patches by the size of their whole.
            # The reference is data.patches.smallest, or data.resolution.
            shift_by_resolution=True,
            # How training draws t: uniform | stratified | logit_normal
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
            # Bias of the sigmoid weighting; none means that of the resolution (SiD2).
            sigmoid_bias=placeholder(float),
            edm_mean=-1.2,
            edm_std=1.2,
            edm_sigma_data=0.5,
            # Add the errors of the pooled images, for > 256 pixels (section 3.2).
            multiscale=False,
            multiscale_smallest=32,
            # mean | paper: with or without the factor d that keeps clip_norm meaningful
            multiscale_normalise="mean",
            # Share of labels replaced by the null class, so that guidance is possible.
            label_drop=0.1,
        )
    )

    config.optimizer = ConfigDict(
        dict(
            # adam | adamw
            name="adam",
            # Never scaled by batch size or device count behind your back.
            learning_rate=1e-4,
            # constant | cosine | rsqrt, after the warm-up
            decay="constant",
            warmup_steps=10_000,
            b1=0.9,
            b2=0.99,
            eps=1e-12,
            weight_decay=0.0,
            # Largest norm of the whole gradient; 0 clips nothing.
            clip_norm=1.0,
        )
    )

    config.ema = ConfigDict(
        dict(
            decay=0.9999,
            # Let the decay grow from 0.1 in the first steps: for short runs.
            warmup=False,
            # Lengths of power-function averages tracked beside it (EDM2), such as
            # (0.05, 0.1); any other length can be made of their snapshots afterwards.
            power=(),
            # 0 takes no snapshots.
            snapshot_every_steps=0,
        )
    )

    # Devices along each axis of the mesh; one of them may be -1, whatever remains.
    config.mesh = ConfigDict(
        dict(
            # Copies of the state, each with its part of the batch.
            data=-1,
            # Devices that share both state and batch: what a state too large for one
            # device needs first.
            fsdp=1,
            # Devices that share the widths of transformer blocks and the heads of
            # attention, for the same part of the batch.
            tensor=1,
            # Parts of the cluster between which the network is slow, such as TPU
            # slices; mesh.data, a multiple, goes over them. 1 is none, -1 as many as
            # the devices say.
            slices=1,
            # Split the rows of pixels of each image over mesh.tensor, too: for images
            # so large that the activations of one do not fit on a device.
            split_rows=False,
        )
    )

    config.train = ConfigDict(
        dict(
            seed=0,
            batch_size=512,
            # Split each batch into so many parts, one after the other, to save memory.
            accumulate=1,
            **_duration("total", steps=500_000),
            **_duration("log_every", steps=100),
            **_duration("checkpoint_every", steps=5_000),
            **_duration("sample_every", steps=10_000),
            # Evaluate evaluate.count_during_training samples and keep the best
            # checkpoint, too; 0 evaluates at the end only.
            **_duration("evaluate_every", steps=0),
            # Newest checkpoints kept, at least 2; and every so many steps, one kept
            # for good.
            keep_checkpoints=2,
            keep_every_steps=placeholder(int),
            # Steps in a row that may be skipped because they are not finite.
            skips_allowed=0,
            # Steps of which a trace is written to the workdir, for TensorBoard.
            profile_steps=0,
            # A step, batch or save that takes longer is spoken of.
            stall_warning_seconds=60.0,
            # One that takes longer ends the run with exit code 75, so that it can be
            # started again; 0 waits for ever.
            stall_limit_seconds=0.0,
            # Of several processes: silence after which one is taken for lost.
            peer_timeout_seconds=60.0,
        )
    )

    config.sample = ConfigDict(
        dict(
            seed=0,
            count=64,
            # Images at a time on all devices together.
            batch_size=64,
            # HxW; none means data.resolution, square.
            size=placeholder(str),
            # Further sizes shown at the end of training, such as ("48x48", "32x64").
            also_sizes=(),
            # What an image that is not square is to a model trained on patches: a whole
            # that ends at all four borders, or the middle "cut" out of a square one.
            # whole | cut
            frame="whole",
            # Larger than all images of the training: let noise level and scale go on
            # beyond theirs, or stay those of data.patches.largest.
            extrapolate=False,
            # HxW of a smaller image that is drawn first, enlarged, noised up to the
            # time coarse_time and refined: training has seen whole images of that size,
            # of larger ones only parts. None draws the image at its size from noise.
            coarse_size=placeholder(str),
            coarse_time=0.7,
            # Side in pixels of the windows that an image larger than memory is made in,
            # fused at every step; none makes it at once. The stride defaults to half.
            window=placeholder(int),
            window_stride=placeholder(int),
            # Windows in one call of the network.
            window_batch=16,
            # Share of the overlap in which windows blend; the rest, at their borders,
            # is left out.
            window_taper=0.5,
            # Comma-separated names or numbers, repeated in turn; none means all.
            classes=placeholder(str),
            # ancestral | ddim | heun | dpmpp_2m
            solver="ancestral",
            # Where the solver stops on its way: uniform_t | uniform_logsnr | karras
            # (karras has the same noise levels at every size)
            grid="uniform_t",
            # Network evaluations; heun makes two at each.
            steps=256,
            # ancestral: between posterior variance (0) and its upper bound (1).
            gamma=0.2,
            # ddim: share of fresh noise; 0 is deterministic.
            eta=0.0,
            # x = x_weak + guidance (x_strong - x_weak); 1 is no guidance.
            guidance=1.0,
            # Guide only while low < logsnr < high; none means always.
            guidance_low=placeholder(float),
            guidance_high=placeholder(float),
            # Workdir of a weaker model to guide by, in place of the null class, and the
            # step of its checkpoint; none means the newest.
            guidance_workdir=placeholder(str),
            guidance_step=placeholder(int),
            # static | dynamic | none
            clip="static",
            # ema | params | power_LENGTH, such as power_0.07: an average of ema.power,
            # or of any other length, made from the snapshots of a run that took some
            weights="ema",
            # Step of the checkpoint; none means the newest.
            checkpoint_step=placeholder(int),
            # In place of it the one that evaluate.best_metric was best for.
            best_checkpoint=False,
        )
    )

    config.evaluate = evaluation.evaluate()
    config.sweep = evaluation.sweep()
    config.restore = restore()
    config.export = ConfigDict(
        dict(
            # Folder of the export; none means export in the workdir.
            output=placeholder(str),
            # Of the stored parameters: float32 | bfloat16
            dtype="float32",
        )
    )
    return config.lock()


def restore() -> ConfigDict:
    """Zero-shot restoration; how the model is asked is stated in `sample`.

    Guidance, windows, grid, weights, seed and batch size are those of `sample`.
    """
    return ConfigDict(
        dict(
            # What was lost: denoise | inpaint | super_resolution | colourise | deblur |
            # sense, or several, in this order: inpaint+super_resolution+colourise
            task="inpaint",
            # An image, a folder of them, or held_out:COUNT images of data.source. For
            # sense, unless degrade is set, .npy files that this mode wrote.
            input=placeholder(str),
            # White is filled, black is kept. An image, a folder with one of the same
            # name for each input, or without files box:HxW (a hole in the middle) or
            # random:SHARE (of the pixels). In inpaint+super_resolution holes count as
            # mid-grey in the means over pixels.
            hole_mask=placeholder(str),
            # The input is whole: degrade it first, and compare with it in the end.
            degrade=False,
            # HxW of the result, to which inputs are cut and resized first; none leaves
            # them as they are.
            size=placeholder(str),
            # Folder of the results; none means restored/TASK in the workdir.
            output=placeholder(str),
            # Different restorations of each input.
            samples=1,
            # Comma-separated names or numbers, one for each input in turn; none leaves
            # the model without class, and without guidance by the null class.
            classes=placeholder(str),
            # super_resolution: how many pixels along a side became one, and how:
            # average | bicubic
            factor=4,
            downsampling="average",
            # deblur: uniform | gaussian | anisotropic. Sigmas in pixels, downwards and
            # across; none means the paper's: (10, 10) of 5 taps, (1, 20) of 9; uniform
            # has 9 taps, other sigmas as many as count.
            kernel="uniform",
            blur_sigma=placeholder(tuple),
            blur_taps=placeholder(int),
            # What the blur left less of than this share is taken for lost.
            blur_threshold=0.03,
            # sense (compressed sensing): hadamard | blocks, and how many numbers were
            # measured for each of the image.
            sensing="hadamard",
            ratio=0.25,
            # blocks: side of a block in pixels.
            block_side=32,
            # Of the random choices in both.
            operator_seed=0,
            # Standard deviation of the measurement's noise, of images in [0, 1].
            sigma_y=0.0,
            # ddnm | ddnm_simplified (as published, slips and all), or, without sigma_y,
            # ancestral | ddim | heun | dpmpp_2m
            solver="ddnm",
            steps=100,
            # ddnm, ddnm_simplified, ddim: share of fresh noise.
            eta=0.85,
            # ddnm: eta is a share of all noise, or of what a step of DDIM renews:
            # constant | ddim
            fresh="constant",
            # none | static | dynamic, before the projection
            clip="none",
            # Steps that are gone back at a time, and how often a stretch is made.
            travel_length=1,
            travel_repeat=1,
            # Go back from the estimate of the image; otherwise from where it stands.
            travel_from_estimate=True,
            # Cells by which the hole grows, towards smaller and larger indices; none
            # means (2, 2) in the latents of an autoencoder and (0, 0) in pixels.
            dilate=placeholder(tuple),
            # A latent cell is hole if its first pixel is, or if any is:
            # nearest | block_max
            mask_mode="nearest",
            # Operators as published, including their slips.
            compat=False,
            # File of LPIPS weights; see simple_diffusion/modes/convert.py.
            lpips_weights=placeholder(str),
        )
    )
