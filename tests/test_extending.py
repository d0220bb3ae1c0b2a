"""What CONTRIBUTING.md promises: a backbone, a prior model, a layout, a format and a command are one file each."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from phantom import write_ct_series
from scripts.app import commands
from scripts.app.command_line import main
from scripts.training import layouts
from scripts.training.studies import describe, find_studies
from scripts.volumes import load_volume
from scripts.workflow import run_workflow

BACKBONE = """
import torch
from scripts.networks import Denoiser

class Blur(Denoiser):
    def __init__(self, side=3):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, side, padding=side // 2, padding_mode="replicate", bias=False)
        torch.nn.init.constant_(self.conv.weight, 1 / side**2)

    def forward(self, image, prior=None):
        return self.conv(image)
"""
PRIOR = """
import torch

class ByPosition:
    name, model, digest = "position", "prior by position", "1"

    def __init__(self, descriptors):
        self.descriptors = tuple(descriptors)

    def __call__(self, slices_hu, keys):
        return torch.eye(len(self.descriptors))[[key.index % len(self.descriptors) for key in keys]]
"""


@pytest.fixture
def series(tmp_path):
    return write_ct_series(tmp_path / "series", shape=(64, 64), spacing=(5.0, 5.0), slices=2, noise_sd=20.0)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Puts one file of code where Python finds it."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, code: (tmp_path / f"{name}.py").write_text(code)


def test_a_backbone_is_one_file_and_a_config(series, module, tmp_path):
    module("one_backbone", BACKBONE)
    import one_backbone

    torch.save(one_backbone.Blur().state_dict(), tmp_path / "blur.pt")
    overrides = {"dataset_dir": str(series), "output_dir": str(tmp_path / "out"), "weights": str(tmp_path / "blur.pt")}
    network = {"_target_": "one_backbone.Blur", "side": 3}
    overrides |= {"prior": "uniform", "network_def": network, "inferer#strength": None}  # its bare output
    run_workflow("inference", ["inference.json"], overrides)
    before, after = load_volume(series).hu, load_volume(tmp_path / "out").hu
    inside = (slice(20, 40), slice(20, 40))
    mean = np.mean([np.roll(before, (i, j), (0, 1))[inside] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
    np.testing.assert_allclose(after[inside], mean, atol=0.51)
    assert np.abs(before[inside] - mean).max() > 5


def test_a_prior_model_is_one_file_and_a_config(series, module, tmp_path, capsys):
    module("one_prior", PRIOR)
    source = {"_target_": "one_prior.ByPosition", "descriptors": "@prior_descriptors"}
    results = {}
    for name, override in {"own": {"prior_source": source}, "uniform": {"prior": "uniform"}}.items():
        overrides = {"dataset_dir": str(series), "output_dir": str(tmp_path / name), "anchor_mm": 10.0} | override
        run_workflow("inference", ["inference.json"], overrides)
        results[name] = load_volume(tmp_path / name).hu
    assert "prior by position" in capsys.readouterr().out
    assert np.abs(results["own"] - results["uniform"]).max() >= 1, "the network was shown it"


def test_a_data_layout_is_one_function(tmp_path, monkeypatch):
    def by_dose(root, folders):
        """root/routine_NAME, root/tenth_NAME."""
        names = {folder.name: folder for folder in folders}
        return [
            layouts.Entry(
                patient=name.removeprefix("routine_"),
                layout="by dose",
                full=folder,
                low=names.get(name.replace("routine", "tenth")),
            )
            for name, folder in names.items()
            if name.startswith("routine_")
        ]

    for seed, folder in enumerate(("routine_A", "tenth_A", "other")):
        write_ct_series(tmp_path / folder, shape=(64, 64), spacing=(5.0, 5.0), slices=2, noise_sd=5.0, seed=seed)
    monkeypatch.setattr(layouts, "LAYOUTS", (by_dose, *layouts.LAYOUTS))
    found = find_studies(tmp_path, progress=False)
    assert found.refused == ()
    assert {(study.entry.layout, study.low is not None) for study in found.studies} == {
        ("by dose", True),
        ("full dose", False),
    }
    assert "full and low" in describe(found)
    assert {"A", "other"} == set(found.folders.values())


FORMAT = """
import numpy as np

NAME = "NumPy"
SUFFIXES = (".npz",)

def read(path):
    with np.load(path) as stored:
        return stored["hu"].astype(np.float32), stored["affine"]

def geometry(path):
    hu, affine = read(path)
    return hu.shape, affine

def write(source, hu, target):
    np.savez(target, hu=hu, affine=read(source)[1])
    return 0
"""


def test_a_format_of_volumes_is_one_file(series, module, tmp_path, monkeypatch):
    from scripts.volumes import formats

    module("numpy_format", FORMAT)
    import numpy_format

    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, numpy_format))  # as a file in formats/ is found
    volume = load_volume(series)
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "ct.npz", hu=volume.hu, affine=volume.affine)
    for source, target in ((series, "dicom"), (tmp_path / "in", "numpy")):
        overrides = {"dataset_dir": str(source), "output_dir": str(tmp_path / target), "prior": "uniform"}
        run_workflow("inference", ["inference.json"], overrides)
    after = load_volume(tmp_path / "numpy" / "ct.npz")
    np.testing.assert_allclose(after.hu, load_volume(tmp_path / "dicom").hu, atol=0.51)
    np.testing.assert_array_equal(after.affine, volume.affine)


COMMAND = '''
"""Tell how many slices there are."""
from ..arguments import add_series

def add(parser):
    add_series(parser)

def run(options):
    from ...volumes import load_volume

    print(load_volume(options.input, series=options.series).hu.shape[2], "slices")
'''


def test_a_command_is_one_file(series, module, tmp_path, monkeypatch, capsys):
    module("extent", COMMAND)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])  # as a file in commands/ is found
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "tell how many slices there are" in capsys.readouterr().out
    assert main(["extent", str(series)]) == 0
    assert capsys.readouterr().out == "2 slices\n"
    assert main(["extent", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    sys.modules.pop("scripts.app.commands.extent")
