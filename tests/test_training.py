"""The training and evaluation workflows, run for real and small: files, curve, learning, clear errors."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from scripts.command_line import main
from scripts.networks import BioAtt, load_weights
from scripts.phantom import write_ct_series

SMALL = [
    "views=60",
    "prior=uniform",
    "network_def#channels=4",
    "patch_shape=[32,32]",
    "patches_per_slice=4",
    "num_workers=0",
    "learning_rate=0.003",
    "train#trainer#max_epochs=6",
    "val_interval=3",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    for seed, name in enumerate(("A", "B")):
        write_ct_series(root / name, shape=(96, 96), spacing=(3.5, 3.5), slices=3, noise_sd=12.0, seed=seed)
    return root


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A finished small training on patient A."""
    out = tmp_path_factory.mktemp("run")
    assert main(["train", str(dataset), str(out), "--validate", "B", "--set", *SMALL]) == 0
    return out


def test_training_leaves_weights_curve_checkpoint_and_validation(run):
    network = load_weights(BioAtt(channels=4), run / "model.pt")
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    checkpoint = torch.load(next(run.glob("checkpoint*.pt")), weights_only=True)
    assert set(checkpoint) == {"network", "optimizer", "lr_scheduler"}
    assert list(json.loads((run / "validation.json").read_text())["patients"]) == ["B"]


def test_the_curve_has_a_line_an_epoch_and_the_loss_falls(run):
    rows = list(csv.DictReader((run / "curve.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert [bool(row["psnr_db"]) for row in rows] == [False, False, True, False, False, True]


def test_the_patient_that_validates_is_not_simulated_for_training(run):
    recipes = [folder for folder in (run / "cache").iterdir() if folder.is_dir()]
    assert sorted(len(list(folder.glob("*.npz"))) for folder in recipes) == [3, 3]


def test_evaluation_measures_the_weights_it_is_given(run, dataset, tmp_path):
    words = [str(dataset), str(tmp_path / "out"), "--validate", "B", "--weights", str(run / "model.pt")]
    assert main(["evaluate", *words, "--set", *SMALL[:3]]) == 0
    measured = json.loads((tmp_path / "out" / "evaluation.json").read_text())["patients"]["B"]
    trained = json.loads((run / "validation.json").read_text())["patients"]["B"]
    for image in ("low", "denoised"):  # the same but for rounding: evaluation lays the weights out otherwise
        assert measured[image] == pytest.approx(trained[image], rel=1e-4, nan_ok=True)
    assert measured["low"]["psnr_db"] != measured["denoised"]["psnr_db"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--validate", "Z"], "patients Z are not in"),
        (
            ["--validate", "B", "--set", 'train_patients=["B"]'],
            "patients B are in train_patients and validate_patients",
        ),
        (["--validate", "B", "--set", "learning_rat=1"], "unknown config override --learning_rat: .*learning_rate"),
        (["--validate", "B", "--set", "prior"], "wanted KEY=VALUE"),
    ],
)
def test_bad_settings_are_one_line(dataset, tmp_path, capsys, words, message):
    assert main(["train", str(dataset), str(tmp_path / "out"), *words]) == 2
    import re

    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and re.search(message, error)
    assert not (tmp_path / "out" / "model.pt").exists()


def test_a_missing_dataset_is_one_line(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none"), str(tmp_path / "out"), "--validate", "B"]) == 2
    assert "is not a folder" in capsys.readouterr().err.splitlines()[-1]
