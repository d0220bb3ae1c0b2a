"""The observer with power: signals, doses that are equal, and what it says of filters that help, harm or do nothing."""

import json
import math

import numpy as np
import pytest

from studies.evidence import detection
from studies.evidence.detection import (
    SHAPE,
    Scene,
    changes,
    compare,
    drawn_detectability,
    drawn_values,
    equal_dose,
    look,
    measure_uniform,
    nodule,
    pooled,
    scored,
    uniform_signals,
)
from studies.evidence.detection_page import conclusion, detection_section
from studies.evidence.evaluating import Method, as_it_is
from studies.measures.observer import Scores, detectability
from studies.measures.phantoms import rod_phantom


def method(name, change):
    return Method(name=name, tuned_to=lambda one: change, settings={"0 mm": as_it_is})


def test_a_nodule_has_its_area_with_and_without_spikes():
    plain, spiculated = (nodule((101, 101), (50, 50), height).sum() for height in (0.0, detection.SPIKE_HEIGHT))
    assert spiculated == pytest.approx(plain, rel=0.02)
    assert np.abs(nodule((101, 101), (50, 50), 0.35) - nodule((101, 101), (50, 50), 0.0)).max() > 0.3


def test_signals_stand_apart_in_the_water_each_in_the_middle_of_its_square():
    phantom = rod_phantom(detection.SIZE, detection.SPACING_MM, contrasts_hu=(0.0,))
    signals, sites = uniform_signals(phantom)
    assert len(sites) == len({site.task for site in sites}) == 13
    assert phantom.image_hu[np.abs(signals).max(0) > 0.01].min() > -1.0
    seen = np.zeros(phantom.image_hu.shape, int)
    for site in sites:
        seen[site.part] += 1
        square = signals[1][site.part]
        assert np.allclose(square, square[::-1, ::-1], atol=1e-9) and square.max() > 9.0
    assert seen.max() == 1


@pytest.mark.parametrize(
    ("denoised", "wanted", "expected"),
    [
        ([4.0, 2.0, 1.0], 2.0, 0.5),
        ([4.0, 2.0, 1.0], 4.0, 1.0),
        ([4.0, 2.0, 1.0], 1.0, 0.25),
        ([4.0, 2.0, 1.0], 0.5, 0.25),
    ],
)
def test_the_equal_dose_lies_between_the_doses(denoised, wanted, expected):
    assert equal_dose([1.0, 0.5, 0.25], denoised, wanted) == pytest.approx(expected)


def test_the_equal_dose_is_none_where_not_even_the_full_dose_reaches_it():
    assert math.isnan(equal_dose([1.0, 0.5], [0.9, 0.4], 1.0))


def test_draws_of_all_repeats_in_order_give_the_detectability_itself():
    generator = np.random.default_rng(0)
    scores = Scores(generator.normal(2.0, 1.0, 40), generator.normal(0.0, 1.0, (40, 1)), np.arange(40))
    assert drawn_detectability(scores, np.ones((1, 40)))[0] == pytest.approx(detectability(scores))
    drawn = drawn_detectability(scores, generator.multinomial(40, np.full(40, 1 / 40), 500))
    assert 1.0 < np.quantile(drawn, 0.01) and 0.1 < drawn.std() < 0.6


def test_repeats_of_one_background_do_not_narrow_the_interval():
    generator = np.random.default_rng(0)
    own = generator.normal(2.0, 1.0, 40), generator.normal(0.0, 1.0, (40, 1))
    alone = Scores(*own, np.arange(40))
    ten_times = Scores(*(np.repeat(one, 10, axis=0) for one in own), np.repeat(np.arange(40), 10))
    taken = generator.multinomial(40, np.full(40, 1 / 40), 500)
    assert drawn_detectability(ten_times, taken).std() == pytest.approx(
        drawn_detectability(alone, taken).std(), rel=0.05
    )


def test_the_change_over_patients_is_known_better_than_that_of_one():
    generator = np.random.default_rng(0)

    def patient():
        scores = Scores(generator.normal(2.0, 1.0, 60), generator.normal(0.0, 1.0, (60, 1)), np.arange(60))
        worse = Scores(scores.present + generator.normal(0.0, 0.7, 60), scores.absent, scores.units)
        return drawn_values({1.0: {"input": {"t": scores}, "network": {"t": worse}}}, 300, 0)

    patients = [patient() for _ in range(6)]
    every = changes(pooled(patients))["1"]["network"]["t"]
    widths = [np.ptp(changes(one)["1"]["network"]["t"]["change_95"]) for one in patients]
    assert every["before"] == pytest.approx(np.mean([one[1.0]["input"]["t"][0] for one in patients]))
    assert np.ptp(every["change_95"]) < min(widths)


