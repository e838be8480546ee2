"""Files of a run for the report; damaged ones are skipped and noted."""

import fnmatch
import io
import json
import math
import warnings
from typing import Any, NamedTuple

from etils import epath
from PIL import Image

from simple_diffusion.core import console

# A larger picture is reduced before it is embedded in the page.
MAX_BYTES = 3_000_000
MAX_PIXELS = 2400


class Picture(NamedTuple):
    """A picture for the page.

    png: content of the file.
    size: width and height.
    reduction: description of a reduction; "" if there is none.
    """

    png: bytes
    size: tuple[int, int]
    reduction: str = ""


class RunFiles:
    """Reads the files of a workdir.

    folder: the workdir.
    notes: what was skipped, and why.
    """

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        """Stores and prints a note about skipped content, once."""
        if line not in self.notes:
            self.notes.append(line)
            console.print_line(f"note: {line}")

    def read(self, name: str, kind: type = dict) -> Any:
        """Returns a JSON file; None if there is none, or it is of another kind."""
        text = self._text(name)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except ValueError:
            self.note(f"{name} is damaged and was skipped")
            return None
        if isinstance(value, kind):
            return value
        self.note(f"{name} is not a {kind.__name__} and was skipped")
        return None

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Returns the objects of a JSON lines file; [] if there is no file."""
        records, damaged = [], 0
        for line in (self._text(name) or "").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict):
                records.append(value)
            elif line.strip():
                damaged += 1
        if damaged:
            self.note(f"{name}: {damaged} damaged line(s) skipped")
        return records

    def glob(self, pattern: str) -> list[str]:
        """Returns sorted names of files and folders, relative to the workdir."""
        names = [""]
        for part in pattern.split("/"):
            names = [
                f"{parent}/{path.name}".lstrip("/")
                for parent in names
                for path in self._children(parent)
                if fnmatch.fnmatchcase(path.name, part) and path.name[0] != "."
            ]
        return sorted(names)

    def picture(self, name: str) -> Picture | None:
        """Returns a PNG, reduced if it is large; None if it cannot be read."""
        try:
            data = (self.folder / name).read_bytes()
            with warnings.catch_warnings():
                # Large grids are our own files, not an attack.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                    image.load()
                    return _reduce(data, image)
        except FileNotFoundError:
            return None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            # Pillow raises SyntaxError for a broken chunk.
            self.note(f"{name} cannot be read as a PNG and was skipped")
            return None

    def _text(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError):
            self.note(f"{name} cannot be read and was skipped")
            return None

    def _children(self, name: str) -> list[epath.Path]:
        folder = self.folder / name if name else self.folder
        return list(folder.iterdir()) if folder.is_dir() else []


def _reduce(data: bytes, image: Image.Image) -> Picture:
    longest = max(image.size)
    if len(data) <= MAX_BYTES and longest <= MAX_PIXELS:
        return Picture(data, image.size)
    factor = max(math.ceil(longest / MAX_PIXELS), 2)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    small, buffer = image.reduce(factor), io.BytesIO()
    small.save(buffer, format="PNG")
    w, h = image.size
    reduction = f"reduced {factor} times from {w}x{h} pixels"
    return Picture(buffer.getvalue(), small.size, reduction)
