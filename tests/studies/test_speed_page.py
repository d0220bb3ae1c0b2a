"""The page of speed says what was measured, and the stay at a GPU can be stopped and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_studies import write_patients
from meaning import page_meaning
from phantom import write_ct_series

from studies import gpu
from studies.speed_page import PAGE, box_lines, gpu_lines, measure_boxes, put, written

ROOT = Path(__file__).parents[2]


def test_the_page_is_that_of_the_results():
    page = PAGE.read_text(encoding="utf-8")
    assert page_meaning(written(page)) == page_meaning(page)
    with pytest.raises(ValueError, match="no place for other"):
        put(page, "other", [])


def test_boxes_of_a_made_series(tmp_path):
    write_ct_series(tmp_path / "a", shape=(64, 64), spacing=(5.0, 5.0), slices=2, noise_sd=5.0)
    found = measure_boxes([tmp_path])
    assert found["series"] == {"a": {"slices": 2, "air": 0, "share": 1.0}}, "the margin is larger than the image"
    assert "0% of the pixels are left out in the mean" in box_lines(found)[0]


def test_the_gpus_measurement_runs_anywhere(tmp_path, monkeypatch, weights):
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    words = [
        str(tmp_path / "gpu.json"),
        "--slices",
        "1",
        "--series",
        "2",
        "--training-slices",
        "2",
        "--side",
        "32",
        "--weights",
        str(weights),
    ]
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    assert gpu.main() == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["dtype"] for row in found["default network"]} == {"fp32", "bf16"} and found["stock RED-CNN"]
    assert found["parity"]["fp32"]["largest_hu"] < found["parity"]["bf16"]["largest_hu"]


def test_a_network_that_cannot_be_compiled_is_left_out(monkeypatch, tmp_path, capsys):
    def refuse(*_, **__):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(gpu, "loaded", refuse)
    assert gpu.compiled_speed(tmp_path, torch.device("cpu"), (1,), 32) == []
    assert capsys.readouterr().out == "not compiled: no compiler\n"


def test_a_second_measurement_goes_on_behind_the_first(tmp_path, monkeypatch):
    asked = []
    given = {name: lambda name=name: asked.append(name) or name for name in ("a", "b")}
    monkeypatch.setattr(gpu, "parts", lambda *_: given | {"c": lambda: 1 / 0})
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path / "gpu.json")])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            gpu.main()
        assert json.loads((tmp_path / "gpu.json").read_text()) == {"a": "a", "b": "b"}
    assert asked == ["a", "b"]


def test_noise_has_the_spectrum_of_ct():
    power = torch.fft.fft2(gpu.ct_noise(64, 64)).abs().square().mean(0)[0, :33]
    assert power[12:20].mean() > 3 * power[:2].mean() and power[12:20].mean() > 3 * power[31:].mean()


def test_the_page_tells_what_was_measured():
    run = dict.fromkeys(
        ("loading_seconds", "read_seconds", "prior_seconds", "network_seconds", "write_seconds", "seconds"), 0.5
    )
    row = {"dtype": "bf16", "batch": 16, "ms_per_slice": 0.4, "memory_mib": None}
    parity = {one: {"rms_hu": 0.1, "largest_hu": 1.0} for one in ("fp32", "bf16")}
    measured = {
        "device": "made",
        "torch": "2.0+cu1",
        "matrix_product_tflops": {"fp32": 50.0, "bf16": 500.0},
        "default network": [row],
        "parity": parity,
    }
    few = "\n".join(gpu_lines(measured))
    more = {
        "whole series": {"first": run | {"slices": 300}},
        "gflop_per_slice": 30.0,
        "inferer": [row],
        "training": {"steps_per_second": 90.0, "waiting_for_data": 0.1, "steps": 400},
        "anchored parity": parity,
        "compiled": [row],
    }
    lines = "\n".join(gpu_lines(measured | more))
    assert "| default network | bf16 | 16 | 0.40 |  |  |" in few and "series of" not in few
    assert "| default network, compiled | bf16 | 16 | 0.40 | 15% |  |" in lines
    for words in (
        "series of 300 slices",
        "90 steps a second; 10% of a step waits",
        "anchored at standard",
        ": 0.40 (16)",
    ):
        assert words in lines


def stay(out, **settings):
    given = os.environ | {"PYTHON": sys.executable, "WHEELS": "none"} | settings
    return subprocess.run([ROOT / "studies" / "gpu.sh", *out], env=given, capture_output=True, text=True, timeout=300)


def test_a_stay_trains_goes_on_and_ends(tmp_path):
    write_patients(tmp_path / "data", "ABC", 2)
    words = (
        "--prior uniform --network_def#widths [4,6] --patch_shape [32,32] --batch_size 4 --steps_per_epoch 4 --views 60"
    )
    settings = {"DATA": str(tmp_path / "data"), "CONFIGS": "train.json"}
    for epochs in (1, 2):
        (tmp_path / "out" / "train" / "model.pt").unlink(missing_ok=True)
        done = stay([tmp_path / "out", "train"], SETTINGS=f"{words} --train#trainer#max_epochs {epochs}", **settings)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out" / "train" / "model.pt").is_file()
    assert "epoch 2/2" in done.stdout + done.stderr and "epoch 1/2" not in done.stdout + done.stderr


def test_a_stay_without_time_leaves_it_at_that(tmp_path):
    (tmp_path / "data").mkdir()
    done = stay([tmp_path / "out"], DATA=str(tmp_path / "data"), SECONDS_IN_ALL="0")
    assert done.returncode == 0 and done.stdout.count("no time left") == 2
    assert stay([tmp_path / "out", "dance"]).returncode == 2
