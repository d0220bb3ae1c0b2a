"""Configs of 0.3.2, as users copied them, run on the code of today, or are refused with the new name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import monai.bundle
import pytest
from phantom import write_ct_series
from scripts.errors import BioAttError, find_bioatt_error
from scripts.former_keys import FORMER_KEYS
from scripts.volumes import load_volume
from scripts.workflow import check_configs, check_overrides, open_workflow

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
def run_here(bundle_root, monkeypatch):
    """The same within this process, which has imported all: what went wrong, in words; nothing if nothing did."""

    def start(run_id, file, **overrides):
        words = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
        program = str(Path(monai.bundle.__file__).with_name("__main__.py"))
        monkeypatch.setattr(sys, "argv", [program, "run", run_id, "--config_file", str(file), *words])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.chdir(bundle_root)
        try:
            monai.bundle.run(run_id, meta_file="configs/metadata.json", config_file=str(file), **overrides)
        except Exception as error:
            return str(find_bioatt_error(error) or error)
        return ""

    return start


def in_hu(text):
    """An inference config without the transforms that took the volume to network range and back."""
    config = json.loads(text)
    for name in ("preprocessing", "postprocessing"):
        transforms = config[name]["transforms"]
        kept = [one for one in transforms if not one["_target_"].endswith(("HUToNetworkd", "NetworkToHUd"))]
        assert len(kept) == len(transforms) - 1
        config[name]["transforms"] = kept
    return json.dumps(config)


@pytest.fixture
def series(tmp_path):
    return write_ct_series(tmp_path / "series", shape=(64, 64), spacing=(5.0, 5.0), slices=2, noise_sd=20.0)


def test_a_name_that_moved_is_told_by_its_new_one(run_here, series, tmp_path):
    text = in_hu((OLD / "inference.json").read_text()).replace("scripts.inferers", "scripts.inference")
    text = text.replace('"$scripts.data.scope_path(@weights)"', "null").replace(
        '"bf16": "@bf16"', '"precision": "auto"'
    )
    (tmp_path / "inference.json").write_text(text)
    places = {"dataset_dir": str(series), "output_dir": str(tmp_path / "out")}
    told = run_here("inference", tmp_path / "inference.json", **places, strength="high")
    assert "is scripts.inference.InferenceSummary now" in told


def test_inference_of_then_runs_when_told_so(run_here, series, tmp_path):
    text = (OLD / "inference.json").read_text().replace("evaluation.InferenceSummary", "inference.InferenceSummary")
    text = text.replace('"$scripts.data.scope_path(@weights)"', "null")  # the recipe tells it
    places = {"dataset_dir": str(series), "output_dir": str(tmp_path / "out")}
    file = tmp_path / "inference.json"
    file.write_text(text)
    told = run_here("inference", file, **places, strength="high")
    assert "leave HUToNetworkd out of preprocessing" in told
    text = in_hu(text)
    file.write_text(text)
    assert "bf16 (true or false) is precision now" in run_here("inference", file, **places, strength="high")
    file.write_text(text.replace('"bf16": "@bf16"', '"precision": "auto"'))
    assert "strength is 1.0, expected low, standard or high" in run_here("inference", file, **places)
    assert run_here("inference", file, **places, strength="high") == ""
    assert load_volume(tmp_path / "out").hu.shape == load_volume(series).hu.shape


def test_settings_of_then_are_refused_and_told_by_what_took_their_place(bundle_root, tmp_path):
    old = json.loads((OLD / "train.json").read_text())
    (tmp_path / "train.json").write_text(
        (OLD / "train.json").read_text().replace("scripts.inferers", "scripts.inference")
    )
    done = run(bundle_root, "training", tmp_path / "train.json", dataset_dir=tmp_path, output_dir=tmp_path / "out")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: config train.json is of an older version: ")
    assert "slices_per_batch is gone: batch_size says" in line and "noise_gain is gone: it is augmentation#" in line
    now = json.loads((bundle_root / "configs" / "train.json").read_text())
    gone = {key for key in old if key not in now}
    assert gone <= set(FORMER_KEYS) and all(f"{key} is gone" in line for key in gone)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", sorted(FORMER_KEYS))
def test_an_override_of_then_is_told_by_what_took_its_place(bundle_root, key):
    config = "inference.json" if key == "bf16" else "train.json"  # training has it still
    with pytest.raises(BioAttError, match=f"--{key}: {key} is gone: {re.escape(FORMER_KEYS[key])}"):
        check_overrides([key], [bundle_root / "configs" / config])
    check_overrides(["augmentation#noise_gain"], [bundle_root / "configs" / "train.json"])


def test_a_config_of_then_is_told_by_what_took_its_place():
    with pytest.raises(BioAttError, match="no config second_stage.json in the bundle; .* shipped.json trains"):
        open_workflow("training", ["train.json", "second_stage.json"], {})


@pytest.mark.parametrize(
    "name", ["train.json", "paper.json", "shipped.json", "refined.json", "evaluate.json", "multi_gpu_train.json"]
)
def test_no_config_of_ours_has_a_setting_that_is_gone(bundle_root, name):
    check_configs([bundle_root / "configs" / name])


def test_names_that_moved_are_found():
    from scripts import data, inference, inferers, training, volumes

    assert data.SaveSeries is volumes.SaveSeries and data.LoadPaird is training.LoadPaird
    assert inferers.SlicePriorInferer is inference.SlicePriorInferer


@pytest.mark.parametrize("name", ["scope_path", "write_scope", "make_targets", "RandPairPatchesd"])
def test_names_that_are_no_more_are_refused_with_what_took_their_place(name):
    from scripts import data

    with pytest.raises(BioAttError, match=f"scripts.data.{name} of 0.3.2 is gone: .*(recipe|PatchBatches)"):
        getattr(data, name)
    assert not hasattr(data, "nothing")


@pytest.mark.parametrize("name", ["begin_with", "join_processes", "leave_processes"])
def test_steps_of_a_training_that_have_another_name_now_are_told_by_it(name):
    from scripts import training

    with pytest.raises(BioAttError, match=f"scripts.training.{name} is scripts.training.(initialise_from|.*group) now"):
        getattr(training, name)
    assert not hasattr(training, "nothing")
