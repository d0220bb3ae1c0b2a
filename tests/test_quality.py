"""PSNR, SSIM, RMSE and edge widths against analytic cases."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr
from scripts.evaluation import ImageQuality, image_quality
from scripts.evaluation.edges import POSITIONS, edge_width, find_edge_lines
from scripts.evaluation.figures import comparison_figure
from scripts.hu import WINDOWS_HU


def test_a_constant_error_has_its_known_rmse_and_psnr():
    full = np.full((32, 32), 40.0)
    quality = image_quality(full + 8.0, full)
    assert quality["rmse_hu"] == pytest.approx(8.0)
    assert quality["psnr_db"] == pytest.approx(20 * math.log10(400 / 8))


def test_what_lies_outside_the_window_does_not_count():
    full = np.full((32, 32), -900.0)
    assert image_quality(full + 300.0, full)["rmse_hu"] == 0.0
    assert image_quality(full + 300.0, full, "lung")["rmse_hu"] == pytest.approx(300.0)
    with pytest.raises(KeyError):
        image_quality(full, full, "skin")


def test_ssim_falls_with_noise_and_is_one_for_the_same_image():
    generator = np.random.default_rng(0)
    full = gaussian_filter(generator.normal(size=(64, 64)), 3) * 300
    values = [image_quality(full + sd * generator.normal(size=full.shape), full)["ssim"] for sd in (0, 10, 40)]
    assert values[0] == pytest.approx(1.0) and values[0] > values[1] > values[2]


def engine_with(items, patients):
    output = [{key: torch.full((1, 32, 32), value) for key, value in item.items()} for item in items]
    batch = [{"patient": patient} for patient in patients]
    return SimpleNamespace(state=SimpleNamespace(output=output, batch=batch, metrics={}))


def test_the_handler_averages_by_patient_and_writes_low_and_denoised(tmp_path, capsys):
    handler = ImageQuality(tmp_path / "sub" / "q.json")
    items = [{"label": 40.0, "image": 40.0 + low, "pred": 40.0 + out} for low, out in ((8, 4), (16, 4), (8, 2))]
    engine = engine_with(items, ["A", "A", "B"])
    handler.start(engine)
    handler.measure(engine)
    handler.finish(engine)
    patients = json.loads((tmp_path / "sub" / "q.json").read_text())["patients"]
    assert patients["A"]["slices"] == 2 and patients["B"]["slices"] == 1
    assert patients["A"]["low"]["rmse_hu"] == pytest.approx(12.0)
    assert patients["A"]["denoised"]["rmse_hu"] == pytest.approx(4.0)
    assert engine.state.metrics["denoised_rmse_hu"] == pytest.approx(3.0), "patients weigh the same"
    assert "A: 2 slices" in capsys.readouterr().out


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_the_edge_width_of_a_blurred_step_is_that_of_the_gaussian(sigma):
    profile = -1000 + 1040 * ndtr(POSITIONS / sigma)
    assert edge_width(profile) == pytest.approx(2 * 1.2816 * sigma, rel=0.02)


def test_a_profile_that_does_not_rise_has_no_width():
    assert math.isnan(edge_width(np.full(len(POSITIONS), 3.0)))
    assert math.isnan(edge_width(-POSITIONS))


def disc(radius, inside, outside, sigma):
    rows, columns = np.ogrid[:128, :128]
    image = np.where((rows - 64) ** 2 + (columns - 64) ** 2 < radius**2, inside, outside).astype(float)
    return gaussian_filter(image, sigma)


@pytest.mark.parametrize(("edge", "inside", "outside"), [("body", 0.0, -1000.0), ("bone", 900.0, 30.0)])
def test_edges_are_found_and_measured_on_an_image(edge, inside, outside):
    widths = []
    for sigma in (1.0, 2.0):
        image = disc(40, inside, outside, sigma)
        lines = find_edge_lines(image, edge)
        assert len(lines.rows) > 100
        widths.append(edge_width(lines.profiles(image).mean(axis=0)))
    # pixels and interpolation widen the step a little
    assert widths[0] == pytest.approx(2.563 * 1.0, rel=0.15) and widths[1] == pytest.approx(2.563 * 2.0, rel=0.1)


def test_no_edge_gives_no_lines():
    assert find_edge_lines(np.full((64, 64), 40.0), "body").rows.shape == (0, len(POSITIONS))


def test_the_comparison_figure_is_a_picture(tmp_path):
    image = disc(40, 40.0, -1000.0, 1.0)
    comparison_figure(tmp_path / "x.png", {"a": image, "b": image + 5}, ("a", "b"), window_hu=WINDOWS_HU["abdomen"])
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
