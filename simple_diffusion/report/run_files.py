"""Files of a run as a report reads them: what is damaged is passed over and noted."""

import fnmatch
import io
import json
import math
import warnings
from typing import Any, NamedTuple

from etils import epath
from PIL import Image

from simple_diffusion.core import files

# A larger picture is reduced before it is put into the page.
MOST_BYTES = 3_000_000
MOST_PIXELS = 2400


class Picture(NamedTuple):
    """A picture as it goes into the page.

    png: the file.
    size: its width and height.
    reduced: what to say of it if it is not as it was; else "".
    """

    png: bytes
    size: tuple[int, int]
    reduced: str = ""


class RunFiles:
    """Reads the files of a workdir.

    folder: the workdir.
    notes: what was passed over, and why.
    """

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        """Remembers that something was passed over, and says so."""
        if line not in self.notes:
            self.notes.append(line)
            files.say(f"note: {line}")

    def read(self, name: str, kind: type = dict) -> Any:
        """Returns a JSON file; None if there is none, or it is of another kind."""
        text = self._text(name)
        if text is None:
            return None
        try:
            found = json.loads(text)
        except ValueError:
            self.note(f"{name} is damaged and passed over")
            return None
        if isinstance(found, kind):
            return found
        self.note(f"{name} is not a {kind.__name__} and passed over")
        return None

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Returns the objects of a file with one JSON a line; [] if there is none."""
        found, damaged = [], 0
        for line in (self._text(name) or "").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict):
                found.append(value)
            elif line.strip():
                damaged += 1
        if damaged:
            self.note(f"{name}: {damaged} damaged line(s) passed over")
        return found

    def glob(self, pattern: str) -> list[str]:
        """Returns sorted names of files and folders, relative to the workdir."""
        found = [""]
        for part in pattern.split("/"):
            found = [
                f"{parent}/{path.name}".lstrip("/")
                for parent in found
                for path in self._children(parent)
                if fnmatch.fnmatchcase(path.name, part) and path.name[0] != "."
            ]
        return sorted(found)

    def picture(self, name: str) -> Picture | None:
        """Returns a PNG, reduced if it is large; None if it cannot be read."""
        try:
            data = (self.folder / name).read_bytes()
            with warnings.catch_warnings():
                # Large grids are ours, not an attack.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                    image.load()
                    return _fitting(data, image)
        except FileNotFoundError:
            return None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            # Pillow calls a broken chunk a SyntaxError.
            self.note(f"{name} cannot be read as a PNG and is passed over")
            return None

    def _text(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError):
            self.note(f"{name} cannot be read and is passed over")
            return None

    def _children(self, name: str) -> list[epath.Path]:
        place = self.folder / name if name else self.folder
        return list(place.iterdir()) if place.is_dir() else []


def _fitting(data: bytes, image: Image.Image) -> Picture:
    longest = max(image.size)
    if len(data) <= MOST_BYTES and longest <= MOST_PIXELS:
        return Picture(data, image.size)
    by = max(math.ceil(longest / MOST_PIXELS), 2)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    small, buffer = image.reduce(by), io.BytesIO()
    small.save(buffer, format="PNG")
    w, h = image.size
    said = f"reduced {by} times from {w}x{h} pixels"
    return Picture(buffer.getvalue(), small.size, said)
