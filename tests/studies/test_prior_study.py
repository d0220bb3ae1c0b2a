"""Priors for the study: the oracle table by SOPInstanceUID, models by patient left out, figures and page."""

from __future__ import annotations

import json

import pytest
import torch
from scripts.dicom import find_series
from scripts.dicom.phantom import write_ct_series
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS, SliceKey, make_prior
from scripts.training.studies import pseudonym_of
from scripts.workflow import run_workflow

from studies.compact_prior_evaluation import read_labels
from studies.prior_study import SHOWN, dose_distances, left_out_model, main, oracle_rows, write_oracle

LIVER, LUNGS = DESCRIPTORS.index("liver"), DESCRIPTORS.index("lungs")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three patients, each with a series of 8 slices."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate("ABC"):
        write_ct_series(root / name, shape=(256, 256), spacing=(1.4, 1.4), slices=8, noise_sd=12.0, seed=seed)
    return root


@pytest.fixture(scope="module")
def labels(data, tmp_path_factory):
    """The lower half of each series shows the liver, the upper half the lungs."""
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    lines = ["patient,descriptor,z_from_mm,z_to_mm"]
    for name in "ABC":
        z = heights(data / name)
        lines += [f"{name},liver,{z[0]},{z[3]}", f"{name},lungs,{z[4]},{z[7]}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def heights(folder):
    (series,) = find_series(folder)
    return [float(series.affine[2][3] + series.affine[2][2] * index) for index in range(len(series.slice_names))]


def test_the_oracle_is_the_annotation_smoothed_along_z(data, labels):
    ranges = read_labels(labels)["A"]
    exact = torch.stack([prior for _, prior in oracle_rows(data / "A", ranges, smooth_mm=0)])
    smooth = torch.stack([prior for _, prior in oracle_rows(data / "A", ranges, smooth_mm=6)])
    assert torch.equal(exact[:, LIVER], torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(smooth.sum(1), torch.ones(8))
    assert (smooth[1:, LIVER] <= smooth[:-1, LIVER]).all() and 0.5 < smooth[3, LIVER] < 1

    def largest_step(prior):
        return (prior[1:] - prior[:-1]).abs().sum(1).max()

    assert largest_step(smooth) < largest_step(exact)


def test_the_oracle_table_is_read_by_uid_alone_and_names_nobody(data, labels, tmp_path):
    path = write_oracle(data, tmp_path / "priors" / "oracle.csv", labels)
    table = make_prior(f"table:{path}")
    (series,) = find_series(data / "B")
    prior = table(torch.zeros(2, 4, 4), [SliceKey(99, series.slice_names[index]) for index in (0, 7)])
    assert prior[0].argmax() == LIVER and prior[1].argmax() == LUNGS
    assert "annotation by eye" in table.model and str(data) not in path.read_text()


@pytest.fixture(scope="module")
def made(data, labels, tmp_path_factory):
    """Everything, with models of two steps."""
    out = tmp_path_factory.mktemp("made")
    words = [str(data), str(out), "--labels", str(labels), "--steps", "2", "--page", str(out / "page.md")]
    assert main(words) == 0
    return out


def test_each_patient_has_a_model_that_never_saw_them(made):
    for name in "ABC":
        folder = made / "compact" / pseudonym_of(name)
        record = json.loads((folder / "figures.json").read_text())
        assert list(record["held_out"]) == [name] and name not in record["trained_on"]
        assert len(record["trained_on"]) == 2 and make_prior(f"local-dir:{folder}").digest == record["digest"]


def test_figures_and_page_tell_accuracy_and_distances(made):
    figures = json.loads((made / "figures.json").read_text())
    assert figures["steps"] == 2 and set(figures["patients"]) == set("ABC")
    for one in figures["patients"].values():
        assert set(SHOWN) <= set(one) and 0 <= one["quarter_dose_tv"] <= one["quarter_dose_tv_max"] <= 1
    assert json.loads((made / "page.json").read_text()) == figures
    page = (made / "page.md").read_text()
    assert "not BiomedCLIP" in page and f"{figures['patients']['A']['tv_to_target']:g}" in page


def test_the_noise_of_a_lower_dose_reaches_the_model(data):
    distances = dose_distances(make_prior("compact"), data / "A")
    assert 0 < distances["quarter_dose_tv"] <= distances["quarter_dose_tv_max"] < 1


def test_a_model_that_is_there_is_kept_and_another_recipe_refused(data, labels, made):
    folder = made / "compact" / pseudonym_of("A")
    before = (folder / "open_clip_model.safetensors").stat().st_mtime_ns
    assert left_out_model(data, folder, labels, "A", seed=0, steps=2)["held_out"].keys() == {"A"}
    assert (folder / "open_clip_model.safetensors").stat().st_mtime_ns == before
    for patient, steps in (("A", 3), ("B", 2)):
        with pytest.raises(BioAttError, match="was made with seed 0, 2 steps, A left out"):
            left_out_model(data, folder, labels, patient, seed=0, steps=steps)


def test_a_patient_without_a_folder_is_one_line(tmp_path, labels, capsys):
    assert main([str(tmp_path), str(tmp_path / "out"), "--labels", str(labels)]) == 2
    assert capsys.readouterr().out.startswith("error: ")


def test_training_takes_the_oracle(data, made, tmp_path):
    small = {"views": 30, "network_def#widths": [4, 6], "patch_shape": [32, 32], "tensorboard": False}
    small |= {"train#trainer#max_epochs": 1, "val_interval": 1, "prior": f"table:{made / 'oracle.csv'}"}
    places = {"dataset_dir": str(data), "output_dir": str(tmp_path / "out"), "validation_patients": ["C"]}
    run_workflow("training", ["train.json"], places | small)
    assert (tmp_path / "out" / "model.pt").exists()
