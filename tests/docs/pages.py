"""Reads the pages of the documentation: code blocks, shell commands and links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "launch/*.md", "examples/*.md", "benchmarks/*")
    for path in ROOT.glob(pattern)
    if path.suffix == ".md" and path.name not in ("CHANGELOG.md", "RESULTS.md")
)
# The order in which a reader meets the pages; commands are run in it.
READING = ["README.md", "docs/training.md", "docs/data.md", "docs/sampling.md"]
PAGES = READING + [page for page in PAGES if page not in READING]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Words of the shell that stand before a command.
_KEYWORDS = {"do", "then", "else"}
_ENDS = {"done", "fi"}


class Block(NamedTuple):
    """A code block: its page, its first line there, its language and its text."""

    page: str
    line: int
    language: str
    text: str


class Command(NamedTuple):
    """A shell command.

    page, line: where its block stands.
    variables: those that are set for the command alone.
    words: the command with its arguments.
    """

    page: str
    line: int
    variables: dict[str, str]
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def read(page: str) -> str:
    """Returns the text of a page."""
    return (ROOT / page).read_text("utf-8")


def blocks(language: str) -> Iterator[Block]:
    """Yields the code blocks of a language, page by page."""
    for page in PAGES:
        text = read(page)
        for match in _BLOCK.finditer(text):
            line = text[: match.start()].count("\n") + 2
            if match[1] == language:
                yield Block(page, line, match[1], match[2])


def commands() -> list[Command]:
    """Returns all shell commands, in reading order."""
    return [command for block in blocks("sh") for command in split(block)]


def split(block: Block) -> Iterator[Command]:
    """Yields the commands of a block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = list(_words(line))
        while words:
            end = next((k for k, w in enumerate(words) if set(w) <= set("&|;")), None)
            part, words = words[:end], words[end + 1 :] if end is not None else []
            if part and part[0] in _KEYWORDS:
                part = part[1:]
            if not part or part[0] in _ENDS or part[0] == "for":
                continue
            variables = {}
            while part and re.match(r"\w+=", part[0]):
                name, _, variables[name] = part.pop(0).partition("=")
            yield Command(block.page, block.line, variables, part)


def _words(line: str) -> Iterator[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    return iter(lexer)


def prose(page: str) -> str:
    """Returns a page without its code blocks."""
    return _BLOCK.sub("", read(page))


def code_spans(page: str) -> list[str]:
    """Returns the texts between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: str) -> list[tuple[str, str]]:
    """Returns (path, anchor) of each link to a file; the path is "" for this page."""
    found = re.findall(r"\]\((?![a-z]+:)([^)\s#]*)(?:#([^)\s]*))?\)", prose(page))
    return [(path, anchor) for path, anchor in found]


def anchors(text: str) -> set[str]:
    """Returns the anchors of the headings of a page, as hosts of repositories do."""
    titles = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.MULTILINE)
    slugs = [
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    ]
    return set(slugs)


def table(text: str, heading: str) -> list[list[str]]:
    """Returns the rows of the first table below a heading, without its title row."""
    section = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    rows = []
    for line in section.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]
