"""The plane as a part of the evidence: its figures, its limits and its page, on one small series."""

import json
import shutil

import pytest
from made_studies import save_default_network
from phantom import write_ct_series
from scripts.errors import BioAttError

from studies.evidence.bench import Bench, patient_folder
from studies.evidence.plane import above_gaussian, best_error, contrast_at_noise, measure_plane, plane_limits
from studies.evidence.plane_page import plane_section

STRENGTHS = {"low": (0.7, 0.0), "standard": (1.0, 0.0), "high": (1.6, 0.3)}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    root = tmp_path_factory.mktemp("plane")
    write_ct_series(root / "ct" / "A", shape=(160, 160), spacing=(2.2, 2.2), slices=3, noise_sd=12.0, seed=0)
    weights = save_default_network(root / "w.pt")
    bench = Bench(root, root / "work", ["A"], slices=1)
    result = measure_plane(bench, None, weights=weights, prior="uniform", strengths=STRENGTHS, old=(weights, "uniform"))
    return root, json.loads(json.dumps(result).replace("NaN", "null"))


def test_all_methods_are_judged_at_all_settings(measured):
    _, result = measured
    assert {name: len(of) for name, of in result["figures"].items()} == {
        "network": 3,
        "0.3.2": 3,
        "network, random prior": 1,
        "Gaussian": 18,
        "non-local means": 4,
        "total variation": 4,
    }
    assert list(result["figures"]["network"]) == list(STRENGTHS) == list(result["strengths"])
    assert result["patients"]["A"]["alpha2"] == pytest.approx(3.0) and "photons" in result["patients"]["A"]["noise"]


def test_a_gaussian_is_at_equal_noise_with_itself(measured):
    found = measured[1]["figures"]
    for of in list(found["Gaussian"].values())[2:8]:
        assert above_gaussian(found, of["A"], "A", "10") == pytest.approx(0.0, abs=1e-6)
    errors = [of["A"]["error_hu2"]["body"] for of in found["Gaussian"].values()]
    assert best_error(found, "Gaussian", "A", "body") == min(errors)


def test_the_limits_notice_a_network_that_keeps_nothing(measured):
    found = json.loads(json.dumps(measured[1]["figures"]))
    names = {limit["name"]: limit["kept"] for limit in measured[1]["limits"]}
    for of in found["network"].values():
        of["A"] |= {"contrast": {"4": 0.1, "6": 0.1, "10": 0.1}, "noise_left": 0.5}
        of["A"]["error_hu2"] = dict.fromkeys(of["A"]["error_hu2"], 1e6)
        of["A"]["bias_hu"] = dict.fromkeys(of["A"]["bias_hu"], 2.0)
        of["A"]["edges_mm"] = {"body": [2.0, 2.5]}
    limits = plane_limits(found, {"BM3D": found["non-local means"], "network": found["network"]})
    assert names.keys() - {limit.name for limit in limits} == {name for name in names if "bone edge" in name}, (
        "each limit is looked at again"
    )
    assert [limit.name for limit in limits if limit.kept] == [
        name for name in names if name.startswith("standard: mean frequency") and names[name]
    ]
    assert any(limit.name == "A, high: error of edges over that of BM3D" for limit in limits)


def test_the_page_says_what_was_measured(measured):
    root, result = measured
    text = plane_section(result, root)
    assert (root / "plane.png").is_file() and text.startswith("## Noise left and contrast kept, patients left out")
    kept = result["figures"]["network"]["standard"]["A"]["contrast"]["4"]
    assert "| network | standard | " in text and f" {kept:.0%} (n = 1) |" in text
    low = result["figures"]["Gaussian"]["0 mm"]["A"]["error_hu2"]["edges"]
    assert f"| A | edges | {low:.1f} |" in text and "| A | 1 | 2.20 |" in text
    assert "nan" not in text


def test_figures_are_kept_and_read_again(measured, monkeypatch):
    root, result = measured
    monkeypatch.setattr("studies.evidence.bench.evaluate", lambda *_: pytest.fail("evaluated again"))
    bench = Bench(root, root / "work", ["A"], slices=1)
    again = measure_plane(
        bench, None, weights=root / "w.pt", prior="uniform", strengths=STRENGTHS, old=(root / "w.pt", "uniform")
    )
    assert json.loads(json.dumps(again).replace("NaN", "null"))["figures"] == result["figures"]
    shutil.rmtree(root / "work")


def test_a_patient_who_is_not_there_is_named(tmp_path):
    with pytest.raises(BioAttError, match="no B in ct or ct_patients"):
        patient_folder(tmp_path, "B")


def test_the_baseline_is_read_between_its_settings_up_to_where_it_leaves_least():
    settings = ((1.0, 1.0), (0.4, 0.7), (0.2, 0.3), (0.3, 0.1))
    curve = [{"noise_left": noise, "contrast": {"4": contrast}} for noise, contrast in settings]
    wanted = {1.2: 1.0, 0.7: 0.85, 0.3: 0.5, 0.1: 0.3}
    for noise, contrast in wanted.items():
        assert contrast_at_noise(curve, noise, "4") == pytest.approx(contrast)
