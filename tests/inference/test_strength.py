"""The strength is chosen in one place, anchors the result in mm, and is recorded with every result."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from made_studies import as_nifti
from phantom import write_ct_series
from scipy.ndimage import gaussian_filter
from scripts.app.command_line import main
from scripts.errors import BioAttError
from scripts.inference import AnchoredInferer, SlicePriorInferer
from scripts.priors.tables import TablePrior
from scripts.strengths import STRENGTHS, Strength, choose_strength
from scripts.volumes import load_volume
from scripts.workflow import open_workflow


def test_the_table_goes_from_low_to_high():
    rows = [choose_strength(name) for name in STRENGTHS]
    assert [one.name for one in rows] == ["low", "standard", "high"] and choose_strength().name == "standard"
    assert [one.anchor_mm for one in rows] == sorted({one.anchor_mm for one in rows})


def test_a_number_takes_the_tables_place_and_is_named_custom():
    assert choose_strength("high", anchor_mm=1.2) == Strength(name="custom", anchor_mm=1.2, grain=STRENGTHS["high"][1])
    assert choose_strength("low", grain=0.3) == Strength(name="custom", anchor_mm=STRENGTHS["low"][0], grain=0.3)
    assert choose_strength("low", restore=0.5) == Strength(name="custom", anchor_mm=STRENGTHS["low"][0], restore=0.5)
    assert choose_strength("low", restore=1).name == "low"
    anchor_mm, grain = STRENGTHS["high"]
    assert choose_strength("low", anchor_mm=anchor_mm, grain=grain).name == "high", (
        "what it is, not how it was asked for"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strength": 0.5}, "strength is 0.5, expected low, standard or high; .*--anchor-mm"),
        ({"strength": 1}, "strength is 1, expected low, standard or high"),
        ({"strength": "1"}, "strength is '1', expected low"),
        ({"strength": None}, "strength is None"),
        ({"strength": ["low"]}, "strength is .*low"),
        ({"anchor_mm": 0}, "anchor_mm is 0, expected a number over 0"),
        ({"anchor_mm": -1.0}, "anchor_mm is -1.0"),
        ({"anchor_mm": 11}, "anchor_mm is 11"),
        ({"anchor_mm": float("nan")}, "anchor_mm is nan"),
        ({"anchor_mm": "1"}, "anchor_mm is '1'"),
        ({"anchor_mm": True}, "anchor_mm is True"),
        ({"grain": 1.1}, "grain is 1.1, expected a number from 0"),
        ({"grain": -0.1}, "grain is -0.1"),
        ({"grain": float("nan")}, "grain is nan"),
        ({"restore": 1.1}, "restore is 1.1, expected a number from 0 .none. to 1 .all."),
        ({"restore": "1"}, "restore is '1'"),
    ],
)
def test_what_is_no_strength_is_refused(given, message):
    with pytest.raises(BioAttError, match=message):
        choose_strength(**given)


def test_the_page_has_the_table():
    page = (Path(__file__).parents[2] / "docs" / "anchoring.md").read_text()
    rows = page.partition("<!-- strengths -->")[2].partition("<!-- /strengths -->")[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells == [
        [f"`{name}`" + (" (default)" if name == "standard" else ""), f"{anchor:g} mm", f"{grain:g}"]
        for name, (anchor, grain) in STRENGTHS.items()
    ]


@pytest.mark.parametrize("make", [SlicePriorInferer, AnchoredInferer])
def test_an_inferer_takes_a_strength_or_its_name_and_no_number(make):
    assert make(strength="high").strength == make(strength=choose_strength("high")).strength == choose_strength("high")
    with pytest.raises(BioAttError, match="strength is 0.5, expected low"):
        make(strength=0.5)


def test_the_command_anchors_and_records(tmp_path, weights, capsys):
    source = write_ct_series(tmp_path / "in", slices=2, noise_sd=30.0, spacing=(0.8, 0.8))
    chosen = {
        "low": ("low", "low, anchored at 1 mm, detail restored"),
        "standard": (None, "standard, anchored at 1.3 mm, detail restored"),
        "high": ("high", "high, anchored at 1.8 mm, detail restored"),
    }
    before, changes = load_volume(source).hu, {}
    for name, (strength, told) in chosen.items():
        words = ["--weights", str(weights), "--prior", "uniform", "--quiet"]
        words += ["--strength", strength] if strength else []
        assert main(["denoise", str(source), str(tmp_path / name), *words]) == 0
        assert f"strength        {told}" in capsys.readouterr().out
        image = pydicom.dcmread(tmp_path / name / "0001.dcm")
        assert f"strength {told}" in image.DerivationDescription
        assert f"strength {told}" in image.ContributingEquipmentSequence[-1].ContributionDescription
        assert image.SeriesDescription.endswith("denoised" if name == "standard" else f"denoised {name}")
        changes[name] = load_volume(tmp_path / name).hu - before
    spread = [np.std(changes[name]) for name in chosen]
    assert 2 < spread[0] < spread[1] < spread[2]


def test_the_commands_result_is_the_formula_in_mm(tmp_path, weights):
    """Row and column spacing differ; a volume's first axis is the columns."""
    source = write_ct_series(tmp_path / "in", slices=1, noise_sd=30.0, spacing=(0.6, 0.9))
    given = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--anchor-mm"]
    assert main(["denoise", str(source), str(tmp_path / "a"), *given, "1.3"]) == 0
    before = load_volume(source).hu[..., 0].astype(np.float64)
    workflow = open_workflow(
        "inference",
        ["inference.json"],
        {
            "dataset_dir": str(source),
            "output_dir": str(tmp_path / "x"),
            "prior": "uniform",
            "weights": str(weights),
            "inferer#strength": None,
            "progress": False,
            "device": torch.device("cpu"),
        },
    )
    network, inferer = (workflow.parser.get_parsed_content(key) for key in ("network", "inferer"))
    bare = inferer(torch.from_numpy(before.T.astype(np.float32))[None, None, ..., None], network)
    change = bare[0, 0, ..., 0].double().numpy().T - before

    def gaussian(image):
        sigma = (1.3 / 0.9, 1.3 / 0.6)
        return gaussian_filter(image, sigma, mode="constant") / gaussian_filter(
            np.ones(image.shape), sigma, mode="constant"
        )

    expected = (before + change - gaussian(change)).clip(-1024, 3071)
    np.testing.assert_allclose(load_volume(tmp_path / "a").hu[..., 0], expected, atol=0.51)
    assert np.abs(change).max() > 5


