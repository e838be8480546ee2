"""The shape of the package: layers, cycles, and who may import what."""

import ast
import graphlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines import old_run

ROOT = Path(__file__).parents[1]
PACKAGE = "simple_diffusion"
LAYERS = [
    {"core", "configs"},
    {"diffusion", "nets", "data", "geometry", "weights"},
    {"sampling"},
    {"training", "evaluation", "restoration"},
    {"build"},
    {"pipelines", "report"},
    {"modes", "studio"},
    {"command_line"},
    {"main"},
    {"__main__"},
]
# Where a heavy library may be imported, as prefixes of module names.
ALLOWED = {
    "tensorflow": ["simple_diffusion.data."],
    "tensorflow_datasets": ["simple_diffusion.data."],
    "ml_collections": [
        "simple_diffusion.main",
        "simple_diffusion.build",
        "simple_diffusion.modes.",
        "simple_diffusion.pipelines.",
        "simple_diffusion.configs.",
    ],
    "orbax": ["simple_diffusion.training.store"],
    "clu": ["simple_diffusion.training.report", "simple_diffusion.main"],
    "array_record": ["simple_diffusion.data.records."],
    "matplotlib": ["simple_diffusion.report."],
    "tokenizers": ["simple_diffusion.data.text."],
    "sklearn": ["simple_diffusion.data.sources.digits"],
    "huggingface_hub": ["simple_diffusion.pipelines.load"],
    "tqdm": ["simple_diffusion.core.console"],
    "safetensors": ["simple_diffusion.weights.", "simple_diffusion.pipelines.export"],
    "optax": ["simple_diffusion.training.", "simple_diffusion.evaluation.networks."],
    "torch": [],
    "diffusers": [],
    "transformers": [],
}


