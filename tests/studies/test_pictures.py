"""Pictures at full resolution: chosen by rule, in one window, beside a Gaussian of equal noise."""

import json
from dataclasses import replace

import numpy as np
import pytest
from phantom import write_ct_series
from PIL import Image
from scripts.dose.image_noise import noise_sd_hu

from studies.evidence.bench import Bench
from studies.evidence.methods import equal_gaussian_mm, gaussian_noises, gaussians
from studies.evidence.pictures import FOOT_PIXELS, GAP_PIXELS, LABEL_PIXELS, measure_pictures, write_panels
from studies.evidence.pictures_page import pictures_section
from studies.measures.baselines import gaussian


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_ct_series(root / "ct" / "A", shape=(160, 160), spacing=(2.2, 2.2), slices=6, noise_sd=12.0, seed=0)
    return Bench(root, root / "work", ["A"], slices=3)


def test_the_worst_and_the_best_are_shown(bench, tmp_path):
    plain = gaussians()
    method = replace(plain, settings={"low": plain.settings["0.5 mm"], "standard": plain.settings["1 mm"]})
    result = json.loads(json.dumps(measure_pictures(bench, method, tmp_path)))
    left = {one["rank"]: one["error_left"] for one in result["pictures"].values()}
    assert left["worst"] >= left["second worst"] >= left["best"] and left["worst"] >= left["middle"]
    assert all(one["gaussian_mm"] == pytest.approx(1.0, abs=0.05) for one in result["pictures"].values())
    page = pictures_section(result, tmp_path)
    for name in (*result["pictures"], result["front"]):
        assert Image.open(tmp_path / name).convert("L").size[0] > 200 and (name in page or name == "front.png")


def test_a_gaussian_of_equal_noise_leaves_as_much(bench):
    one = bench.patients[0].slices[0]
    wanted = noise_sd_hu(gaussian(one.low_hu, 1.3, one.spacing_mm), one.plane.flat)
    found = equal_gaussian_mm(gaussian_noises(one.low_hu, one.plane.flat, one.spacing_mm), wanted)
    assert found == pytest.approx(1.3, abs=0.08)
    left = noise_sd_hu(gaussian(one.low_hu, found, one.spacing_mm), one.plane.flat)
    assert left == pytest.approx(wanted, rel=0.05)


def test_panels_keep_every_pixel(tmp_path):
    image = np.arange(-160.0, 240.0, 1.0).reshape(20, 20)
    write_panels(tmp_path / "p.png", {"a": image, "b": -image}, columns=2, spacing_mm=2.0, taken_hu={"c": image / 10})
    pixels = np.asarray(Image.open(tmp_path / "p.png"))
    assert pixels.shape == (2 * (20 + LABEL_PIXELS) + FOOT_PIXELS, 40 + GAP_PIXELS)
    expected = ((image + 160) / 400 * 255).round()
    assert np.abs(pixels[LABEL_PIXELS:][:20, :20] - expected).max() <= 1
    taken = ((image / 10 + 60) / 120 * 255).round()
    assert np.abs(pixels[20 + 2 * LABEL_PIXELS :][:20, :20] - taken).max() <= 1
    bar = (pixels[-FOOT_PIXELS // 2] == 0).nonzero()[0]
    assert bar[:25].tolist() == list(range(2, 27)), "5 cm are 25 pixels of 2 mm"
