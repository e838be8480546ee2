import json

import pytest
from etils import epath

from simple_diffusion.build import recipes
from simple_diffusion.core import files
from simple_diffusion.pipelines import runs


@pytest.mark.parametrize(
    ("name", "newer"),
    [
        ("imagenet128:unet", ["model.resampling", "model.emb_activation"]),
        ("imagenet128:uvit", ["model.emb_activation", "loss.logit_normal_mean"]),
        ("imagenet128:sid2", ["model.emb_activation"]),
    ],
)
def test_keys_that_are_newer_than_a_stored_config_have_their_defaults(name, newer):
    recipe = recipes.load(name)
    stored = json.loads(recipe.to_json_best_effort())
    for place in newer:
        section, key = place.split(".")
        del stored[section][key]
    found = json.loads(runs.complete_config(stored).to_json_best_effort())
    assert found == json.loads(recipe.to_json_best_effort())


def test_a_stored_network_of_an_unknown_kind_keeps_its_keys():
    stored = {"model": {"name": "of another library", "width": 3}}
    assert runs.complete_config(stored).model.to_dict() == stored["model"]


def test_keys_that_are_newer_than_a_stored_config_are_no_difference(tmp_path, capsys):
    recipe = recipes.load("imagenet128:unet")
    stored = json.loads(recipe.to_json_best_effort())
    del stored["model"]["resampling"], stored["loss"]["logit_normal_std"]
    stored["model"]["dropout"] = 0.3
    folder = epath.Path(tmp_path)
    (folder / files.CONFIG).write_text(json.dumps(stored))
    runs.print_differences(recipe, folder)
    runs.save_config(recipe, folder, ())
    assert capsys.readouterr().out.splitlines() == [
        "differs from the training: model.dropout: 0.3 -> 0.1",
        "changed since the last start of this run: model.dropout: 0.3 -> 0.1",
    ]
