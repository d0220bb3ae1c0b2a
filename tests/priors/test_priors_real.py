"""Priors on real CT (BIOATT_DATA) and of the real BiomedCLIP (a network or its cache)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts.dicom import find_series, read_volume
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS, SliceKey, make_prior

from studies.compact_prior import HELD_OUT, read_patient
from studies.compact_prior_evaluation import evaluate, read_labels, total_variation

OLD = ("CRLM-CT-1004", "CRLM-CT-1006")  # beside them the patients of ct_patients


@pytest.mark.data
@pytest.mark.parametrize("patient", HELD_OUT)
def test_compact_model_knows_a_held_out_patient_and_is_sure_of_nothing_wrong(data_dir, bundle_root, patient):
    ranges = read_labels(bundle_root / "models" / "prior" / "labels.csv")[patient]
    slices = read_patient(data_dir / ("ct" if patient in OLD else "ct_patients") / patient, ranges)
    figures = evaluate(make_prior("compact"), slices, torch.full((11,), 1 / 11))
    assert figures["cross_entropy"] < figures["cross_entropy_uniform"]
    assert figures["mass_on_visible"] > 1.5 * figures["mass_on_visible_uniform"]
    assert figures["highest_absent_max"] < 0.3
    assert (figures["highest_few"] or 0) < 0.3
    assert figures["stability_tv"] < 0.1
    assert figures["neighbour_tv"] < 0.15


@pytest.mark.data
@pytest.mark.parametrize("phantom", ["CCT228-ATCM-phantom", "MRI-DIR-zzmeatphantom"])
def test_compact_model_is_nearly_uniform_where_there_is_nothing(data_dir, phantom):
    slices = read_patient(data_dir / "ct_patients" / phantom, [])
    prior = make_prior("compact")(slices.hu, [SliceKey(index) for index in range(len(slices.hu))])
    assert total_variation(prior, torch.full_like(prior, 1 / 11)).max() < 0.2


@pytest.mark.data
def test_compact_model_tells_chest_from_abdomen_of_a_held_out_patient(data_dir):
    volume = torch.as_tensor(np.asarray(read_volume(find_series(data_dir / "ct" / "CRLM-CT-1006")[0])))
    chest, abdomen = make_prior("compact")(volume[[48, 20]], [SliceKey(48), SliceKey(20)])
    lungs, liver, mediastinum = (DESCRIPTORS.index(word) for word in ("lungs", "liver", "mediastinum"))
    assert chest[lungs] > 0.15 > abdomen[lungs] and chest[mediastinum] > 0.1 > abdomen[mediastinum]
    assert abdomen[liver] > 0.1 and abdomen[liver] > chest[liver]


@pytest.mark.data
def test_authors_table_is_read_as_published(data_dir):
    path = data_dir / "priors" / "mayo2016_quarter_1mm_biomedclip.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    lines = path.read_text().splitlines()
    table = make_prior(f"table:{path}")
    for number in (1, 3000, len(lines) - 1):
        file, *numbers = lines[number].split(",")
        key = SliceKey(0, "1.2.3", str(Path("elsewhere") / Path(file).name))
        prior = table(torch.zeros(1, 4, 4), [key])
        assert prior[0].tolist() == np.array(numbers, dtype=np.float32).tolist()


@pytest.mark.hub
def test_biomedclip_itself_loads_and_looks_at_the_image():
    try:
        source = make_prior("biomedclip")
    except BioAttError as error:
        if os.environ.get("BIOATT_HUB_REQUIRED") or "neither in the local cache nor reachable" not in str(error):
            raise
        pytest.skip(str(error))
    ramp = torch.linspace(-160, 240, 128)
    slices = torch.stack([ramp.expand(128, 128), ramp.view(-1, 1).expand(128, 128)])
    prior = source(slices, [SliceKey(0), SliceKey(1)])
    assert prior.shape == (2, 11)
    torch.testing.assert_close(prior.sum(1), torch.ones(2))
    assert total_variation(prior[:1], prior[1:]).item() > 0.01
