"""Discs in evaluated low doses: real pairs in the layouts of Mayo and TCIA, simulated ones, and what is not known."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_studies import save_default_network
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.dicom.phantom import HU
from scripts.evaluation.inserted import InsertedDiscs
from scripts.hu import hu_to_network
from scripts.training.studies import pseudonym_of
from scripts.volumes import radiological_slices

SHAPE = {"shape": (160, 160), "spacing": (2.2, 2.2), "slices": 3, "noise_sd": 0.0}
LAYOUTS = {
    "L067": ("L067/full_1mm", "L067/quarter_1mm", 0.25),
    "C021": ("C021/08-23-2018-1/1.0-Full dose images-1", "C021/08-23-2018-1/1.0-Low Dose Images-2", 0.1),
}


def noise(seed, i, sd_hu):
    return np.random.default_rng([seed, i]).normal(0.0, sd_hu, SHAPE["shape"])


def organs(image):
    """Soft tissue as dense as organs are."""
    return np.where(np.abs(image - HU["soft"]) < 1.0, 80.0, image)


def write_pair(root, full, low, dose):
    """Full and low dose of one phantom; the low one is the full one with noise added, as in both data sets."""
    added = 10.0 * math.sqrt(1.0 / dose - 1.0)
    write_ct_series(root / full, seed=1, degrade=lambda image, i: organs(image) + noise(1, i, 10.0), **SHAPE)
    write_ct_series(
        root / low, seed=2, degrade=lambda image, i: organs(image) + noise(1, i, 10.0) + noise(2, i, added), **SHAPE
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_default_network(tmp_path_factory.mktemp("weights") / "w.pt")


def evaluated(data, out, weights, patient, *words):
    words = [str(data), str(out), "--patients", patient, "--weights", str(weights), *words]
    assert main(["evaluate", *words]) == 0
    return json.loads((out / "plane.json").read_text())


@pytest.mark.parametrize("patient", LAYOUTS)
def test_real_pairs_have_their_place_in_the_plane_and_their_error(patient, weights, tmp_path):
    write_pair(tmp_path / "data", *LAYOUTS[patient])
    found = evaluated(tmp_path / "data", tmp_path / "out", weights, patient, "--anchor-mm", "0.05")
    one = found["patients"][pseudonym_of(patient)]
    assert one["slices"] == 3 and min(one["discs"][d] for d in ("4", "6", "10")) >= 3
    assert one["noise_left"] == pytest.approx(1.0, abs=0.01), "an anchor of 0.05 mm leaves the input"
    assert list(one["contrast"].values()) == pytest.approx([1.0] * len(one["contrast"]), abs=0.02)
    dose = LAYOUTS[patient][2]
    assert one["error_hu2"]["low"]["body"] == pytest.approx(100.0 / dose, rel=0.05), "without the truth being known"
    assert found["overall"]["error_left"]["body"]["mean"] == pytest.approx(1.0, abs=0.02)


def test_the_shipped_weights_are_seen_to_filter_and_to_keep(bundle_root, tmp_path, capsys):
    write_pair(tmp_path / "data", *LAYOUTS["L067"])
    shipped = bundle_root / "models" / "model.pt"
    found = evaluated(tmp_path / "data", tmp_path / "out", shipped, "L067", "--anchor-mm", "4")
    overall = found["overall"]
    assert overall["noise_left"]["mean"] < 0.8 and 0.5 < overall["contrast"]["10"]["mean"] < 1.1
    assert overall["error_left"]["body"]["mean"] < 0.7
    assert "inserted discs: n = 1 patients, noise left" in capsys.readouterr().out


def test_the_error_is_left_out_where_nobody_says_how_the_low_dose_was_made(weights, tmp_path, capsys):
    write_pair(tmp_path / "data", "L9/full_1mm", "L9/quarter_1mm", 0.25)
    items = [{"label": "L9/full_1mm", "image": "L9/quarter_1mm", "patient": "Q"}]
    (tmp_path / "data" / "list.json").write_text(json.dumps({"training": [], "validation": [], "test": items}))
    found = evaluated(tmp_path / "data" / "list.json", tmp_path / "out", weights, "Q")
    one = found["patients"][pseudonym_of("Q")]
    assert one["error_hu2"] == {} == found["overall"]["error_left"] and one["contrast"]
    assert "noise-free" not in capsys.readouterr().out


def test_the_error_is_that_against_the_truth_and_not_against_the_full_dose(tmp_path):
    folder = write_ct_series(tmp_path / "truth", seed=1, degrade=lambda image, i: organs(image), **SHAPE)
    truth = radiological_slices(folder)[1].astype(np.float64)
    full = truth + noise(1, 1, 10.0)
    low = full + noise(2, 1, 10.0 * math.sqrt(3.0))
    images = {
        key: torch.from_numpy(value).float()[None]
        for key, value in {"image": low, "label": full, "pred": truth}.items()
    }
    source = {
        "image": hu_to_network(images["image"]),
        "spacing_mm": torch.tensor([2.2, 2.2]),
        "alpha_squared": torch.tensor(3.0),
        "patient": "P",
        "uid": "1.2",
    }
    engine = SimpleNamespace(
        state=SimpleNamespace(output=[images], batch=[source], device=torch.device("cpu")),
        network=None,
        non_blocking=False,
        prepare_batch=lambda batch, device, non_blocking: (batch["image"], None, (), {}),
        mode=lambda network: nullcontext(),
        inferer=lambda inputs, network: (
            hu_to_network(images["pred"])[None] + 0.5 * (inputs - hu_to_network(images["image"])[None])
        ),
    )
    handler = InsertedDiscs(tmp_path / "plane.json")
    handler.start(engine)
    handler.measure(engine)
    handler.finish(engine)
    one = handler.summary["patients"]["P"]
    assert abs(one["error_hu2"]["denoised"]["body"]) < 10.0 < 350.0 < one["error_hu2"]["low"]["body"]
    assert one["contrast"]["10"] == pytest.approx(0.5, abs=0.01) and one["noise_left"] < 0.5
    source["spacing_mm"] = torch.tensor([math.nan, math.nan])
    handler.start(engine)
    handler.measure(engine)
    handler.finish(engine)
    assert handler.summary["patients"] == {}
