"""Features and masks against the full dose, and the matrix of patients and doses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_studies import save_default_network
from phantom import write_ct_series

from studies.evidence import downstream_page, matrix
from studies.evidence.bench import Bench
from studies.evidence.downstream import (
    FULL,
    LOW,
    agreement,
    concordance,
    difference,
    measure_downstream,
    overlaps,
    region_features,
)
from studies.evidence.downstream_page import downstream_section
from studies.evidence.matrix import held, measure_matrix
from studies.evidence.matrix_page import matrix_section
from studies.evidence.methods import gaussians


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("downstream")
    write_ct_series(root / "ct" / "A", shape=(160, 160), spacing=(2.2, 2.2), slices=3, noise_sd=12.0, seed=0)
    return root


def test_concordance_is_one_for_equal_values_and_falls_with_scale_and_offset():
    values = np.random.default_rng(0).normal(10, 2, 200)
    assert concordance(values, values) == pytest.approx(1.0)
    assert concordance(values, values + 2.0) == pytest.approx(2 * values.var() / (2 * values.var() + 4.0))
    assert concordance(values, -values) < 0.0 and concordance([3.0, 3.0], [3.0, 3.0]) == 1.0


def test_features_of_known_regions():
    even, steps = np.full((24, 24), 60.0), np.where(np.arange(24) % 2, 60.0, -40.0) * np.ones((24, 1))
    of_even, of_steps = region_features(even + 1e-9 * steps), region_features(steps)
    assert of_even["mean"] == pytest.approx(60.0) and of_even["entropy"] == 0.0 and of_steps["entropy"] == 1.0
    assert of_steps["SD"] == 50.0 and of_steps["co-occurrence contrast"] == pytest.approx(3 / 4 * 16, rel=0.05)
    assert of_even["co-occurrence energy"] == 1.0


def test_masks_that_are_there_are_compared():
    full = np.full((40, 40), -1000.0)
    full[10:30, 10:30] = 50.0
    shifted = np.roll(full, 2, axis=0)
    assert overlaps(full, full) == {"body": 1.0}
    assert overlaps(full, shifted)["body"] == pytest.approx(18 / 20)


def test_agreement_has_an_interval_over_patients_and_none_below_three():
    generator = np.random.default_rng(1)
    full = {name: [{"mean": value} for value in generator.normal(0, 5, 8)] for name in "ABCD"}
    near = {name: [{"mean": one["mean"] + generator.normal()} for one in of] for name, of in full.items()}
    found = agreement(full, near)["mean"]
    everything = [[one["mean"] for of in side.values() for one in of] for side in (full, near)]
    assert found[0] == pytest.approx(concordance(*everything))
    lower, upper = found[1]
    assert 0.8 < lower < found[0] < upper < 1.0
    two = agreement({name: full[name] for name in "AB"}, {name: near[name] for name in "AB"})["mean"]
    assert two[1] is None
    assert agreement(full, full)["mean"][1] == pytest.approx([1.0, 1.0])


def test_the_difference_of_two_agreements_is_known_better_than_each():
    generator = np.random.default_rng(1)
    full = {name: [{"mean": value} for value in generator.normal(5 * i, 5 + i, 8)] for i, name in enumerate("ABCD")}
    near = {name: [{"mean": one["mean"] + generator.normal()} for one in of] for name, of in full.items()}
    far = {name: [{"mean": one["mean"] + generator.normal(0, 1.5)} for one in of] for name, of in near.items()}
    lower, upper = difference(full, near, far)["mean"]
    assert 0.0 < lower < upper
    assert difference(full, far, near)["mean"] == pytest.approx([-upper, -lower])
    assert difference(full, near, near)["mean"] == [0.0, 0.0]
    widths = [np.ptp(np.arctanh(agreement(full, of)["mean"][1])) for of in (near, far)]
    assert upper - lower < sum(widths)
    few = {name: full[name] for name in "AB"}
    assert difference(few, few, few)["mean"] is None


def test_the_page_counts_the_features_that_agree_better_and_less_well():
    found = downstream_page._told({"a": [0.1, 0.2], "b": [-0.3, -0.1], "c": [-0.1, 0.2], "d": None}, "the low dose's")
    assert found == "1 of 4 features agree better with the full dose than the low dose's (a), 1 less well (b)."


def test_the_full_dose_is_the_reference_of_all_images(data, tmp_path):
    plain = gaussians()
    network = replace(plain, name="network", settings={"standard": plain.settings["2 mm"]})
    result = json.loads(json.dumps(measure_downstream(Bench(data, data / "work", ["A"], slices=1), network)))
    assert set(result["concordance"]) == {LOW, "network, standard", "Gaussian, as standard"}
    ours, alike = (result["noise_hu"][name]["mean"] for name in ("network, standard", "Gaussian, as standard"))
    assert ours == pytest.approx(alike, rel=0.03) and ours < result["noise_hu"][FULL]["mean"]
    page = downstream_section(result, tmp_path)
    assert page.count("| Gaussian, as standard |") == 2 and "nan" not in page
    assert set(result["more_than"]["network, standard"]) == {LOW, "Gaussian, as standard"}


def test_a_cell_of_the_matrix_says_what_does_not_hold(data, tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "DOSES", (0.5, 0.25))
    weights = save_default_network(tmp_path / "w.pt")
    result = measure_matrix(
        data, data / "work", weights=weights, strength=("standard", (1.0, 0.0)), names=["A"], slices=1
    )
    result = json.loads(json.dumps(result).replace("NaN", "null"))
    assert list(result["doses"]) == ["0.5", "0.25"]
    noise = [result["doses"][dose]["A"]["noise_in_hu"] for dose in ("0.5", "0.25")]
    assert noise[1] > 1.2 * noise[0], "less dose, more noise"
    assert result["series"]["A"]["field_of_view_mm"] == pytest.approx(352.0)
    kept, count = held(result)
    page = matrix_section(result, tmp_path)
    assert count == 2 and f"Of 2 pairs of patient and dose, {kept} hold" in page
    found = {
        name: {"x": {"A": {"noise_left": left, "contrast": dict.fromkeys(("4", "6", "10"), 0.1), **of}}}
        for name, left, of in (
            (
                "network",
                0.5,
                {"noise_in_hu": 10.0, "error_hu2": {"body": 9.0, "edges": 1.0}, "edges_mm": {"bone": [2.0, 2.1]}},
            ),
            ("Gaussian", 0.5, {"error_hu2": {"body": 5.0, "edges": 5.0}}),
        )
    }
    found["Gaussian"]["x"]["A"]["contrast"] = {"4": 0.5, "6": 0.05, "10": 0.05}
    cell = matrix.row(found, found["network"]["x"], "A")
    assert cell["ends"] == ["4 mm below a Gaussian", "error of body above a Gaussian's", "bone edges 0.10 mm wider"]