def python_files(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "configs":  # which are imported from inside the package
        parts = (PACKAGE, *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for p in python_files(PACKAGE, "configs")}


def imports(path: Path) -> Iterator[str]:
    """Yields the dotted names that a file imports, wherever in it they stand."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # "from a import b": b is a module of a, or else a name inside a.
            base = "." * node.level + (node.module or "")
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else base for name in names)


def layer(package: str) -> int:
    return next(k for k, packages in enumerate(LAYERS) if package in packages)


def packages(module: str) -> list[str]:
    """Returns ["nets"] for simple_diffusion.nets.uvit, [] for all else."""
    parts = module.split(".")
    return parts[1:2] if parts[0] == PACKAGE else []


def test_every_file_stands_on_a_layer():
    known = set().union(*LAYERS)
    assert {package for m in MODULES for package in packages(m)} <= known


def test_a_file_imports_only_from_lower_layers_or_its_own_folder():
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in imports(path)
        for here in packages(module)
        for there in packages(name)
        if here != there and layer(there) >= layer(here)
    ]
    assert not wrong


def test_imports_form_no_cycle():
    graph = {m: set(imports(p)) & MODULES.keys() for m, p in MODULES.items()}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("library", ALLOWED)
def test_a_heavy_library_is_imported_only_where_it_belongs(library):
    wrong = [
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] == library for name in imports(path))
        and not f"{module}.".startswith(tuple(ALLOWED[library]))
    ]
    assert not wrong


def test_under_data_only_the_feed_knows_jax():
    users = {
        module
        for module, path in MODULES.items()
        if packages(module) == ["data"]
        and any(name.split(".")[0] in ("jax", "flax") for name in imports(path))
    }
    assert users <= {f"{PACKAGE}.data.feed"}


def test_no_import_is_relative_and_only_what_loads_recipes_imports_them():
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in imports(path)
        if name.startswith(".")
        or name.split(".")[0] == "configs"
        or (
            packages(name) == ["configs"]
            and packages(module) != ["configs"]
            and module != f"{PACKAGE}.build.recipes"
        )
    ]
    assert not wrong


def test_a_package_says_what_it_is_in_one_line_and_holds_nothing_else():
    for path in python_files(PACKAGE, "configs"):
        if path.name == "__init__.py" and path.parent != ROOT / PACKAGE:
            body = ast.parse(path.read_text()).body
            assert len(body) == 1 and ast.get_docstring(ast.parse(path.read_text()))
            assert len(path.read_text().splitlines()) == 1, path


def test_no_file_is_a_drawer_or_too_long_to_read():
    files = python_files(PACKAGE, "configs", "benchmarks", "tests")
    assert not [p for p in files if p.stem in ("utils", "helpers", "common", "misc")]
    assert not [p for p in files if len(p.read_text().splitlines()) > 450]


def test_no_package_is_too_large_to_survey():
    counts = {
        folder: len([p for p in folder.glob("*.py") if p.name != "__init__.py"])
        for folder in (ROOT / PACKAGE).rglob("*")
        if folder.is_dir()
    }
    assert {f: n for f, n in counts.items() if n > 12} == {}


def test_a_mode_is_thin():
    files = python_files(f"{PACKAGE}/modes")
    assert [p for p in files if len(p.read_text().splitlines()) > 200] == []


def test_tests_mirror_the_package():
    """A folder of tests that has the name of a package lies where the package does."""
    places = {p.parent.relative_to(ROOT / PACKAGE) for p in python_files(PACKAGE)}
    apart = {"benchmarks", "configs", "docs", "examples", "faults", "fixtures"}
    folders = {p.parent.relative_to(ROOT / "tests") for p in python_files("tests")}
    assert {f for f in folders - places if f.parts[0] not in apart} == set()


def stated_requirements(*files: str) -> set[str]:
    lines = [line for f in files for line in (ROOT / f).read_text().splitlines()]
    names = [re.match(r"[A-Za-z0-9_.-]+", line) for line in lines]
    return {canonical(name.group()) for name in names if name}


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize(
    "folders, files",
    [
        ([PACKAGE, "configs"], ["requirements.txt"]),
        (["tests"], ["requirements.txt", "requirements-test.txt"]),
    ],
)
def test_what_is_imported_is_stated_as_a_requirement(folders, files):
    stated = stated_requirements(*files)
    providers = importlib.metadata.packages_distributions()
    own = {PACKAGE, "benchmarks", "tests", *sys.stdlib_module_names}
    # What makes a fixture runs beside the libraries that it takes the numbers from.
    files = [p for p in python_files(*folders) if not p.name.startswith("make_")]
    tops = {name.split(".")[0] for p in files for name in imports(p)}
    unstated = [
        top
        for top in tops - own
        if not stated & {canonical(d) for d in providers.get(top, [])}
    ]
    assert not unstated


def test_every_requirement_is_pinned():
    kinds = ("", "-test", "-docs")
    required = stated_requirements(*(f"requirements{kind}.txt" for kind in kinds))
    assert required <= stated_requirements("constraints.txt")


BLOCKER = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked in this test")

sys.meta_path.insert(0, Blocker())
for module in {modules!r}:
    importlib.import_module(module)
"""


def assert_importable_without(blocked: list[str], modules: list[str]):
    run_python(BLOCKER.format(blocked=blocked, modules=modules))


def run_python(code: str):
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_networks_step_sampling_and_benchmarks_start_without_host_libraries():
    light = {"core", "diffusion", "nets", "sampling", "restoration", "training"}
    host = {f"{PACKAGE}.training.{name}" for name in ("report", "checkpoint", "loop")}
    modules = [m for m in MODULES if light & set(packages(m)) and m not in host]
    modules += ["benchmarks.train_step", "benchmarks.sampling_overhead"]
    heavy = ["tensorflow", "tensorflow_datasets", "clu", "ml_collections"]
    assert_importable_without(heavy, modules)


HOST = {"tensorflow", "tensorflow_datasets", "clu", "orbax", "array_record"}


def test_an_exported_model_is_loaded_and_drawn_from_without_host_libraries(tmp_path):
    run = old_run.extract(tmp_path)
    run_python(f"""
import sys, simple_diffusion
assert "jax" not in sys.modules
simple_diffusion.load({str(run)!r}).save({str(tmp_path / "export")!r})
""")
    unwanted = HOST | {"matplotlib", "sklearn", "optax"}
    run_python(f"""
import sys, simple_diffusion
model = simple_diffusion.load({str(tmp_path / "export")!r})
assert model.sample("boat").shape == (1, 16, 16, 3)
assert not {unwanted!r} & set(sys.modules)
""")


def test_nothing_but_reading_data_waits_for_tensorflow():
    assert_importable_without(["tensorflow", "tensorflow_datasets"], [*MODULES])
