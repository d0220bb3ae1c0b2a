"""The training and evaluation workflows, run for real and small: files, curve, learning, clear errors."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from made_studies import SMALL_WORDS, as_nifti, write_patients
from monai.bundle import ConfigParser
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.errors import BioAttError
from scripts.networks import BioAttUNet, load_weights
from scripts.training import LastValidation
from scripts.training.studies import pseudonym_of
from scripts.workflow import CONFIGS, run_workflow

SMALL = [*SMALL_WORDS, "train#trainer#max_epochs=6", "val_interval=3"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("dataset"), "AB", 3)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A finished small training on patient A."""
    out = tmp_path_factory.mktemp("run")
    assert main(["train", str(dataset), str(out), "--validation", "B", "--set", *SMALL]) == 0
    return out


def test_training_leaves_weights_curve_checkpoint_and_validation(run):
    network = load_weights(BioAttUNet(widths=[4, 6]), run / "model.pt")
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert {path.name for path in run.glob("*.pt")} == {"checkpoint.pt", "best.pt", "model.pt"}
    assert list((run / "tensorboard").glob("events*"))
    assert "epoch 6/6: loss " in (run / "log.txt").read_text()
    assert list(json.loads((run / "validation.json").read_text())["patients"]) == [pseudonym_of("B")]


