"""An anchor for the lungs and one for the rest: what is found at equal noise, and what the page says of it."""

import json
import math

import numpy as np
import pytest
import torch
from phantom import write_ct_series
from scipy.ndimage import gaussian_filter
from scripts.dicom.phantom import HU
from scripts.evaluation.intervals import patient_interval
from scripts.priors import DESCRIPTORS

from studies.evidence.operating_point import (
    ANCHORS_MM,
    BODY,
    BY_HU,
    LUNG,
    ONE,
    PAIRS_MM,
    REST,
    at_equal_noise,
    chosen_slices,
    differences,
    lung_maps,
    patient_figures,
)
from studies.evidence.operating_point_page import conclusion, judge, operating_point_section, summary
from studies.evidence.patients import Patient


class Smoother:
    """A network that smooths, whatever its prior."""

    def prior(self, slice_hu, key):
        return None

    def output(self, slice_hu, prior):
        return gaussian_filter(np.asarray(slice_hu, np.float32), 1.5)


def dense(slices, keys):
    """Sure of lungs in the upper half."""
    priors = torch.full((1, len(DESCRIPTORS), 4, 4), 0.0)
    priors[:, DESCRIPTORS.index("lungs"), :2] = 1.0
    return priors


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    def organs(image, i):
        noisy = np.where(np.abs(image - HU["soft"]) < 1.0, 80.0, image)
        return noisy + np.random.default_rng(i).normal(0.0, 10.0, image.shape)

    folder = tmp_path_factory.mktemp("lungs") / "A"
    write_ct_series(folder, shape=(160, 160), spacing=(2.2, 2.2), slices=4, noise_sd=0.0, degrade=organs)
    return Patient.read(folder, seed=1)


@pytest.fixture(scope="module")
def found(patient):
    return patient_figures(patient, Smoother(), dense, seed=0)


def test_slices_with_lungs_and_soft_tissue_are_chosen_and_both_get_discs(patient):
    slices = chosen_slices(patient, 0)
    assert slices
    for index, discs in slices:
        full = patient.full(index)
        for region, one, _ in discs:
            wanted = HU["lung"] if region == LUNG else 80.0
            rows, columns = (slice(middle - 1, middle + 2) for middle in one.center)
            assert full[rows, columns].mean() == pytest.approx(wanted, abs=25.0)
    assert {region for _, discs in slices for region, _, _ in discs} == {LUNG, REST}


def test_lungs_are_found_by_hu_and_not_the_air_around(patient):
    index = chosen_slices(patient, 0)[0][0]
    maps = lung_maps(patient.low(index, 0.25), patient, index, dense)
    lungs, corner = np.abs(patient.full(index) - HU["lung"]) < 40.0, maps[BY_HU][:10, :10]
    assert maps[BY_HU][lungs].mean() > 0.8 and corner.max() == 0.0
    assert maps["lungs by the dense prior"][:60].min() > 0.9, "the prior's own places"


def test_one_anchor_that_is_wider_leaves_less_noise_and_contrast(found):
    noise = [found["figures"][f"{ONE}, {mm:g} mm"]["noise"][BODY] for mm in ANCHORS_MM]
    kept = [found["figures"][f"{ONE}, {mm:g} mm"]["contrast"][REST]["4"] for mm in ANCHORS_MM]
    assert noise == sorted(noise, reverse=True) and kept == sorted(kept, reverse=True) and noise[0] <= 1.01


def test_the_lungs_have_their_anchor_and_the_rest_its_own(found):
    fine, rest = PAIRS_MM[1]
    both = found["figures"][f"{BY_HU}, {fine:g} and {rest:g} mm"]
    for region, mm in ((LUNG, fine), (REST, rest)):
        alone = found["figures"][f"{ONE}, {mm:g} mm"]
        assert both["noise"][region] == pytest.approx(alone["noise"][region], abs=0.05)
        assert both["contrast"][region]["6"] == pytest.approx(alone["contrast"][region]["6"], abs=0.05)


def test_equal_noise_lies_between_the_anchors_and_not_beyond(found):
    figures = found["figures"]
    two = [figures[f"{ONE}, {mm:g} mm"] for mm in ANCHORS_MM[:2]]
    between = at_equal_noise(figures, float(np.mean([one["noise"][BODY] for one in two])))
    contrast = [100.0 * one["contrast"][REST]["4"] for one in two]
    assert min(contrast) <= between[f"contrast, {REST}, 4 mm"] <= max(contrast)
    assert all(math.isnan(value) for value in at_equal_noise(figures, 2.0).values())


def test_a_gain_needs_an_interval_without_zero():
    values = {"A": 1.0, "B": 1.1, "C": 0.9}
    of = {
        "contrast, lungs, 4 mm": patient_interval(values),
        "error, body": patient_interval(values),
        "noise, lungs": patient_interval(values),
        "contrast, lungs, 6 mm": patient_interval({"A": 1.0, "B": -1.0, "C": 0.1}),
    }
    assert judge(of) == (["contrast, lungs, 4 mm"], ["error, body"])


def test_the_page_says_what_was_found(found, tmp_path):
    patients = dict.fromkeys("ABC", found)
    one = {
        "dose_fraction": 0.25,
        "anchors_mm": list(ANCHORS_MM),
        "patients": patients,
        "without": ["D"],
        "differences": differences({name: of["figures"] for name, of in patients.items()}),
    }
    one = json.loads(json.dumps(one).replace("NaN", "null"))
    page, told = operating_point_section(one, tmp_path), conclusion(one)
    assert told.startswith("No way to anchor the lungs apart gains contrast without showing a loss")
    assert "points, at equal noise" in told and f"Of {2 * len(PAIRS_MM)} ways 0 gain something" in told
    assert "3 patients are few" in told and summary(one).startswith(told)
    assert "nan" not in page + told and "(D: no slice with both)" in page
    assert page.count(f"| {BY_HU}, ") == len(PAIRS_MM)
