"""Elements of one self-contained HTML page."""

import base64
import hashlib
import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from simple_diffusion.report import page_style

# Forbids a browser every request, whatever the page contains.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)


class Section(NamedTuple):
    """A part of a page.

    anchor: its id, for links.
    title: its heading.
    body: HTML.
    """

    anchor: str
    title: str
    body: str


def render(
    title: str, subtitle: str, sections: Sequence[Section], foot: Sequence[str]
) -> str:
    """Returns a page with a table of contents.

    Args:
      title: plain text.
      subtitle: plain text.
      sections: in this order.
      foot: lines of HTML for the footer.
    """
    contents = "".join(
        f'<a href="#{s.anchor}">{escape(s.title)}</a>\n' for s in sections
    )
    body = "".join(
        f'<section id="{s.anchor}">\n<h2>{escape(s.title)}</h2>\n{s.body}\n</section>\n'
        for s in sections
    )
    end = "".join(f"<p>{line}</p>\n" for line in foot)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without an icon a browser would request one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{page_style.STYLE}</style>\n</head>\n"
        '<body>\n<div class="page">\n<nav><strong>Contents</strong>\n'
        f"{contents}</nav>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>\n"
        f'<div class="soft">{escape(subtitle)}</div></header>\n'
        f"{body}<footer>\n{end}</footer>\n</main>\n</div>\n"
        f"<script>{page_style.SCRIPT}</script>\n</body>\n</html>\n"
    )


def escape(text: Any) -> str:
    """Returns text with HTML special characters escaped."""
    return html.escape(str(text))


def code(text: Any) -> str:
    """Returns text in a code element."""
    return f"<code>{escape(text)}</code>"


def paragraph(text: str) -> str:
    """Returns plain text as a paragraph."""
    return f"<p>{escape(text)}</p>\n"


def heading(text: str) -> str:
    """Returns the heading of a part of a section."""
    return f"<h3>{escape(text)}</h3>\n"


def facts(pairs: Mapping[str, Any]) -> str:
    """Returns names and values as a list in columns; None and "" are skipped."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n"
        for name, value in pairs.items()
        if value is not None and value != ""
    )
    return f"<dl>\n{items}</dl>\n"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Collection[int] = (),
    best: Collection[tuple[int, int]] = (),
    names: Collection[int] = (),
) -> str:
    """Returns a table of plain text.

    Args:
      header: names of the columns.
      rows: their cells.
      numbers: columns that are aligned to the right.
      best: (row, column) of cells to highlight.
      names: columns in a monospaced font.
    """

    def cell(tag: str, text: str, row: int, column: int) -> str:
        kinds = ["number"] if column in numbers else []
        kinds += ["mono"] if column in names and tag == "td" else []
        text = escape(text)
        if tag == "th":  # allows line breaks in long names of metrics
            text = text.replace("_", "_<wbr>")
        if (row, column) in best:
            kinds, text = [*kinds, "best"], f"<span>{text}</span>"
        kind = f' class="{" ".join(kinds)}"' if kinds else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    def line(tag: str, cells: Sequence[str], row: int) -> str:
        parts = (cell(tag, text, row, column) for column, text in enumerate(cells))
        return f"<tr>{''.join(parts)}</tr>\n"

    body = "".join(line("td", cells, row) for row, cells in enumerate(rows))
    return (
        f'<div class="wide"><table>\n<thead>{line("th", header, -1)}</thead>\n'
        f"<tbody>{body}</tbody>\n</table></div>\n"
    )


def details(summary: str, body: str) -> str:
    """Returns HTML that is collapsed until a click on the summary."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def plot(svg: str, caption: str = "") -> str:
    """Returns an SVG as part of the page, with ids that are unique in the page."""
    prefix = "p" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return f'<figure class="plot">{svg}{_caption(caption)}</figure>\n'


def plots(every: Iterable[str]) -> str:
    """Returns plots side by side."""
    return f'<div class="plots">\n{"".join(every)}</div>\n'


def picture(png: bytes, size: tuple[int, int], text: str, caption: str = "") -> str:
    """Returns an image; small ones are enlarged by an integer factor.

    Args:
      png: content of the file.
      size: width and height.
      text: alternative text.
      caption: below the image.
    """
    factor = max(1, min(3, 420 // max(size)))
    width, height = (factor * side for side in size)
    kind = ' class="small"' if factor > 1 else ""
    source = base64.b64encode(png).decode()
    return (
        f'<figure><img{kind} width="{width}" height="{height}" alt="{escape(text)}" '
        f'src="data:image/png;base64,{source}">{_caption(caption)}</figure>\n'
    )


def pictures(every: Iterable[str]) -> str:
    """Returns pictures side by side."""
    return f'<div class="pictures">\n{"".join(every)}</div>\n'


def over_time(frames: Iterable[str]) -> str:
    """Returns pictures with captions, one at a time with a slider.

    On paper, and without scripts, all are shown.
    """
    return (
        '<div class="over-time">\n<div class="slider"><input type="range" min="0" '
        'aria-label="which picture"><output></output></div>\n'
        f'<div class="frames pictures">\n{"".join(frames)}</div></div>\n'
    )


def named_rows(rows: Iterable[tuple[str, str]]) -> str:
    """Returns (plain text, HTML of a picture) as named rows."""
    body = "".join(f"<div>{escape(name)}</div>{shown}" for name, shown in rows)
    return f'<div class="classes">\n{body}</div>\n'


def config(tree: Mapping[str, Any]) -> str:
    """Returns a config in columns, with a block for each section."""
    values = {k: v for k, v in tree.items() if not isinstance(v, Mapping)}
    blocks = {k: v for k, v in tree.items() if isinstance(v, Mapping)}
    parts = [
        f"<div><h3>{escape(name)}</h3>{'<br>'.join(map(escape, _flat(part)))}</div>\n"
        for name, part in [*({"": values} if values else {}).items(), *blocks.items()]
    ]
    return f'<div class="config mono">\n{"".join(parts)}</div>\n'


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key} = {value}")
    return lines


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""
