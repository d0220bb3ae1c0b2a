"""Weights carry their recipe: read back as written, bound to their file, data alone; misfits are refused."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from made_studies import save_with_recipe
from scripts.errors import BioAttError
from scripts.networks import BioAtt, BioAttUNet, Denoiser, Recipe, load_weights, make_network, read_recipe, write_recipe
from scripts.priors import DESCRIPTORS, make_prior

NETWORKS = [BioAtt(channels=4, attention="spatial"), BioAttUNet(widths=(4, 6), fold=1)]


def change(path, **fields):
    """Change fields of a recipe on disk."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.title)
def test_weights_alone_are_enough_to_make_their_network(network, tmp_path):
    weights = save_with_recipe(network, tmp_path / "w.pt", prior="uniform", prior_window_hu=(-1000.0, 200.0))
    recipe = read_recipe(weights)
    assert (recipe.prior, recipe.prior_window_hu) == ("uniform", (-1000.0, 200.0))
    made = load_weights(make_network(recipe), weights)
    assert made.title == network.title and made.definition == network.definition
    image = torch.rand(1, 1, 24, 24)
    torch.testing.assert_close(made(image), network.eval()(image))


def test_a_recipe_is_not_written_for_weights_that_are_not_there(tmp_path):
    with pytest.raises(BioAttError, match="no weights .*w.pt to write a recipe for"):
        write_recipe(tmp_path / "w.pt", Recipe())
    assert not list(tmp_path.iterdir())


def test_a_recipe_of_other_weights_is_refused_with_both_digests(tmp_path):
    weights = save_with_recipe(NETWORKS[0], tmp_path / "w.pt")
    told = read_recipe(weights).sha256
    torch.save(NETWORKS[1].state_dict(), weights)
    with pytest.raises(BioAttError, match=f"sha256 {told[:16]}, w.pt has [0-9a-f]{{16}}; copy both"):
        read_recipe(weights)


def test_weights_without_a_recipe_are_taken_for_the_bundles_network_and_the_log_says_so(tmp_path, caplog):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        recipe = read_recipe(tmp_path / "w.pt")
    assert "w.pt has no recipe w.json beside it" in caplog.text
    assert make_network(recipe).title == BioAttUNet().title
    assert make_network(recipe, otherwise=NETWORKS[0]) is NETWORKS[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"network_def": [1]},
        {"prior_window_hu": [1, 2, 3]},
        {"prior_temperature": "warm"},
        {"colour": "red"},
        {"scope": 3},
    ],
)
def test_a_damaged_recipe_is_refused(tmp_path, fields):
    weights = save_with_recipe(NETWORKS[0], tmp_path / "w.pt")
    change(tmp_path / "w.json", **fields)
    with pytest.raises(BioAttError, match="w.json is not a recipe of weights"):
        read_recipe(weights)


@pytest.mark.parametrize("target", ["os.system", "subprocess.run", "torch.nn.Linear", "", "none.Such", "Denoiserx"])
def test_a_recipe_calls_nothing_but_denoisers(tmp_path, target):
    weights = save_with_recipe(NETWORKS[0], tmp_path / "w.pt")
    change(tmp_path / "w.json", network_def={"_target_": target, "command": f"touch {tmp_path}/hacked"})
    with pytest.raises(BioAttError, match="is not one of scripts.networks"):
        make_network(read_recipe(weights))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("target", ["spy.Net", "spy", "scripts.networks.spy.Net", "monai.networks.nets.spy.Net"])
def test_a_recipe_imports_no_module_but_those_of_networks(tmp_path, monkeypatch, target):
    (tmp_path / "spy.py").write_text(
        "from pathlib import Path\nfrom scripts.networks import BioAttUNet as Net\n"
        f"Path({str(tmp_path / 'imported')!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BioAttError, match="is not one of scripts.networks"):
        make_network(Recipe(network_def={"_target_": target}))
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("place", ["", "scripts.networks.", "scripts.networks.ushape.", "monai.networks.nets."])
def test_a_network_of_ours_is_known_by_all_its_names(place):
    made = make_network(Recipe(network_def={"_target_": f"{place}BioAttUNet", "widths": [8, 16]}))
    assert made.title == BioAttUNet(widths=(8, 16)).title


def test_arguments_that_make_no_network_are_refused(tmp_path):
    weights = save_with_recipe(NETWORKS[0], tmp_path / "w.pt")
    change(tmp_path / "w.json", network_def={"_target_": "BioAtt", "channels": -4})
    with pytest.raises(BioAttError, match="BioAtt of the recipe cannot be made"):
        make_network(read_recipe(weights))


TRAINED = Recipe(prior="uniform", prior_digest="other", descriptors=DESCRIPTORS, sha256="0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "dense"}, "prior_form vector, not dense"),
        ({"temperature": 4.0}, "prior_temperature 1.0, not 4.0"),
        ({"preparation": "minmax"}, "prior_preparation window, not minmax"),
        ({"window_hu": [-1000.0, 0.0]}, r"prior_window_hu \(-160.0, 240.0\), not \(-1000.0, 0.0\)"),
        ({"descriptors": ("spine",)}, "the descriptors skull, .* not with spine"),
    ],
)
def test_a_prior_of_another_form_than_the_weights_is_refused_with_both_values(settings, message):
    with pytest.raises(BioAttError, match=message):
        make_prior("compact", recipe=TRAINED, **settings)


def test_another_prior_is_told_and_controls_are_free(caplog):
    with caplog.at_level(logging.WARNING):
        assert make_prior("random:3", recipe=TRAINED, temperature=1.0).name == "random:3"
    assert "trained with the prior uniform, digest other; this is random:3" in caplog.text


def test_a_denoiser_has_the_whole_contract_by_default():
    class Blur(Denoiser):
        def __init__(self, side=3, weights=(1, 2)):
            super().__init__(multiple=4, smallest_side=9)

        def forward(self, image, prior=None):
            return self.pad(image)

    network = Blur(side=5)
    assert network.title == "Blur(side=5, weights=[1, 2])"
    assert network.definition["side"] == 5 and network.definition["weights"] == [1, 2]
    assert network.attention_maps(torch.rand(1, 1, 3, 3)) == {} and network.attention_grids() == {}
    assert network(torch.rand(1, 1, 3, 10)).shape == (1, 1, 9, 12)
