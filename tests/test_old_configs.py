"""Configs of 0.3.2, as users copied them, run on the code of today, or are refused with the new name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_studies import SMALL_TRAINING, write_patients
from scripts.dicom.phantom import write_ct_series
from scripts.volumes import load_volume

OLD = Path(__file__).with_name("configs_0_3_2")


def run(bundle_root, run_id, files, **overrides):
    overrides["meta_file"] = "configs/metadata.json"
    words = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files), *words],
        cwd=bundle_root,
        env=os.environ | {"PYTHONPATH": str(bundle_root)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def series(tmp_path):
    return write_ct_series(tmp_path / "series", shape=(64, 64), spacing=(5.0, 5.0), slices=2, noise_sd=20.0)


def test_a_name_that_moved_is_told_by_its_new_one(bundle_root, series, tmp_path):
    text = (OLD / "inference.json").read_text().replace("scripts.inferers", "scripts.inference")
    (tmp_path / "inference.json").write_text(text)
    places = {"dataset_dir": series, "output_dir": tmp_path / "out"}
    done = run(bundle_root, "inference", tmp_path / "inference.json", **places, strength="high")
    assert done.returncode != 0
    assert "is scripts.inference.InferenceSummary now" in done.stderr + done.stdout


def test_inference_of_then_runs_when_told_so(bundle_root, series, tmp_path):
    text = (OLD / "inference.json").read_text().replace("evaluation.InferenceSummary", "inference.InferenceSummary")
    text = text.replace("scripts.inferers", "scripts.inference")
    (tmp_path / "inference.json").write_text(text)
    places = {"dataset_dir": series, "output_dir": tmp_path / "out"}
    done = run(bundle_root, "inference", tmp_path / "inference.json", **places)
    assert done.returncode != 0 and "strength is 1.0, wanted low, standard or high" in done.stderr + done.stdout
    done = run(bundle_root, "inference", tmp_path / "inference.json", **places, strength="high")
    assert done.returncode == 0, done.stderr
    assert load_volume(tmp_path / "out").hu.shape == load_volume(series).hu.shape


def test_training_of_then_runs(bundle_root, tmp_path):
    write_patients(tmp_path / "data", "ABC", 2)
    overrides = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out"} | SMALL_TRAINING
    overrides |= {"train#trainer#max_epochs": 1, "views": 60}
    (tmp_path / "train.json").write_text(
        (OLD / "train.json").read_text().replace("scripts.inferers", "scripts.inference")
    )
    done = run(bundle_root, "training", tmp_path / "train.json", **overrides)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.pt").is_file()
