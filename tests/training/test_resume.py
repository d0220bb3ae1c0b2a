"""A training that is killed goes on where it stopped and ends with the same weights; checkpoints are whole."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from made_studies import SMALL_WORDS, write_patients
from scripts.app.command_line import main
from scripts.training.loop import clip_gradients

SMALL = [*SMALL_WORDS, "bf16=false", "train#trainer#max_epochs=8", "val_interval=4"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("dataset"), "AB", 3)


def words(dataset, out, *settings):
    """Arguments of `bioatt train`; all trainings share the cache."""
    cache = f"cache_dir={dataset.parent / 'cache'}"
    return ["train", str(dataset), str(out), "--validation", "B", "--set", *SMALL, cache, *settings]


def weights(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A training that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(words(dataset, out)) == 0
    return out


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_killed_training_ends_with_the_same_weights(dataset, whole, tmp_path, bundle_root):
    out = tmp_path / "out"
    code = "import sys; from scripts.app.command_line import main; sys.exit(main(sys.argv[1:]))"
    # Sums over other numbers of threads round otherwise.
    environment = {**os.environ, "PYTHONPATH": str(bundle_root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    # Epochs are as short as milliseconds: validating each one gives the kill something to interrupt.
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words(dataset, out, "val_interval=1")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while process.poll() is None and len(_epochs(out)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model.pt").exists(), "the training was over before it was killed"
    assert 1 <= torch.load(out / "checkpoint.pt", weights_only=True)["epoch"] < 8
    assert main(words(dataset, out, "resume=true")) == 0
    assert_same_weights(weights(out / "model.pt"), weights(whole / "model.pt"))
    assert _epochs(out) == _epochs(whole) == [str(epoch) for epoch in range(1, 9)]


def _epochs(out):
    path = out / "curve.csv"
    return [row["epoch"] for row in csv.DictReader(path.open())] if path.exists() else []


def test_stopping_and_going_on_twice_changes_nothing(dataset, whole, tmp_path):
    out = tmp_path / "out"
    for last in (3, 5):  # the schedule is that of all eight epochs
        settings = (f"train#trainer#max_epochs={last}", "lr_scheduler#T_max=8", "resume=true")
        assert main(words(dataset, out, *settings)) == 0
        (out / "model.pt").unlink()
    assert main(words(dataset, out, "resume=true")) == 0
    assert_same_weights(weights(out / "model.pt"), weights(whole / "model.pt"))


def test_the_best_weights_are_kept_and_the_checkpoint_has_everything(whole):
    checkpoint = torch.load(whole / "checkpoint.pt", weights_only=True)
    assert {"network", "optimizer", "lr_scheduler", "epoch", "iteration", "random", "best"} <= set(checkpoint)
    assert checkpoint["epoch"] == 8
    scores = [float(row["psnr_db"]) for row in csv.DictReader((whole / "curve.csv").open()) if row["psnr_db"]]
    assert checkpoint["best"] == pytest.approx(max(scores))
    assert weights(whole / "best.pt").keys() == checkpoint["network"].keys()


def test_an_unfinished_training_is_not_overwritten(dataset, whole, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    kept = (whole / "checkpoint.pt").read_bytes()
    (out / "checkpoint.pt").write_bytes(kept)
    assert main(words(dataset, out)) == 2
    assert "did not finish; go on with resume.json" in capsys.readouterr().err.splitlines()[-1]
    assert (out / "checkpoint.pt").read_bytes() == kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network_def#widths=[4,8]"], "choose the network_def it was trained with"),
        (["steps_per_epoch=5"], "go on with the same data and batch"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(dataset, whole, tmp_path, capsys, settings, message):
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoint.pt").write_bytes((whole / "checkpoint.pt").read_bytes())
    assert main(words(dataset, out, "resume=true", *settings)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "model.pt").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_corrupt_checkpoint_is_told_and_kept(dataset, whole, tmp_path, capsys, damage):
    out = tmp_path / "out"
    out.mkdir()
    whole_bytes = (whole / "checkpoint.pt").read_bytes()
    spoilt = {"cut": whole_bytes[: len(whole_bytes) // 2], "empty": b"", "text": b"no checkpoint"}[damage]
    (out / "checkpoint.pt").write_bytes(spoilt)
    assert main(words(dataset, out, "resume=true")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: checkpoint ") and "cannot be read" in error
    assert (out / "checkpoint.pt").read_bytes() == spoilt


def test_a_full_disk_keeps_the_checkpoint_before(dataset, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    real_replace, count = os.replace, 0

    def full_after_two(source, target):
        nonlocal count
        if str(target).endswith("checkpoint.pt"):
            count += 1
            if count > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", full_after_two)
    assert main(words(dataset, out)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoint.pt failed: No space left on device" in error
    assert torch.load(out / "checkpoint.pt", weights_only=True)["epoch"] == 2
    assert [path.name for path in out.iterdir() if "partial" in path.name] == []


def test_a_loss_that_is_no_number_stops_before_it_is_saved(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(words(dataset, out, "learning_rate=1e30", "gradient_norm=0.0")) == 2
    assert "the loss is" in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "model.pt").exists()


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 1.0), (0.0, 50.0), (100.0, 50.0)])
def test_gradients_are_clipped_to_their_total_norm(limit, expected):
    weights = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]
    optimizer = clip_gradients(torch.optim.SGD(weights, lr=1.0), limit)
    for weight, gradient in zip(weights, (30.0, 40.0), strict=True):
        weight.grad = torch.tensor([gradient])
    optimizer.step()
    assert torch.cat([weight.detach() for weight in weights]).norm().item() == pytest.approx(expected, rel=1e-4)
