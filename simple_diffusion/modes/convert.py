"""Converts published weights to the .npz files of the feature networks.

  python -m simple_diffusion.modes.convert lpips \\
    --trunk alexnet-owt-7be5be79.pth --lin alex.pth --output lpips_alex.npz
  python -m simple_diffusion.modes.convert inception \\
    --weights pt_inception-2015-12-05-6726825d.pth --output inception.npz
  python -m simple_diffusion.modes.convert dinov2 \\
    --weights dinov2_vitl14_pretrain.pth --output dinov2_l.npz

Downloads nothing, and needs neither PyTorch nor TensorFlow. The modules
simple_diffusion/weights/convert_*.py describe which files each command accepts. The
weights are subject to the licences of their publishers, and so are the converted files.
"""

import argparse
import sys
from collections.abc import Sequence

from simple_diffusion.core import signals

# Import converters where they run, so that --help does not wait for JAX.


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; an error that the user can fix is one line and exit code 1."""
    args = _parser().parse_args(argv)
    try:
        with signals.unwind():
            title = args.convert(args)
    except signals.Stopped as stopped:
        signals.exit_now(stopped.number)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {title}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simple_diffusion.modes.convert",
        description="Converts published weights to files of this library.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="NETWORK", required=True)
    lpips = commands.add_parser(
        "lpips",
        help="the perceptual distance LPIPS v0.1",
        description="Converts the weights of LPIPS from two files of PyTorch.",
        allow_abbrev=False,
    )
    _add_file(lpips, "--trunk", "torchvision's AlexNet or VGG16")
    _add_file(lpips, "--lin", "alex.pth or vgg.pth of LPIPS v0.1")
    lpips.set_defaults(convert=_convert_lpips)
    inception = commands.add_parser(
        "inception",
        help="the Inception network of FID",
        description="Converts the weights of FID's Inception network.",
        allow_abbrev=False,
    )
    _add_file(inception, "--weights", "a .pth or .pb of 2015-12-05")
    inception.set_defaults(convert=_convert_inception)
    dinov2 = commands.add_parser(
        "dinov2",
        help="DINOv2 ViT-B/14 or ViT-L/14",
        description="Converts the weights of DINOv2.",
        allow_abbrev=False,
    )
    weights = "dinov2_vit[bl]14_pretrain.pth, or Hugging Face's model.safetensors"
    _add_file(dinov2, "--weights", weights)
    dinov2.set_defaults(convert=_convert_dinov2)
    for command in (lpips, inception, dinov2):
        _add_file(command, "--output", "the .npz file to write")
    return parser


def _add_file(parser: argparse.ArgumentParser, flag: str, text: str) -> None:
    parser.add_argument(flag, metavar="FILE", required=True, help=text)


def _convert_lpips(args: argparse.Namespace) -> str:
    from simple_diffusion.weights import convert_lpips, lpips_layout

    trunk = convert_lpips.convert(args.trunk, args.lin, args.output)
    return f"LPIPS with {lpips_layout.TRUNKS[trunk].title}"


def _convert_inception(args: argparse.Namespace) -> str:
    from simple_diffusion.weights import convert_inception

    convert_inception.convert(args.weights, args.output)
    return "the Inception network of FID"


def _convert_dinov2(args: argparse.Namespace) -> str:
    from simple_diffusion.weights import convert_dinov2

    return convert_dinov2.convert(args.weights, args.output)


if __name__ == "__main__":
    signals.install()
    main()
