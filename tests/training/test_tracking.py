"""`--tracking mlflow` keeps the curve in the output folder, by `bioatt train` and by MONAI's own command."""

from __future__ import annotations

import csv
import importlib.util

import pytest
from made_studies import SMALL_TRAINING, write_patients
from monai.bundle import ConfigWorkflow
from scripts.app.command_line import main
from scripts.workflow import BUNDLE_ROOT, CONFIGS

SETTINGS = SMALL_TRAINING | {
    "views": 60,
    "batch_size": 2,
    "steps_per_epoch": 4,
    "tensorboard": False,
    "train#trainer#max_epochs": 2,
    "val_interval": 1,
    "train_patients": ["A"],
    "validation_patients": ["B"],
}
needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed (python -m pip install 'mlflow>=3.13')"
)


def by_bioatt(data, out):
    words = [f"{key}={value}".replace("'", '"').replace("False", "false") for key, value in SETTINGS.items()]
    assert main(["train", str(data), str(out), "--tracking", "mlflow", "--set", *words]) == 0


def by_monai(data, out):
    """What `python -m monai.bundle run training --tracking mlflow` does."""
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        run_id="training",
        workflow_type=None,
        tracking="mlflow",
        bundle_root=str(BUNDLE_ROOT),
        dataset_dir=str(data),
        output_dir=str(out),
        **SETTINGS,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@needs_mlflow
@pytest.mark.slow
@pytest.mark.parametrize("train", [by_bioatt, by_monai])
def test_the_curve_is_tracked_in_the_output_folder_and_nowhere_else(tmp_path, monkeypatch, train):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data, out, here = write_patients(tmp_path / "data", "AB", 2), tmp_path / "out", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    train(data, out)
    assert list(here.iterdir()) == []
    assert {"mlruns.db", "model.pt"} <= {path.name for path in out.iterdir()}
    client = mlflow.MlflowClient(f"sqlite:///{out}/mlruns.db")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    tracked = [one.value for one in client.get_metric_history(run.info.run_id, "denoised_psnr_db")]
    curve = [float(row["psnr_db"]) for row in csv.DictReader((out / "curve.csv").open())]
    assert tracked == pytest.approx(curve, abs=0.01)
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 2
    assert len(list(out.glob("config_*.json"))) == 1, "what was run"


def test_without_mlflow_the_remedy_is_told(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    assert main(["train", str(tmp_path), str(tmp_path / "out"), "--tracking", "mlflow"]) == 2
    assert "pip install 'mlflow>=3.13'" in capsys.readouterr().err and not (tmp_path / "out").exists()