def test_the_curve_has_a_line_an_epoch_and_the_loss_falls(run):
    rows = list(csv.DictReader((run / "curve.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert [bool(row["psnr_db"]) for row in rows] == [False, False, True, False, False, True]


def test_the_patient_that_validates_is_not_simulated_for_training(run):
    recipes = [folder for folder in (run / "cache").iterdir() if folder.is_dir()]
    assert sorted(len(list(folder.glob("*.npz"))) for folder in recipes) == [3, 3]


def test_evaluation_measures_the_weights_it_is_given(run, dataset, tmp_path):
    words = [str(dataset), str(tmp_path / "out"), "--patients", "B", "--weights", str(run / "model.pt")]
    bare = ["validate#inferer=@train#inferer", 'prepare_batch#extra_keys=["prior"]']  # as validation
    assert main(["evaluate", *words, "--set", *SMALL[:3], *bare]) == 0
    measured = json.loads((tmp_path / "out" / "evaluation.json").read_text())["patients"][pseudonym_of("B")]
    trained = json.loads((run / "validation.json").read_text())["patients"][pseudonym_of("B")]
    for image in ("low", "denoised"):  # the same but for rounding: evaluation lays the weights out otherwise
        both = {name: value for name, value in measured[image].items() if name in trained[image]}
        assert both.keys() == trained[image].keys(), "evaluation measures the same and in more windows"
        for name, value in trained[image].items():
            assert both[name] == (value if value is None else pytest.approx(value, rel=1e-4)), name
    assert measured["low"]["psnr_db"] != measured["denoised"]["psnr_db"]


def test_evaluation_judges_the_anchored_result(run, dataset, tmp_path):
    """From a small anchor, which gives the input, to a large one; in mm, by the spacing of the pairs."""
    changes = []
    for anchor_mm in ("0.05", "2", "10"):
        out = tmp_path / anchor_mm
        words = [str(dataset), str(out), "--patients", "B", "--weights", str(run / "model.pt")]
        assert main(["evaluate", *words, "--anchor-mm", anchor_mm, "--set", *SMALL[:3]]) == 0
        means = json.loads((out / "evaluation.json").read_text())["patients"][pseudonym_of("B")]
        changes.append(abs(means["denoised"]["rmse_hu"] - means["low"]["rmse_hu"]))
    assert changes[0] == pytest.approx(0, abs=1e-3) and changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--validation", "Z"], "patients Z are not in"),
        (
            ["--validation", "B", "--set", 'train_patients=["B"]'],
            "patients B are in train_patients and validation_patients",
        ),
        (["--validation", "B", "--set", "learning_rat=1"], "unknown config override --learning_rat: .*learning_rate"),
        (["--validation", "B", "--set", "prior"], "expected KEY=VALUE"),
    ],
)
def test_bad_settings_are_one_line(dataset, tmp_path, capsys, words, message):
    assert main(["train", str(dataset), str(tmp_path / "out"), *words]) == 2
    import re

    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and re.search(message, error)
    assert not (tmp_path / "out" / "model.pt").exists()


def test_the_split_beside_the_weights_is_evaluated_unless_patients_are_named(run, dataset, tmp_path, capsys):
    kept = json.loads((run / "split.json").read_text())
    assert kept == {"train": [pseudonym_of("A")], "validate": [pseudonym_of("B")], "test": []}
    words = [str(dataset), str(tmp_path / "out"), "--weights", str(run / "model.pt")]
    assert main(["evaluate", *words, "--set", *SMALL[:3]]) == 0
    measured = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(measured["patients"]) == kept["validate"]
    (tmp_path / "model.pt").write_bytes((run / "model.pt").read_bytes())
    assert main(["evaluate", str(dataset), str(tmp_path / "other"), "--weights", str(tmp_path / "model.pt")]) == 2
    assert "no patients to evaluate on" in capsys.readouterr().err


def test_a_missing_dataset_is_one_line(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none"), str(tmp_path / "out"), "--validation", "B"]) == 2
    assert "is not a folder" in capsys.readouterr().err.splitlines()[-1]


def test_a_trainer_is_given_the_measure_of_its_last_validation():
    validator = Engine(lambda engine, batch: None)
    validator.state.metrics = {"rmse": 3.0}
    trainer = Engine(lambda engine, batch: None)
    assert LastValidation(validator=validator, measure="rmse")(trainer) == 3.0
    assert LastValidation(validator=validator, measure="rmse", factor=-1.0)(trainer) == -3.0
    with pytest.raises(BioAttError, match="validation gives no ssim; use one of rmse"):
        LastValidation(validator=validator, measure="ssim")(trainer)


def test_the_papers_recipe_runs_and_is_the_papers(dataset, tmp_path):
    small = {"views": 60, "prior": "uniform", "network_def#channels": 4, "steps_per_epoch": 1}
    small["split_fractions"] = [0.34, 0.33, 0.33]  # of three slices
    places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / "out")}
    run_workflow("training", ["train.json", "paper.json"], places | small | {"train#trainer#max_epochs": 2})
    rows = list(csv.DictReader((tmp_path / "out" / "curve.csv").open()))
    assert [float(row["learning_rate"]) for row in rows] == [1e-5, 1e-5]
    validated = json.loads((tmp_path / "out" / "validation.json").read_text())["patients"]
    assert {name: one["slices"] for name, one in validated.items()} == {pseudonym_of(name): 1 for name in "AB"}
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "train.json"), str(CONFIGS / "paper.json")]))
    assert parser["network_def"] == {"_target_": "BioAtt", "channels": 96, "attention": "prior"}
    assert parser["loss"]["_target_"] == "torch.nn.MSELoss"
    assert parser["train::trainer::max_epochs"] == 30 and parser["patch_shape"] == [55, 55]


@pytest.mark.parametrize(
    "loss",
    ['{"_target_":"torch.nn.L1Loss"}', '{"_target_":"torch.nn.MSELoss"}', '{"_target_":"SSIMLoss","spatial_dims":2}'],
)
def test_other_losses_train(dataset, tmp_path, loss):
    few = SMALL_WORDS
    words = [str(dataset), str(tmp_path / "out"), "--validation", "B", "--set", *few, f"loss={loss}"]
    assert main(["train", *words, "train#trainer#max_epochs=3", "val_interval=3"]) == 0
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "out" / "curve.csv").open())]
    assert losses[-1] < losses[0]


