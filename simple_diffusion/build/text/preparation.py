"""Stores the features of all captions of records, by a frozen encoder."""

from collections.abc import Callable
from pathlib import Path

from etils import epath

from simple_diffusion.build.text import frozen
from simple_diffusion.data.records import text_preparation
from simple_diffusion.data.records.text_features import TextEncoding


def prepare(
    output: epath.PathLike,
    path: str,
    *,
    length: int | None = None,
    dtype: str = "bfloat16",
    batch_size: int = 64,
    verify: bool = False,
    report: Callable[[str], None] = print,
) -> TextEncoding:
    """Stores the features of all captions of records, and returns what made them.

    Args:
      output: folder of the records.
      path: of the encoder, as `encoders.load_text_encoder`.
      length: largest number of tokens; None: the default of the encoder.
      dtype: of the computation.
      batch_size: captions per call of the network.
      verify: as `text_preparation.prepare`.
      report: called with each line about progress.

    Raises:
      FileNotFoundError, ValueError: as `encoders.load_text_encoder`, `frozen.embed` and
        `text_preparation.prepare`.
    """
    # Before the encoder, which may take minutes to load.
    text_preparation.load_records(epath.Path(output).expanduser())
    digest = frozen.compute_digest(path)
    report(f"loading the text encoder {path}")
    encoder = frozen.open_encoder(path, length, dtype)
    encoding = TextEncoding(
        digest, Path(path).name, encoder.width, encoder.max_length, dtype
    )
    text_preparation.prepare(
        output,
        encoding,
        lambda texts: frozen.embed(texts, encoder, batch_size),
        verify=verify,
        report=report,
    )
    return encoding
