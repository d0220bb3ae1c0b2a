"""Strength blends input and output in HU, in one place, and is recorded with every result."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
import torch
from made_studies import as_nifti, lively_network
from scripts.app.command_line import main
from scripts.dicom.phantom import write_ct_series
from scripts.errors import BioAttError
from scripts.hu import hu_to_network, network_to_hu
from scripts.inference.inferers import SlicePriorInferer
from scripts.priors.tables import TablePrior
from scripts.volumes import load_volume


@pytest.mark.parametrize("strength", [0, 0.25, 0.5, 1.0])
def test_the_result_is_the_blend_in_hu(strength):
    torch.manual_seed(0)
    hu = torch.rand(1, 1, 30, 40, 3) * 800 - 600
    hu[..., :3, :3, :] = -3024.0  # padding
    hu[..., 5, 5, 0] = float("nan")
    network = lively_network()
    full = network_to_hu(SlicePriorInferer()(hu_to_network(hu), network))
    blended = network_to_hu(SlicePriorInferer(strength=strength)(hu_to_network(hu), network))
    torch.testing.assert_close(blended, hu + strength * (full - hu), equal_nan=True, atol=1e-3, rtol=1e-5)
    if strength in (0, 1):
        expected = network_to_hu(hu_to_network(hu)) if strength == 0 else full
        assert torch.equal(blended.nan_to_num(), expected.nan_to_num())
    assert (full - hu).abs().nan_to_num().max() > 5


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), "1", True, None])
def test_bad_strength_is_refused(strength):
    with pytest.raises(BioAttError, match="strength is .*from 0"):
        SlicePriorInferer(strength=strength)


def test_the_command_blends_and_records(tmp_path, weights, capsys):
    source = write_ct_series(tmp_path / "in", slices=2, noise_sd=30.0)
    volumes = {}
    for strength in ("0", "0.5", "1"):
        words = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--strength", strength]
        assert main(["denoise", str(source), str(tmp_path / strength), *words]) == 0
        assert f"strength        {strength}" in capsys.readouterr().out
        image = pydicom.dcmread(tmp_path / strength / "0001.dcm")
        assert f"strength {strength}" in image.DerivationDescription
        volumes[strength] = load_volume(tmp_path / strength).hu
    before = load_volume(source).hu
    np.testing.assert_array_equal(volumes["0"], before)
    assert np.abs(volumes["1"] - before).max() > 5
    assert np.abs(volumes["0.5"] - (volumes["1"] + before) / 2).max() <= 1


def test_nifti_results_record_it_too(tmp_path, weights):
    source = as_nifti(write_ct_series(tmp_path / "in", slices=2), tmp_path / "a.nii")
    words = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--strength", "0.3"]
    assert main(["denoise", str(source), str(tmp_path / "out"), *words]) == 0
    assert json.loads((tmp_path / "out" / "a.nii.json").read_text())["strength"] == 0.3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strength", "1.5"], "strength is 1.5"),
        (["--strength", "nan"], "strength is nan"),
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
        assert main(["denoise", str(source), str(tmp_path / seed), *words, "--strength", "0"]) == 0
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
        words = ["--weights", str(weights), "--prior", prior, "--quiet"]
        assert main(["denoise", str(source), str(tmp_path / name), *words]) == 0
    np.testing.assert_array_equal(load_volume(tmp_path / "a").hu, load_volume(tmp_path / "b").hu)
    assert np.abs(load_volume(tmp_path / "a").hu - load_volume(single).hu).max() > 5
