"""Training in two processes with torchrun: the same weights as one process with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import scripts.training
import torch
from made_studies import SMALL_TRAINING
from monai.bundle import ConfigParser
from phantom import write_ct_series
from scripts.errors import BioAttError
from scripts.training.loop import is_first_process, local_device, start_process_group

SETTINGS = SMALL_TRAINING | {
    "views": 60,
    "batch_size": 4,
    "steps_per_epoch": 4,
    "learning_rate": 0.003,
    "bf16": False,
    "train#trainer#max_epochs": 3,
    "val_interval": 3,
    "train_patients": ["A"],
    "validation_patients": ["B"],
}


def start(command, configs, dataset, out, bundle_root, **settings):
    """Run `monai.bundle run training` under `command` and return the finished process."""
    files = [str(bundle_root / "configs" / name) for name in configs]
    overrides = {"dataset_dir": dataset, "output_dir": out, "cache_dir": dataset.parent / "cache"} | SETTINGS | settings
    words = [word for key, value in overrides.items() for word in (f"--{key}", _text(value))]
    arguments = ["-m", "monai.bundle", "run", "training", "--bundle_root", str(bundle_root)]
    return subprocess.run(
        [*command, *arguments, "--config_file", str(files), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )


def _text(value):
    return value if isinstance(value, str) else str(value) if not isinstance(value, list) else json.dumps(value)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path, bundle_root):
    dataset = tmp_path / "data"
    for seed, (name, slices) in enumerate((("A", 4), ("B", 3))):
        write_ct_series(dataset / name, shape=(96, 96), spacing=(3.5, 3.5), slices=slices, noise_sd=12.0, seed=seed)
    one = start([sys.executable], ["train.json"], dataset, tmp_path / "one", bundle_root)
    assert one.returncode == 0, one.stderr[-2000:]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    configs = ["train.json", "multi_gpu_train.json"]
    two = start(torchrun, configs, dataset, tmp_path / "two", bundle_root)
    assert two.returncode == 0, two.stderr[:6000]
    expected = torch.load(tmp_path / "one" / "model.pt", weights_only=True)
    found = torch.load(tmp_path / "two" / "model.pt", weights_only=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    summaries = [json.loads((tmp_path / run / "validation.json").read_text()) for run in ("one", "two")]
    slices = [[one["slices"] for one in summary["patients"].values()] for summary in summaries]
    assert slices == [[3], [3]], "each slice is validated once, by one of the processes"
    assert two.stdout.count("epoch 3/3") == 1, "one process speaks"
    assert len(list((tmp_path / "two").glob("checkpoint*"))) == 1


def test_without_torchrun_the_config_says_so(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(BioAttError, match="start it with torchrun"):
        start_process_group()


def test_rank_and_device_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_process()
    assert local_device() == (torch.device("cuda", 1) if torch.cuda.is_available() else torch.device("cpu"))


@pytest.mark.parametrize(("rank", "written"), [("0", 1), ("1", 0)])
def test_only_the_first_process_writes_the_recipe(bundle_root, monkeypatch, rank, written):
    monkeypatch.setenv("RANK", rank)
    calls = []
    monkeypatch.setattr(scripts.training, "training_recipe", lambda **settings: calls.append(settings))
    parser = ConfigParser()
    parser.read_config([bundle_root / "configs" / name for name in ("train.json", "multi_gpu_train.json")])
    parser["scope"], parser["prior"] = None, "uniform"
    parser.get_parsed_content("recipe")
    assert len(calls) == written