def test_nifti_results_record_it_too(tmp_path, weights):
    source = as_nifti(write_ct_series(tmp_path / "in", slices=2), tmp_path / "a.nii")
    words = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--anchor-mm", "1.25", "--grain", "0.3"]
    assert main(["denoise", str(source), str(tmp_path / "out"), *words]) == 0
    record = json.loads((tmp_path / "out" / "a.nii.json").read_text())
    assert record["strength"] == {"name": "custom", "anchor_mm": 1.25, "grain": 0.3, "restore": 1.0}


def test_stable_uids_differ_by_strength_although_the_pixels_do_not(tmp_path, weights):
    source, uids = write_ct_series(tmp_path / "in", slices=1), set()
    for anchor in ("0.05", "0.06"):  # far under a pixel: the result is the input
        words = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--stable-uids", "--anchor-mm", anchor]
        assert main(["denoise", str(source), str(tmp_path / anchor), *words]) == 0
        np.testing.assert_array_equal(load_volume(tmp_path / anchor).hu, load_volume(source).hu)
        uids.add(pydicom.dcmread(tmp_path / anchor / "0001.dcm").SOPInstanceUID)
    assert len(uids) == 2


def test_explain_is_anchored_and_records_it(tmp_path, weights, no_figures):
    source = write_ct_series(tmp_path / "in", slices=2, noise_sd=30.0)
    given = ["--weights", str(weights), "--prior", "random:1"]
    for name in ("low", "high"):
        assert main(["explain", str(source), str(tmp_path / name), "--slice", "1", "--strength", name, *given]) == 0
        record = json.loads((tmp_path / name / "explain.json").read_text())
        assert record["made_by"]["strength"]["name"] == name
        assert main(["denoise", str(source), str(tmp_path / f"{name}_all"), "--strength", name, "--quiet", *given]) == 0
        shown = nibabel.load(tmp_path / name / "denoised.nii.gz").get_fdata()[..., 0]
        np.testing.assert_allclose(shown, load_volume(tmp_path / f"{name}_all").hu[..., 1].T, atol=0.51)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strength", "0.5"], "strength is '0.5', expected low, standard or high"),
        (["--strength", "strong"], "strength is 'strong', expected low, standard or high"),
        (["--anchor-mm", "nan"], "anchor_mm is nan"),
        (["--grain", "2"], "grain is 2"),
        (["--series-description", "{PatientName}"], "series_description is"),
        (["--series-number-step", "-3"], "series_number_step is -3"),
    ],
)
def test_bad_values_end_with_one_line_and_2(tmp_path, weights, capsys, words, message):
    source = write_ct_series(tmp_path / "in", slices=1)
    given = ["--weights", str(weights), "--prior", "uniform", "--quiet"]
    assert main(["denoise", str(source), str(tmp_path / "out"), *given, *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line and not (tmp_path / "out").exists()


def test_names_uids_and_private_elements_follow_the_options(tmp_path, weights):
    def private(dataset, _):
        dataset.private_block(0x0009, "SOMEBODY", create=True).add_new(1, "LO", "private")

    source = write_ct_series(tmp_path / "in", slices=1, modify=private)
    given = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--stable-uids", "--keep-private"]
    given += ["--series-description", "AI {source}", "--series-number-step", "7"]
    images = []
    for name in ("a", "b"):
        assert main(["denoise", str(source), str(tmp_path / name), *given]) == 0
        images.append(pydicom.dcmread(tmp_path / name / "0001.dcm"))
    assert images[0].SOPInstanceUID == images[1].SOPInstanceUID
    assert images[0].SeriesInstanceUID == images[1].SeriesInstanceUID
    assert (images[0].SeriesDescription, images[0].SeriesNumber) == ("AI Body 0", 10)
    assert images[0][0x0009, 0x1001].value == "private"


def test_a_table_is_recorded_by_its_content(tmp_path, weights):
    source, table = write_ct_series(tmp_path / "in", slices=1), tmp_path / "p.csv"
    images = []
    for seed in ("1", "2"):
        assert main(["priors", str(source), str(table), "--prior", f"random:{seed}", "--overwrite"]) == 0
        words = ["--weights", str(weights), "--prior", f"table:{table}", "--quiet", "--stable-uids"]
        assert main(["denoise", str(source), str(tmp_path / seed), *words, "--anchor-mm", "0.05"]) == 0
        images.append(pydicom.dcmread(tmp_path / seed / "0001.dcm"))
    assert images[0].PixelData == images[1].PixelData and images[0].SOPInstanceUID != images[1].SOPInstanceUID
    words = [image.ContributingEquipmentSequence[-1].ContributionDescription for image in images]
    assert f"digest {TablePrior(table).digest}" in words[1] and words[0] != words[1]


def test_an_enhanced_series_goes_through_with_a_table_of_priors_by_frame(tmp_path, weights):
    from dicom_cases import write_enhanced_ct

    file, single = write_enhanced_ct(tmp_path, order=(2, 0, 1, 3))
    assert main(["priors", str(file), str(tmp_path / "p.csv"), "--prior", "random:3"]) == 0
    table = f"table:{tmp_path / 'p.csv'}"
    for name, source, prior in (("a", file, table), ("b", file, "random:3")):
        words = ["--weights", str(weights), "--prior", prior, "--quiet", "--anchor-mm", "8"]  # pixels of 5 and 6 mm
        assert main(["denoise", str(source), str(tmp_path / name), *words]) == 0
    np.testing.assert_array_equal(load_volume(tmp_path / "a").hu, load_volume(tmp_path / "b").hu)
    assert np.abs(load_volume(tmp_path / "a").hu - load_volume(single).hu).max() > 5