def test_a_filter_that_erases_the_signal_is_lower_and_one_that_halves_the_noise_is_not(monkeypatch):
    monkeypatch.setattr(detection, "DOSES", (1.0, 0.25))
    blank = np.random.default_rng(1)
    clean = rod_phantom(detection.SIZE, detection.SPACING_MM, contrasts_hu=(0.0,)).image_hu
    asked = [
        method("Gaussian", lambda image: image),
        method("scaled", lambda image: clean + (image - clean) / 2),
        method("eraser", lambda image: blank.normal(0, 9, image.shape)),
    ]
    result = json.loads(json.dumps(measure_uniform(asked, realisations=30, draws=100)))
    input_, scaled, eraser = (result["potential"][f"{one.name}, 0 mm"] for one in asked)
    assert input_["share"][0] == 1.0 and 0.35 < input_["share"][1] < 0.65, "d' goes with the root of the dose"
    assert scaled["share"] == pytest.approx(input_["share"]) and eraser["share"][1] < 0.1
    assert eraser["dose"] is None and eraser["dose_95"] == [None, None]
    seen = [d for d in result["doses"]["1"]["eraser, 0 mm"].values() if d["change"] is not None]
    assert len(seen) >= 10 and {d["verdict"] for d in seen} == {"lower"}
    assert SHAPE in result["tasks"]


def test_the_page_tells_what_was_found(tmp_path):
    generator = np.random.default_rng(0)

    def scores(distance):
        values = generator.normal(distance, 1, 30), generator.normal(0, 1, (30, 1))
        shape = generator.normal(distance, 1, 30), generator.normal(0, 1, (30, 1))
        return {"4 mm, 20 HU": Scores(*values, np.arange(30)), SHAPE: Scores(*shape, np.arange(30))}

    by_dose = {
        dose: {name: scores(4 * dose**0.5) for name in ("Gaussian, 0 mm", "Gaussian, 1 mm", "network, standard")}
        for dose in detection.DOSES
    }
    values = drawn_values(by_dose, 50, 0)
    compared = {"repeats": 30, "draws": 50, **compare(values)}
    mean = {
        name: {
            f"{dose:g}": {"mean": of["share"][i], "interval_95": None, "n": 1} for i, dose in enumerate(detection.DOSES)
        }
        for name, of in compared["potential"].items()
    }
    seen = {"repeats": {"4 mm, 20 HU": 30}, "backgrounds": {"4 mm, 20 HU": 30}}
    tasks = dict.fromkeys(("4 mm, 20 HU", SHAPE), 1)
    patients = {
        **{
            "slices": 2,
            "seen": 1,
            "insertions": 3,
            "block_mm": 40.0,
            "draws": 50,
            "patients": {"A": compared | seen},
            "mean": mean,
        },
        "pooled": {"patients": tasks, "doses": changes(pooled([values]))},
    }
    one = {"uniform": compared, "patients": patients}
    page = detection_section(json.loads(json.dumps(one)), tmp_path)
    assert (tmp_path / "detection.png").is_file() and "nan" not in page
    told = conclusion(one)
    assert f"{compared['potential']['network, standard']['share'][3]:.0%} (n = 1) after" in page
    change = compared["doses"]["0.25"]["network, standard"][SHAPE]["change"]
    assert f" well: {change:+.0%}" in told and "30 realisations" in told and "5 pairs of disc and dose" in told
    assert page.count("| 4 mm, 20 HU |") == 2, "in the phantom, and as the mean of the patients"


def test_borders_are_taken_off_in_patients_and_dark_discs_turned():
    image = np.full((9, 9), 70.0)
    image[4, 4] = 50.0
    site = detection.Site("t", 1, (slice(0, 9), slice(0, 9)), np.ones((1, 9, 9)), -1.0, True)
    assert site.outputs(image) == pytest.approx([20.0])


def test_every_scene_is_denoised_once_per_image_and_scored_by_repeats():
    calls = []
    sites = [detection.Site("t", 1, (slice(2, 7), slice(2, 7)), np.ones((1, 5, 5)))]
    generator = np.random.default_rng(0)

    def scene():
        noise = generator.normal(0, 1, (9, 9))
        return Scene(type("Slice", (), {"spacing_mm": 1.0})(), np.stack([noise, noise + 1.0]), sites)

    found = look([method("A", lambda image: calls.append(1) or image)], [scene() for _ in range(8)])
    assert len(calls) == 16 and len(found["A, 0 mm"]["t"]) == 8
    assert detectability(scored(found)["A, 0 mm"]["t"]) > 2.0
