"""Converts images once into large files with random access: of a folder, tar or TFDS.

  python -m simple_diffusion.modes.prepare \\
    --input folder:/path/to/pictures --output /data/records --size 512

Then train with --config.data.source=records:/data/records. Run the same command again
to continue after an interruption or, when it is complete, to check all files. For
`conditions.text_features`, add --text_encoder FOLDER: a frozen text encoder then also
computes the features of all captions, here or, without --input, of finished records.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simple_diffusion.core import console, signals

if TYPE_CHECKING:
    from simple_diffusion.data.records import encoding

# Import the rest where it is used: signals must be handled before imports that take
# seconds, and --help does not wait for them.

_NATIVE = "native"
_LOSSLESS = "lossless"
_QUALITY = 95


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; an error that the user can correct is one line."""
    parser = _parser()
    args = parser.parse_args(argv)
    _check_flags(parser, args)

    from simple_diffusion.data.records import preparation, text_features

    report = console.print_line
    try:
        with signals.unwind():
            if args.input is not None:
                preparation.prepare(
                    _settings(args),
                    args.output,
                    workers=args.workers,
                    verify=args.verify,
                    report=report,
                )
            elif args.verify:
                preparation.check(args.output, report=report)
            if args.text_encoder is not None:
                from simple_diffusion.build.text import preparation as text  # uses JAX

                text.prepare(
                    args.output,
                    args.text_encoder,
                    length=args.text_length,
                    dtype=args.text_dtype,
                    batch_size=args.text_batch,
                    verify=args.verify,
                    report=report,
                )
            elif args.verify:
                text_features.check(args.output, report=report)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except signals.Stopped as stopped:
        signals.exit_now(
            stopped.number, "; finished shards are kept, the same command continues"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simple_diffusion.modes.prepare",
        description="Converts images once into large files with random access.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--input", metavar="SOURCE", help="folder:PATH, tar:PATH or tfds:NAME")
    add("--output", metavar="FOLDER", required=True, help="new, empty or incomplete")
    add("--data_dir", metavar="FOLDER", help="folder of prepared TFDS datasets")
    add(
        "--size",
        type=_size,
        default=_NATIVE,
        help="reduce larger images to this shorter side in pixels; native (default) "
        "keeps the original files",
    )
    add("--resize", choices=("area", "antialias"), help="the filter; default: area")
    add(
        "--quality",
        type=_quality,
        help=f"JPEG quality of reduced images, 1 to 100, default {_QUALITY}; or "
        "lossless, for PNG",
    )
    add("--shard_megabytes", type=_positive, default=256.0, help="default: 256")
    add(
        "--fields",
        metavar="NAMES",
        help="fields to keep besides image and class, such as caption,map:semantic; "
        "'' for none; default: all",
    )
    add("--tfds_fields", metavar="MAPPING", help="as data.tfds_fields")
    add("--workers", type=_count, help="parallel workers; default: one per CPU")
    add(
        "--text_encoder",
        metavar="FOLDER",
        help="of T5 v1.1 or CLIP: store its features of all captions; without --input, "
        "those of a complete --output",
    )
    add("--text_length", type=_count, help="tokens per caption; default: 128, CLIP 77")
    add(
        "--text_dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of the encoder's computation; default: bfloat16",
    )
    add("--text_batch", type=_count, default=64, help="captions at a time; default: 64")
    add(
        "--verify",
        action="store_true",
        help="compare checksums of a complete output, not only file sizes; with "
        "--input, write damaged files again",
    )
    return parser


def _check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exits if flags are missing or contradict each other."""
    if args.text_encoder is None and args.text_length is not None:
        parser.error("--text_length has no effect without --text_encoder FOLDER")
    if args.input is None:
        if not args.verify and args.text_encoder is None:
            parser.error(
                "--input is required, except to --verify a complete --output or to "
                "add the features of a --text_encoder to it"
            )
        return
    native = args.size == _NATIVE
    for flag in ("resize", "quality"):
        if native and getattr(args, flag) is not None:
            parser.error(f"--{flag} has no effect without --size PIXELS")
    if args.data_dir is not None and not args.input.startswith("tfds:"):
        parser.error("--data_dir has no effect without --input tfds:NAME")
    if args.tfds_fields is not None and not args.input.startswith("tfds:"):
        parser.error("--tfds_fields has no effect without --input tfds:NAME")


def _settings(args: argparse.Namespace) -> "encoding.Settings":
    """Returns the settings of the flags."""
    from simple_diffusion.data.records import encoding

    native = args.size == _NATIVE
    return encoding.Settings(
        input=args.input,
        data_dir=args.data_dir,
        size=None if native else args.size,
        resize=None if native else args.resize or "area",
        quality=None if native else args.quality or _QUALITY,
        shard_megabytes=args.shard_megabytes,
        fields=args.fields,
        tfds_fields=args.tfds_fields,
    )


def _size(text: str) -> int | str:
    return text if text == _NATIVE else _count(text)


def _quality(text: str) -> int | str:
    if text in (_LOSSLESS, "png"):
        return _LOSSLESS
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} must be 1 to 100, or lossless")


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} must be a whole number above 0")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if 0 < value < float("inf"):
        return value
    raise argparse.ArgumentTypeError(f"{text} must be a number above 0")


if __name__ == "__main__":
    signals.install()
    main()
