"""The section `restore`."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from simple_diffusion.configs.keys import choice, number, section


def restore() -> ConfigDict:
    """Zero-shot restoration.

    Guidance, windows, grid, weights, seed and batch size are keys of `sample`.
    """
    return section(
        "restore",
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
            samples=number(1, "[1, 1e6]"),
            # Comma-separated names or numbers, one for each input in turn; None means
            # no class, and then no guidance by the null class.
            classes=placeholder(str),
            # super_resolution: down-sampling factor of each side, and the method.
            factor=number(4, "[1, 1024]"),
            downsampling=choice("average", "average | bicubic"),
            # deblur: the kernel. Sigmas in pixels, vertical and
            # horizontal; None means the paper's: (10, 10) with 5 taps, (1, 20) with 9.
            # uniform has 9 taps; other sigmas have taps up to 3 sigma.
            kernel=choice("uniform", "uniform | gaussian | anisotropic"),
            blur_sigma=number(placeholder(tuple), "(0, 1e4]"),
            blur_taps=number(placeholder(int), "[1, 10001]"),
            # Components that the blur reduces below this fraction count as lost.
            blur_threshold=number(0.03, "[0.001, 1)"),
            # sense (compressed sensing): hadamard (random rows of the transform of the
            # image, as published), group_means (means over random groups of pixels) or
            # blocks (random projections of each block), and the number of measurements
            # per number of the image.
            sensing=choice("hadamard", "hadamard | group_means | blocks"),
            ratio=number(0.25, "(0, 1]"),
            # blocks: side of a block in pixels.
            block_side=number(32, "[1, 4096]"),
            # Seed of the random choices of all three.
            operator_seed=number(0, "[0, 4294967295]"),
            # Standard deviation of the measurement noise, for images in [0, 1].
            sigma_y=number(0.0, "[0, 10]"),
            # ddnm_simplified is as published, including its errors; the solvers of
            # `sample` need sigma_y=0.
            solver=choice(
                "ddnm",
                "ddnm | ddnm_simplified | ancestral | ddim | heun | dpmpp_2m",
            ),
            steps=number(100, "[1, 1e6]"),
            # ddnm, ddnm_simplified, ddim: fraction of fresh noise.
            eta=number(0.85, "[0, 1]"),
            # ddnm: eta is a fraction of all noise (constant), or of the noise that a
            # DDIM step renews (ddim).
            fresh=choice("constant", "constant | ddim"),
            # Before the projection.
            clip=choice("none", "none | static | dynamic"),
            # Time travel: steps to go back at a time, and passes of each segment.
            travel_length=number(1, "[1, 1e6]"),
            travel_repeat=number(1, "[1, 1e4]"),
            # Go back from the estimate of the image; otherwise from the noisy image.
            travel_from_estimate=True,
            # Cells by which the hole grows, towards smaller and larger indices; None
            # means (2, 2) in the latents of an autoencoder and (0, 0) in pixels.
            dilate=number(placeholder(tuple), "[0, 1024]"),
            # A latent cell is a hole if its first pixel is one (nearest), or if any is
            # one (block_max).
            mask_mode=choice("nearest", "nearest | block_max"),
            # Use the operators as published, including their errors.
            compat=False,
            # File of LPIPS weights; see simple_diffusion/modes/convert.py.
            lpips_weights=placeholder(str),
        ),
    )
