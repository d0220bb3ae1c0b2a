"""MONAI's config parser finds BioAtt by its bare name, also after the bundle's code was loaded anew."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys

import monai.networks.nets as monai_nets
import pytest
import scripts.networks
import torch
from monai.bundle import ConfigParser

MODULE = "monai.networks.nets.bioatt"
CODE = """
import io, torch
from monai.bundle import ConfigParser
parser = ConfigParser({"imports": ["$import scripts.networks"], "net": {"_target_": "BioAtt", "channels": 4}})
parser.get_parsed_content("imports")
network = parser.get_parsed_content("net")
print(type(network).__name__, network(torch.zeros(1, 1, 21, 21)).shape[-1])
"""


def from_config(target, **arguments):
    """What MONAI makes of a config that imports the bundle's networks and names `target`."""
    parser = ConfigParser({"imports": ["$import scripts.networks"], "net": {"_target_": target, **arguments}})
    parser.get_parsed_content("imports")
    return parser.get_parsed_content("net")


@pytest.fixture
def unloaded():
    """Take the bundle's code out of sys.modules; afterwards everything is as it was."""
    bundle = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "scripts"}
    registered = {name: sys.modules[name] for name in (MODULE, f"{MODULE}_unet")}
    network = monai_nets.BioAtt
    for name in bundle:
        del sys.modules[name]
    yield network
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]
    sys.modules.update(bundle)
    sys.modules.update(registered)
    monai_nets.bioatt, monai_nets.bioatt_unet = registered.values()
    monai_nets.BioAtt, monai_nets.BioAttUNet = network, registered[f"{MODULE}_unet"].BioAttUNet


@pytest.mark.parametrize("target", ["BioAtt", "scripts.networks.BioAtt", f"{MODULE}.BioAtt"])
def test_config_finds_the_class(target):
    network = from_config(target, channels=4, attention="spatial")
    assert type(network) is scripts.networks.BioAtt
    assert (network.conv1.out_channels, network.attention) == (4, "spatial")


def test_registering_twice_changes_nothing():
    scripts.networks.register_with_monai(scripts.networks.BioAtt, MODULE)
    assert type(from_config("BioAtt", channels=4)) is scripts.networks.BioAtt
    assert scripts.networks.BioAtt.__module__ == MODULE


def test_code_loaded_anew_takes_the_place_of_the_old(unloaded):
    anew = importlib.import_module("scripts.networks")
    assert anew.BioAtt is not unloaded
    for target in ("BioAtt", "scripts.networks.BioAtt", f"{MODULE}.BioAtt"):
        assert type(from_config(target, channels=4)) is anew.BioAtt
    assert type(pickle.loads(pickle.dumps(anew.BioAtt(channels=4)))) is anew.BioAtt


def test_config_alone_loads_unloaded_code_anew(unloaded):
    assert type(from_config("BioAtt", channels=4)) is not unloaded


def test_the_tests_before_left_the_code_as_it_was():
    assert sys.modules["scripts.networks"] is scripts.networks
    assert monai_nets.BioAtt is scripts.networks.BioAtt is sys.modules[MODULE].BioAtt


def test_other_classes_of_monai_are_still_found():
    assert type(from_config("BasicUNet", spatial_dims=2, features=(2, 2, 2, 2, 2, 2))) is monai_nets.BasicUNet


def test_instance_can_be_pickled():
    network = scripts.networks.BioAtt(channels=4)
    again = pickle.loads(pickle.dumps(network))
    image = torch.rand(1, 1, 21, 21, generator=torch.Generator().manual_seed(0))
    assert type(again) is scripts.networks.BioAtt
    assert torch.equal(again(image), network(image))


def test_module_knows_a_file_that_exists():
    assert os.path.isfile(sys.modules[MODULE].__file__)


def test_it_works_from_another_folder_in_a_fresh_process(bundle_root, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(bundle_root)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["BioAtt", "21"]