def test_every_layout_trains_and_is_evaluated(tmp_path):
    """Mayo, TCIA and NIfTI pairs have their own low doses, a full-dose series gets simulated ones."""
    data = tmp_path / "data"
    places = {
        "mayo": ("L067/full_1mm", "L067/quarter_1mm"),
        "tcia": ("C002/01-01-2020-1/1.0-Full Dose Images-1", "C002/01-01-2020-1/2.0-Low Dose Images-2"),
    }
    small = {"shape": (96, 96), "spacing": (3.5, 3.5), "slices": 2}
    for seed, (name, (full, low)) in enumerate(places.items()):
        ima = {"name": "L067_{:04d}.IMA"} if name == "mayo" else {}
        write_ct_series(data / full, noise_sd=6.0, seed=seed, **small, **ima)
        write_ct_series(data / low, noise_sd=24.0, seed=seed + 10, **small, **ima)
    for seed, (dose, noise) in enumerate((("full", 6.0), ("low", 24.0))):
        write_ct_series(tmp_path / dose, noise_sd=noise, seed=seed + 20, **small)
        (data / "N").mkdir(exist_ok=True)
        as_nifti(tmp_path / dose, data / "N" / f"{dose}.nii.gz")
    write_ct_series(data / "F", noise_sd=12.0, seed=30, **small)
    out = tmp_path / "out"
    few = SMALL_WORDS
    words = [str(data), str(out), "--validation", "N", "--set", *few, "train#trainer#max_epochs=2", "val_interval=2"]
    assert main(["train", *words, 'test_patients=["C002"]']) == 0
    realisations = sorted(len(np.load(path)["low"]) for path in (out / "cache").glob("*/*.npz"))
    assert realisations == [1, 1, 1, 1, 3, 3], "two slices each: real doses of Mayo and NIfTI, three simulated ones"
    assert (
        main(["evaluate", str(data), str(tmp_path / "e"), "--weights", str(out / "model.pt"), "--set", *few[:3]]) == 0
    )
    assert list(json.loads((tmp_path / "e" / "evaluation.json").read_text())["patients"]) == [pseudonym_of("C002")]


def test_early_stop_ends_the_trainer_that_it_is_attached_to():
    from ignite.engine import Engine
    from scripts.training.loop import EarlyStop

    scores = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    trainer = Engine(lambda engine, batch: None)
    EarlyStop(2, lambda engine: next(scores)).attach(trainer)
    trainer.run([0], max_epochs=5)
    assert trainer.state.epoch == 4


def test_a_training_that_goes_on_stops_early_where_it_would_have_stopped(tmp_path):
    from ignite.engine import Engine
    from scripts.training.loop import Checkpoints, EarlyStop, WeightAverage

    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)

    def train(scores, epochs):
        """Train until `epochs`, Checkpoints attached before EarlyStop as in paper.json; return the last epoch."""
        trainer, validator = (Engine(lambda engine, batch: None) for _ in range(2))
        average = WeightAverage(network)
        Checkpoints(tmp_path, network, optimizer, schedule, validator, average, resume=True).attach(trainer)
        EarlyStop(3, lambda engine: scores[engine.state.epoch - 1]).attach(trainer)
        trainer.run([0], max_epochs=epochs)
        return trainer.state.epoch

    scores = [1.0, 3.0, 2.0, 2.5, 2.7, 2.8, 2.9]
    train(scores, epochs=4)  # two epochs without a higher score
    assert train(scores, epochs=7) == 5


def test_weights_take_the_recipe_of_their_own_training_along(tmp_path):
    from ignite.engine import Engine
    from scripts.networks import Recipe, read_recipe
    from scripts.training.loop import Checkpoints, WeightAverage

    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    published = tmp_path / "models" / "model.pt"
    published.parent.mkdir()

    def train(folder, recipe):
        trainer, validator = (Engine(lambda engine, batch: None) for _ in range(2))
        validator.state.epoch, validator.state.metrics = 1, {"denoised_psnr_db": 30.0}
        average = WeightAverage(network)
        Checkpoints(folder, network, optimizer, schedule, validator, average, recipe, publish=published).attach(trainer)
        trainer.run([0], max_epochs=1)

    for version in ("one", "two"):
        train(tmp_path / version, Recipe(version=version))
        assert read_recipe(published).version == version
        assert read_recipe(tmp_path / version / "best.pt").version == version
    train(tmp_path / "third", None)  # better none than that of other weights
    assert published.exists() and not published.with_name("model.json").exists()
