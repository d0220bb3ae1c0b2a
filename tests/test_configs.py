"""Configs and metadata: complete for MONAI, true about the network, and consistent with one another."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict

import pytest
import torch
from monai.bundle import ConfigParser
from scripts.hu import VALID_RANGE_HU, hu_to_network
from scripts.networks import load_weights, make_network, read_recipe, weights_sha256
from scripts.priors import DESCRIPTORS
from scripts.volumes.scope import scope_of


def read(bundle_root, name):
    return json.loads((bundle_root / "configs" / name).read_text())


@pytest.mark.parametrize(
    ("names", "run_id"),
    [(["inference.json"], "inference"), (["train.json"], "training"), (["train.json", "evaluate.json"], "evaluation")],
)
def test_each_workflow_has_its_run_id_and_run(bundle_root, names, run_id):
    parser = ConfigParser(ConfigParser.load_config_files([str(bundle_root / "configs" / name) for name in names]))
    parser.parse()
    assert [step.replace("::", "#") for step in parser["run"]] == [step.replace("::", "#") for step in parser[run_id]]
    assert "begin()" in parser[run_id][0]


def test_no_config_holds_a_lambda(bundle_root):
    configs = [*(bundle_root / "configs").glob("*.json"), *(bundle_root.parent / "studies").rglob("*.json")]
    assert len(configs) > 15
    assert [one.name for one in configs if "lambda" in one.read_text()] == []


def test_metadata_fits_the_version_and_the_network(bundle_root):
    metadata = read(bundle_root, "metadata.json")
    assert metadata["version"] in metadata["changelog"]
    data = metadata["network_data_format"]
    lower, upper = (hu_to_network(limit) for limit in VALID_RANGE_HU)
    assert data["inputs"]["image"]["value_range"] == pytest.approx([lower, upper], abs=1e-6)
    assert data["post_processed_outputs"]["pred"]["value_range"] == list(VALID_RANGE_HU)
    in_hu = {name: one["value_range"] == list(VALID_RANGE_HU) for name, one in _tensors(data)}
    assert {name: one["format"] == "hounsfield" for name, one in _tensors(data)} == in_hu


def test_metadata_tells_both_inputs_of_the_network(bundle_root):
    data = read(bundle_root, "metadata.json")["network_data_format"]
    network = make_network(read_recipe(bundle_root / "models" / "model.pt")).eval()
    assert list(data["inputs"]) == list(inspect.signature(network.forward).parameters)
    assert list(data["inputs"]["prior"]["channel_def"].values()) == list(DESCRIPTORS)
    inputs = {}
    for name, one in data["inputs"].items():
        inputs[name] = torch.rand(
            2, one["num_channels"], *[24 if side == "*" else side for side in one["spatial_shape"]]
        )
    with torch.inference_mode():
        assert network(**inputs).shape == (2, data["outputs"]["pred"]["num_channels"], 24, 24)


def _tensors(data):
    return [(f"{part} {name}", one) for part, named in data.items() for name, one in named.items()]


def test_package_and_bundle_have_one_version(bundle_root):
    import tomllib

    project = tomllib.loads((bundle_root.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == read(bundle_root, "metadata.json")["version"]
    assert f"## {project['version']}" in (bundle_root.parent / "CHANGELOG.md").read_text()


def test_inference_and_evaluation_take_network_and_prior_from_the_recipe(bundle_root):
    inference, evaluation = read(bundle_root, "inference.json"), read(bundle_root, "evaluate.json")
    for what in ("", "_preparation", "_window_hu", "_form", "_temperature", "_descriptors"):
        assert "@recipe." in inference[f"prior{what}"]
        assert evaluation[f"prior{what}"] == inference[f"prior{what}"]
    assert evaluation["recipe"] == inference["recipe"]


def test_the_shipped_weights_are_as_their_recipe_tells_and_hang_on_the_prior(bundle_root):
    weights = bundle_root / "models" / "model.pt"
    recipe = read_recipe(weights)
    assert recipe.sha256 == weights_sha256(weights) and recipe.descriptors == DESCRIPTORS
    assert recipe.version and scope_of(recipe.scope).patients >= 3
    network = load_weights(make_network(recipe), weights)
    torch.manual_seed(0)
    image = hu_to_network(40 + 30 * torch.randn(1, 1, 96, 96))
    lungs, liver = torch.eye(11)[[2]], torch.eye(11)[[4]]
    with torch.inference_mode():
        difference_hu = (network(image, lungs) - network(image, liver)).abs().max() * 500
    assert difference_hu > 0.5


@pytest.mark.parametrize(("refined", "prior_share"), [([], 1.0), (["refined.json"], 0.2)])
def test_the_shipped_configs_write_the_recipe_that_ships(bundle_root, refined, prior_share):
    """All of it but what is measured on the data, the version and the digest of the weights."""
    parser = ConfigParser()
    parser.read_config([bundle_root / "configs" / name for name in ("train.json", "shipped.json", *refined)])
    parser.update({"bundle_root": str(bundle_root), "device": "cpu", "recipe#scope": None})
    written = json.loads(json.dumps(asdict(parser.get_parsed_content("recipe"))))
    shipped = json.loads((bundle_root / "models" / "model.json").read_text())
    assert written.keys() == shipped.keys()
    expected = shipped | {name: written[name] for name in ("scope", "version", "sha256")}
    assert written == expected | {"network_def": shipped["network_def"] | {"prior_share": prior_share}}


@pytest.mark.parametrize(("name", "attention"), [("bioatt96", "prior"), ("redcnn", "none")])
def test_network_overrides_name_the_papers_networks(bundle_root, name, attention):
    definition = read(bundle_root, f"network_{name}.json")["network_def"]
    assert definition == {"_target_": "BioAtt", "channels": 96, "attention": attention}


def test_checksums_are_those_of_the_files(bundle_root):
    import hashlib

    models = bundle_root / "models"
    lines = [line.split("  ") for line in (models / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {"model.pt", "prior/open_clip_model.safetensors"}
    for digest, name in lines:
        assert hashlib.sha256((models / name).read_bytes()).hexdigest() == digest, name


def test_evaluation_judges_the_precision_that_denoising_has(bundle_root):
    parser = ConfigParser()
    parser.read_config([bundle_root / "configs" / name for name in ("train.json", "evaluate.json")])
    denoising = ConfigParser.load_config_file(bundle_root / "configs" / "inference.json")["precision"]
    assert parser.get_parsed_content("validate#inferer").precision == denoising == "auto"
