"""Pages of the documentation site that are not in docs/; MkDocs calls this file.

Adds the Markdown files of other folders, one API page per package, and the source
files that pages link to. Links in Markdown are relative to the file in the repository,
so that they also work where the repository is browsed; here they are changed to those
of the site.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = "simple_diffusion"
PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/RESULTS.md",
    "examples/README.md",
    "launch/README.md",
)
# The target of a link or picture, unless it has a scheme or is only an anchor.
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)((?:#[^)\s]*)?\))")
_LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".ipynb": "json"}


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages; called by MkDocs."""
    texts = {f"docs/{file.src_uri}": file.content_string for file in _markdown(files)}
    texts |= {path: (ROOT / path).read_text("utf-8") for path in PAGES}
    pages = {path: texts[path] for path in PAGES} | _api_pages()
    for origin, text in texts.items():
        for _, target, _ in _LINK.findall(text):
            path = _resolve(origin, target)
            if path not in texts and not path.startswith("docs/"):
                pages[_source_page(path)] = _show_source(path)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Changes the links of a page to those of the site; called by MkDocs."""
    here = page.file.src_uri
    if here.startswith(("api/", "source/")):
        return markdown
    origin = here if here in PAGES else f"docs/{here}"

    def replace(found: re.Match) -> str:
        path = _resolve(origin, found[2])
        if path.startswith("docs/"):
            path = path.removeprefix("docs/")
        elif path not in PAGES:
            path = _source_page(path)
        target = posixpath.relpath(path, posixpath.dirname(here) or ".")
        return f"{found[1]}{target}{found[3]}"

    return _LINK.sub(replace, markdown)


class FieldSections(griffe.Extension):
    """Shows the fields in a docstring as a table.

    Docstrings of classes list fields as `name: text`, some under the title `Fields:`.
    """

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Gives the fields of a class the title that the Google style has for them."""
        if cls.docstring is not None:
            cls.docstring.value = _title_fields(cls.docstring.value)


def _title_fields(text: str) -> str:
    text = re.sub(r"^Fields:$", "Attributes:", text, flags=re.MULTILINE)
    paragraphs = re.split(r"\n\n+", text)
    for k, paragraph in enumerate(paragraphs):
        if k and re.match(r"[a-z_][a-z_0-9, ]*: ", paragraph):
            lines = paragraph.splitlines()
            paragraphs[k] = "\n".join(["Attributes:", *(f"  {line}" for line in lines)])
    return "\n\n".join(paragraphs)


def _markdown(files: Files) -> list[File]:
    return [file for file in files if file.src_uri.endswith(".md")]


def _resolve(origin: str, target: str) -> str:
    """Returns the path in the repository that a link of a file leads to.

    A folder becomes its README.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def _source_page(path: str) -> str:
    return f"source/{path}.md"


def _show_source(path: str) -> str:
    """Returns a page that shows a file; an error if there is no such file."""
    language = _LANGUAGES.get(PurePosixPath(path).suffix, "text")
    text = (ROOT / path).read_text("utf-8")
    return f"# {path}\n\n````{language}\n{text}\n````\n"


def _api_pages() -> dict[str, str]:
    """Returns a page per package with all of its modules, and one of the package."""
    pages = {f"api/{PACKAGE}.md": _api_page([ROOT / PACKAGE / "__init__.py"])}
    for folder in sorted((ROOT / PACKAGE).iterdir()):
        if (folder / "__init__.py").exists():
            modules = sorted(folder.rglob("*.py"), key=lambda path: path.parts)
            pages[f"api/{folder.name}.md"] = _api_page(modules)
    return pages


def _api_page(modules: list[Path]) -> str:
    names = []
    for path in modules:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    # Of a package only its sentence: its modules follow.
    head, *rest = [f"::: {name}" for name in names]
    options = "    options:\n      members: false\n      heading_level: 1"
    return "\n\n".join([f"{head}\n{options}", *rest]) + "\n"
