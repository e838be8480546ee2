"""Recipes by name and by path."""

from pathlib import Path

import pytest

from simple_diffusion.build import recipes

CONFIGS = Path(__file__).parents[2] / "configs"
MINE = """
from simple_diffusion.configs import quickstart

def get_config(variant="short"):
    config = quickstart.get_config()
    config.train.total_steps = {"short": 7, "long": 70}[variant]
    return config
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory that is not the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_that_defines_a_recipe_has_a_name_and_no_other_has():
    shared = {"__init__", "keys", "base", "networks", "evaluation", "restoration"}
    shared |= {"imagenet", "anyres", "conditions", "text2image"}
    assert {*recipes.names()} == {p.stem for p in CONFIGS.glob("*.py")} - shared


def test_a_name_and_the_path_of_its_file_are_the_same_recipe(folder):
    path = CONFIGS / "imagenet512.py"
    assert recipes.resolve("imagenet512:uvit") == f"{path}:uvit"
    by_name, by_path = (recipes.load(f"{r}:uvit") for r in ("imagenet512", path))
    assert by_name == by_path
    assert by_name != recipes.load("imagenet512:sid2")


def test_a_path_is_not_changed(folder):
    (folder / "mine.py").write_text(MINE)
    for text in ("mine.py", "./mine.py:long", f"{folder}/mine.py:long"):
        assert recipes.resolve(text) == text
    assert recipes.load("mine.py").train.total_steps == 7
    assert recipes.load(f"{folder}/mine.py:long").train.total_steps == 70


def test_a_file_in_the_working_directory_is_found_by_path_and_not_by_name(folder):
    (folder / "quickstart.py").write_text(MINE)
    (folder / "quickstart").mkdir()
    assert recipes.load("quickstart.py").train.total_steps == 7
    assert recipes.resolve("quickstart") == str(CONFIGS / "quickstart.py")


@pytest.mark.parametrize("text", ["quickstat", "base", "", ":uvit", "imagenet"])
def test_an_unknown_name_lists_the_recipes_in_one_line(text):
    with pytest.raises(ValueError, match="digits, imagenet128, .*quickstart") as error:
        recipes.resolve(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["quickstart.py", "configs/quickstart.py:paper"])
def test_a_file_that_is_missing_is_named(folder, text):
    path = folder / text.partition(":")[0]
    with pytest.raises(FileNotFoundError, match=f"no recipe at {path}"):
        recipes.resolve(text)


def test_a_loaded_recipe_has_no_key_that_is_not_in_base():
    with pytest.raises(AttributeError, match="batchsize"):
        recipes.load("quickstart").train.batchsize = 3


def fail(folder, text, recipe="mine.py"):
    (folder / "mine.py").write_text(text)
    with pytest.raises(ValueError) as error:
        recipes.load(recipe)
    return str(error.value)


def test_a_variant_that_a_recipe_does_not_have_is_named(folder):
    assert "mine.py has no variant 'lang'" in fail(folder, MINE, "mine.py:lang")
    plain = "def get_config():\n    return 3\n"
    assert "mine.py:x: it has no variants" in fail(folder, plain, "mine.py:x")
    needed = "def get_config(variant):\n    return 3\n"
    assert "mine.py needs a variant: --config mine.py:V" in fail(folder, needed)
    assert "must return a ConfigDict, it returns int" in fail(folder, plain)
    assert "defines no function get_config()" in fail(folder, "")


def test_a_recipe_that_fails_names_its_line(folder):
    late = MINE.replace(
        "return config", "config.train.batchsize = 3\n    return config"
    )
    said = fail(folder, late)
    assert "mine.py fails in mine.py, line 7: AttributeError" in said
    assert "mine.py, line 1: SyntaxError" in fail(folder, "def get_config(:\n")
    said = fail(folder, "\nimport no_such_module\n")
    assert "mine.py, line 2: ModuleNotFoundError: No module named 'no_such" in said


def test_a_colon_in_a_path_does_not_begin_a_variant(folder):
    (folder / "a:b").mkdir()
    (folder / "a:b" / "mine.py").write_text(MINE)
    assert recipes.load("a:b/mine.py").train.total_steps == 7
    assert recipes.load("a:b/mine.py:long").train.total_steps == 70
