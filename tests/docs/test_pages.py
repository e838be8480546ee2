"""The pages of the documentation agree with the code and with each other."""

import itertools
import re

import numpy as np
import pytest

from simple_diffusion.build import recipes
from simple_diffusion.configs import conditions
from simple_diffusion.evaluation import metric_names
from simple_diffusion.pipelines.model import Model
from simple_diffusion.training import report, step
from tests.docs import pages

EVALUATION = "docs/evaluation.md"


def names(cells):
    """Yields the names in code spans, of which a cell may hold several."""
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def column(heading):
    return names(row[0] for row in pages.table(pages.read(EVALUATION), heading))


def test_the_readme_is_short_enough_to_be_read():
    assert len(pages.read("README.md").splitlines()) <= 200


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_to_files_and_headings_that_exist(page):
    for path, anchor in pages.links(page):
        target = (pages.ROOT / page).parent / path if path else pages.ROOT / page
        assert target.exists(), f"{page}: {path}"
        if anchor:
            assert anchor in pages.anchors(target.read_text("utf-8")), (path, anchor)


@pytest.mark.parametrize("page", ["README.md", "docs/extending.md"])
def test_the_reading_path_is_as_long_as_the_page_says(page):
    text = pages.read(page)
    after = re.split("four files", text, flags=re.IGNORECASE)[1]
    stated = int(re.search(r"about (\d+) lines", after)[1])
    files = re.findall(r"\]\((?:\.\./)?(simple_diffusion/\S+?\.py)\)", after)[:4]
    lines = sum(len((pages.ROOT / f).read_text().splitlines()) for f in files)
    assert len(files) == 4 and abs(lines - stated) <= 0.2 * stated


@pytest.mark.parametrize("page", pages.PAGES)
def test_keys_of_the_config_that_a_page_names_exist(page):
    config = recipes.load("anyres_scenes")  # the only ones with data.patches
    known = {key for section in config for key in flat(config[section], section)}
    # Of one kind of network or schedule alone.
    known |= {f"model.{key}" for key in recipes.load("imagenet64").model}
    for name, section in conditions.KINDS.items():
        known |= {f"conditions.{name}.{key}" for key in section()}
    unknown = []
    for span in pages.code_spans(page):
        for name in re.findall(
            r"(?<![\w./-])(?:--config\.)?([a-z]+\.[a-z0-9_.*]+)", span
        ):
            section, _, key = name.partition(".")
            if section not in config or re.search(r"\.(py|json|md|safetensors)$", name):
                continue
            if section == "model" and (
                hasattr(Model, key) or key.split(".")[0] == "config"
            ):
                continue
            start = name.rstrip("*")
            if name not in known and not (
                name.endswith("*") and any(k.startswith(start) for k in known)
            ):
                unknown.append(name)
    assert unknown == []


def flat(section, path):
    """Yields the section and all keys below it, as dotted names."""
    yield path
    if hasattr(section, "items"):
        for key, value in section.items():
            yield from flat(value, f"{path}.{key}")


HEADINGS = (
    "Metrics of evaluations",
    "Metrics of restorations",
    "Metrics of conditions",
)


def test_every_metric_of_evaluations_and_restorations_has_a_line():
    described = set().union(*map(column, HEADINGS))
    listed = {metric_names.plain_kind(name) for name in described}
    assert listed == set(metric_names._DESCRIPTIONS)


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_page_and_the_code_agree_on_which_values_are_better(heading):
    for name, better, _ in pages.table(pages.read(EVALUATION), heading):
        lower = {"lower": True, "higher": False, "": None}[better]
        kind = next(iter(names([name])))
        assert metric_names.is_lower_better(kind) is lower, name


def test_every_metric_of_a_training_has_a_line(tmp_path):
    log = report.Report(tmp_path, total_steps=1, every=1, tensorboard=False)
    log.begin(0)
    ones = np.ones(len(step.bin_names()))
    scalars = ("grad_norm", "learning_rate", "loss", "param_norm", "skipped")
    metrics = dict.fromkeys((*scalars, "update_norm"), 1.0)
    bins = {"loss_bin_sum": ones, "loss_bin_count": ones}
    log.record(1, metrics | bins | {"finite": True, "examples": 1.0}, 0.0)
    log.close()
    (line,) = report.read_metrics(tmp_path / "metrics.jsonl")
    bin_name = "loss_at_logsnr/-3..0"
    assert bin_name in line
    written = {k for k in line if not k.startswith("loss_at_logsnr/")} | {bin_name}
    assert written == column("Metrics of training")


def test_every_recipe_and_mode_is_in_the_readme():
    text = pages.read("README.md")
    listed = names(row[0] for row in pages.table(text, "Recipes"))
    patterns = [
        re.compile(name.partition(":")[0].replace("*", r"\w+")) for name in listed
    ]
    for recipe in recipes.names():
        assert any(pattern.fullmatch(recipe) for pattern in patterns), recipe
    for name in itertools.filterfalse(lambda name: "*" in name, listed):
        recipes.load(name)
