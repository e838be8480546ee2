"""Turns a folder or a TFDS data set into large files that are read in any order, once.

  python -m simple_diffusion.modes.prepare \\
    --input folder:/path/to/pictures --output /data/records --size 512

and train with --config.data.source=records:/data/records. Run the same command again to
go on where it was interrupted and, once it is complete, to check that all is there.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from simple_diffusion.data.errors import DataError
from simple_diffusion.data.records import encoding, preparation

_NATIVE = "native"
_LOSSLESS = "lossless"
_QUALITY = 95
_INTERRUPTED = 130  # what a shell makes of Ctrl-C


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong for a reason the user can mend is one line."""
    logging.basicConfig(format="%(message)s")
    parser = _parser()
    args = parser.parse_args(argv)
    if args.input is None and not args.verify:
        parser.error("--input is needed, except to --verify a complete --output")
    try:
        if args.input is None:
            preparation.check(args.output, say=_say)
        else:
            preparation.prepare(
                _settings(parser, args),
                args.output,
                workers=args.workers,
                verify=args.verify,
                say=_say,
            )
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        _say("stopped; finished shards are kept, the same command goes on from there")
        sys.exit(_INTERRUPTED)


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simple_diffusion.modes.prepare",
        description="Turns images into large files that are read in any order, once.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--input", metavar="SOURCE", help="folder:PATH or tfds:NAME")
    add("--output", metavar="FOLDER", required=True, help="new, empty or begun before")
    add("--data_dir", metavar="FOLDER", help="where TFDS data sets were prepared")
    add(
        "--size",
        type=_size,
        default=_NATIVE,
        help="the shorter side in pixels, which larger images are reduced to; native "
        "(default): the files as they are",
    )
    add("--resize", choices=("area", "antialias"), help="the filter; default: area")
    add(
        "--quality",
        type=_quality,
        help=f"of the JPEG files that are made of reduced images, 1 to 100, default "
        f"{_QUALITY}; or lossless, for PNG",
    )
    add("--shard_megabytes", type=_positive, default=256.0, help="default: 256")
    add("--workers", type=_count, help="images at a time; default: one for each CPU")
    add(
        "--verify",
        action="store_true",
        help="of a complete output, compare checksums and not just sizes; with --input "
        "make again what is damaged",
    )
    return parser


def _settings(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> encoding.Settings:
    """Returns what is asked for; ends the program if it makes no sense."""
    native = args.size == _NATIVE
    for flag in ("resize", "quality"):
        if native and getattr(args, flag) is not None:
            parser.error(f"--{flag} means nothing without --size PIXELS")
    if args.data_dir is not None and not args.input.startswith("tfds:"):
        parser.error("--data_dir means nothing without --input tfds:NAME")
    return encoding.Settings(
        input=args.input,
        data_dir=args.data_dir,
        size=None if native else args.size,
        resize=None if native else args.resize or "area",
        quality=None if native else args.quality or _QUALITY,
        shard_megabytes=args.shard_megabytes,
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
    main()
