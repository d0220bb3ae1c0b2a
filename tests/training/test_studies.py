"""Studies on disk: every layout really read, slices paired by position, refusals named, nobody's name shown."""

from __future__ import annotations

import json
import re

import nibabel
import numpy as np
import pytest
from made_studies import as_nifti
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.dicom import find_series
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS
from scripts.training import find_studies
from scripts.training.layouts import find_entries
from scripts.training.pairing import dicom_stack, file_stack, pair_slices
from scripts.training.studies import describe, pseudonym_of, without_names
from scripts.volumes import load_volume, radiological_slices
from scripts.volumes.regions import region_of_header, region_of_prior

MAYO = "L067_FD_1_1.CT.0002.{:04d}.2015.12.22.20.19.39.34094.IMA"


def write_pair(full, low, *, slices=4, seed=0, **of_low):
    """A full and a low dose with noise and UIDs of their own."""
    write_ct_series(full, slices=slices, noise_sd=5.0, seed=seed)
    write_ct_series(low, **{"slices": slices, "noise_sd": 20.0, "seed": seed + 100, **of_low})


def stack(folder):
    (series,) = find_series(folder)
    return dicom_stack(series, folder)


def found(root, **arguments):
    return find_studies(root, progress=False, **arguments)


def summary(collection):
    return [
        (
            collection.folders[study.patient],
            study.entry.layout,
            study.entry.variant,
            len(study.pairs),
            study.low is not None,
        )
        for study in collection.studies
    ]


def test_mayo_2016_with_several_reconstructions(tmp_path):
    for variant, seed in (("1mm", 0), ("3mm", 1), ("3mm_sharp", 2)):
        full, low = (tmp_path / "L067" / f"{dose}_{variant}" for dose in ("full", "quarter"))
        write_pair(full, low, seed=seed, name=MAYO)
    write_ct_series(tmp_path / "L096" / "full_1mm", slices=2, seed=3, name=MAYO)
    write_ct_series(tmp_path / "L100" / "quarter_1mm", slices=2, seed=4, name=MAYO)
    studies = found(tmp_path)
    assert summary(studies) == [
        ("L067", "Mayo 2016", "1mm", 4, True),
        ("L067", "Mayo 2016", "3mm", 4, True),
        ("L067", "Mayo 2016", "3mm_sharp", 4, True),
        ("L096", "Mayo 2016", "1mm", 2, False),
    ]
    assert [str(one) for one in studies.refused] == [
        f"{pseudonym_of('L100')} (Mayo 2016 1mm): a low dose without its full dose; add the full dose"
    ]


@pytest.mark.parametrize("above", ["", "1mm B30/QD_1mm"])
def test_mayo_2016_as_its_archives_unpack(tmp_path, above):
    write_pair(tmp_path / above / "full_1mm/L067/full_1mm", tmp_path / above / "quarter_1mm/L067/quarter_1mm")
    assert summary(found(tmp_path)) == [("L067", "Mayo 2016", "1mm", 4, True)]


@pytest.mark.parametrize("above", ["", "manifest-1648648375084/LDCT-and-Projection-data"])
def test_tcia_images_are_paired_and_projections_passed_over(tmp_path, above):
    study = tmp_path / above / "L123" / "08-23-2018-75696"
    write_pair(study / "1.000000-Full dose images-67226", study / "1.000000-Low Dose Images-07574")
    (study / "1.000000-Low Dose Projections-11111").mkdir()
    (study / "1.000000-Low Dose Projections-11111" / "1-0001.dcm").write_bytes(b"no image")
    other = tmp_path / above / "C002"
    write_pair(
        other / "12-23-2021-1/302.000000-Full Dose Images-2", other / "12-24-2021-3/1.0-Low Dose Images-4", seed=7
    )
    studies = found(tmp_path)
    assert summary(studies) == [("C002", "TCIA LDCT", "", 4, True), ("L123", "TCIA LDCT", "", 4, True)]
    assert not studies.refused


def test_nifti_pairs_of_both_forms_however_stored(tmp_path):
    write_pair(tmp_path / "dicom" / "full", tmp_path / "dicom" / "low")
    data = tmp_path / "data"
    for folder in ("A", "low", "full"):
        (data / folder).mkdir(parents=True)
    as_nifti(tmp_path / "dicom/full", data / "A" / "full.nii.gz")
    as_nifti(tmp_path / "dicom/low", data / "A" / "low.nii.gz", axes=(2, 0, 1), flip=(0, 2))
    write_pair(tmp_path / "dicom2" / "full", tmp_path / "dicom2" / "low", seed=3)
    as_nifti(tmp_path / "dicom2/full", data / "full" / "B.nii")
    as_nifti(tmp_path / "dicom2/low", data / "low" / "B.nii")
    studies = found(data)
    assert summary(studies) == [("A", "NIfTI", "", 4, True), ("B", "NIfTI", "", 4, True)]
    study = studies.studies[0]
    full, low = radiological_slices(study.full.path), radiological_slices(study.low.path)
    for i, j in study.pairs:
        assert np.abs(full[i] - low[j]).mean() < 30  # noise alone; any other slice or turn is hundreds of HU away


def test_a_datalist_names_pairs_parts_and_patients(tmp_path):
    for seed, name in enumerate("abcd"):
        write_pair(tmp_path / "full" / name, tmp_path / "low" / name, seed=seed)
    listed = {
        "training": [{"image": "low/a", "label": "full/a", "patient": "Ann"}, {"label": "full/b", "patient": "Ann"}],
        "validation": [{"image": "low/c", "label": "full/c"}],
        "test": ["low/d"],
    }
    (tmp_path / "list.json").write_text(json.dumps(listed))
    studies = found(tmp_path / "list.json")
    assert summary(studies) == [
        ("Ann", "datalist", "", 4, True),
        ("Ann", "datalist", "", 4, False),
        ("c", "datalist", "", 4, True),
    ]
    assert [study.entry.part for study in studies.studies] == ["train", "train", "validate"]
    assert "without its full dose" in studies.refused[0].why


def test_a_patient_of_a_datalist_may_be_named_like_a_folder_beside_it(tmp_path):
    """MONAI takes every word that names something there for a path."""
    for name in "AB":
        write_ct_series(tmp_path / name, slices=4)
    items = [{"label": name, "patient": name} for name in "AB"]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items[:1], "test": items[1:]}))
    assert [one.patient for one in find_entries(tmp_path / "datalist.json")] == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no MONAI datalist"),
        ("[]", "is no MONAI datalist"),
        ("{}", "lists nothing"),
        ('{"training": [{"label": ["a", "b"]}]}', "no single path as label"),
    ],
)
def test_a_broken_datalist_is_refused(tmp_path, text, message):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(BioAttError, match=message):
        found(tmp_path / "list.json")


def test_full_dose_folders_hold_one_or_several_series(tmp_path):
    write_ct_series(tmp_path / "A", slices=2)
    write_ct_series(tmp_path / "B" / "one", slices=2, seed=1)
    write_ct_series(tmp_path / "B" / "two", slices=3, seed=2)
    studies = found(tmp_path)
    assert summary(studies) == [
        ("A", "full dose", "", 2, False),
        ("B", "full dose", "", 2, False),
        ("B", "full dose", "", 3, False),
    ]
    assert {study.region for study in studies.studies} == {"chest"}


def test_layouts_may_stand_side_by_side(tmp_path):
    write_pair(tmp_path / "L067" / "full_1mm", tmp_path / "L067" / "quarter_1mm")
    write_ct_series(tmp_path / "X", slices=2, seed=5)
    assert [row[:2] for row in summary(found(tmp_path))] == [("L067", "Mayo 2016"), ("X", "full dose")]


def test_what_cannot_be_used_is_refused_and_the_rest_goes_on(tmp_path):
    write_ct_series(tmp_path / "A", slices=2)
    write_ct_series(tmp_path / "B", slices=2)  # the same images under another name
    write_ct_series(tmp_path / "C", slices=2, seed=1, orientation=(1, 0, 0, 0, 0, -1))
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "note.txt").write_text("hello")
    write_ct_series(
        tmp_path / "E", slices=2, seed=2, modify=lambda d, i: setattr(d, "SeriesDescription", "Low Dose Im")
    )
    write_ct_series(tmp_path / "Müller 1970", slices=2, seed=3, modify=lambda d, i: d.pop("RescaleSlope"))
    studies = found(tmp_path)
    assert summary(studies) == [("A", "full dose", "", 2, False)]
    why = {studies.folders[one.patient]: one.why for one in studies.refused}
    assert why["B"] == f"the same images as of {pseudonym_of('A')}; keep one copy of them"
    assert "not axial" in why["C"] and "no DICOM in 1 files" in why["D"] and "calls itself low dose" in why["E"]
    assert "RescaleSlope is missing" in why["Müller 1970"] and "file 1 of P-" in why["Müller 1970"]
    told = describe(studies)
    assert "Müller" not in told and str(tmp_path) not in told and "1 patients, 1 studies" in told
    with pytest.raises(BioAttError, match=r"patients B, Z are not in .* \(P-.*the same images.*\); it has A"):
        studies.pseudonyms(["A", "Z", "B"])


def test_nothing_usable_is_an_error_with_the_reasons(tmp_path):
    write_pair(tmp_path / "L1" / "full_1mm", tmp_path / "L1" / "quarter_1mm", slice_spacing=3.0, spacing=(5.0, 5.0))
    with pytest.raises(BioAttError, match="nothing in .* can be used: P-.*pixel spacing differs: full dose 6 x 5, low"):
        found(tmp_path)


def test_slices_are_paired_by_position_not_by_file_order(tmp_path):
    write_pair(tmp_path / "full", tmp_path / "low", reversed_order=True)
    full, low = stack(tmp_path / "full"), stack(tmp_path / "low")
    assert pair_slices(full, low) == ([(i, i) for i in range(4)], [])
    volumes = [load_volume(tmp_path / name).hu for name in ("full", "low")]
    assert np.abs(volumes[0] - volumes[1]).mean() < 30
    assert [key.sop_instance_uid for key in low.keys] == list(find_series(tmp_path / "low")[0].sop_instance_uids)


def test_a_missing_slice_does_not_shift_its_neighbours(tmp_path):
    write_pair(tmp_path / "full", tmp_path / "low", slices=6)
    (tmp_path / "low" / "0003.dcm").unlink()
    (tmp_path / "full" / "0006.dcm").unlink()
    full, low = stack(tmp_path / "full"), stack(tmp_path / "low")
    pairs, refused = pair_slices(full, low)
    assert pairs == [(0, 0), (1, 1), (3, 2), (4, 3)]
    assert refused == [
        "full dose without low dose: slices at -1.50 mm",
        "low dose without full dose: slices at 7.50 mm",
    ]
    for i, j in pairs:
        np.testing.assert_allclose(full.positions_mm[i], low.positions_mm[j])


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
def test_positions_are_those_of_the_slices_as_they_are_read(tmp_path, position):
    write_ct_series(tmp_path / "a", shape=(40, 30), spacing=(6.0, 5.0), patient_position=position)
    of_dicom = stack(tmp_path / "a")
    of_nifti = file_stack(as_nifti(tmp_path / "a", tmp_path / "a.nii", axes=(1, 2, 0), flip=(1,)))
    for one in (of_dicom, of_nifti):
        assert one.shape == radiological_slices(one.path)[0].shape == (40, 30)
        np.testing.assert_allclose(one.steps_mm, [[0, -6, 0], [-5, 0, 0]], atol=1e-4)  # to posterior, to the left
        np.testing.assert_allclose(one.positions_mm, [[72.5, 117, z] for z in (-4.5, -1.5, 1.5, 4.5)], atol=1e-3)


def shifted(mm, only=None):
    """Moves slices by (x, y, z) mm when they are written."""

    def modify(dataset, i):
        if only is None or i in only:
            dataset.ImagePositionPatient = [a + b for a, b in zip(dataset.ImagePositionPatient, mm, strict=True)]

    return modify


def test_displaced_slices_are_named_and_the_others_go_on(tmp_path):
    write_pair(tmp_path / "full", tmp_path / "low", slices=5, modify=shifted((0, 0, 0.7), only=(1, 2)))
    pairs, refused = pair_slices(stack(tmp_path / "full"), stack(tmp_path / "low"))
    assert pairs == [(0, 0), (3, 3), (4, 4)]
    assert refused == ["low dose displaced along the normal by up to 0.70 mm: slices at -3.00 to 0.00 mm (2 slices)"]


@pytest.mark.parametrize(
    ("of_low", "message"),
    [
        ({"modify": shifted((0, 0, 1.2))}, "displaced along the normal by up to 1.20 mm: slices at -4.50 to 4.50 mm"),
        ({"modify": shifted((2, 0, 0))}, "in-plane position differs by up to 2.00 mm"),
        ({"modify": shifted((0, 0, 900))}, "full dose without low dose.*low dose without full dose"),
        ({"shape": (48, 60)}, "shapes differ: full dose 48 x 64, low dose 48 x 60 pixels"),
        ({"spacing": (6.0, 5.2)}, "pixel spacing differs: full dose 6 x 5, low dose 6 x 5.2 mm"),
        ({"orientation": (0.995, 0.0998749, 0, -0.0998749, 0.995, 0)}, "orientation differs"),
    ],
)
def test_a_low_dose_that_lies_elsewhere_is_refused(tmp_path, of_low, message):
    write_pair(tmp_path / "L1" / "full_1mm", tmp_path / "L1" / "quarter_1mm", **of_low)
    write_ct_series(tmp_path / "X", slices=1, seed=9)
    studies = found(tmp_path)
    assert [row[0] for row in summary(studies)] == ["X"]
    assert re.search(message, studies.refused[0].why)


def test_a_low_dose_that_is_the_full_dose_is_refused(tmp_path):
    for dose in ("full_1mm", "quarter_1mm"):
        write_ct_series(tmp_path / "L1" / dose, slices=2)
    with pytest.raises(BioAttError, match="low and full dose are the same images"):
        found(tmp_path)


def test_second_copies_are_passed_over_and_two_images_at_one_place_refused(tmp_path):
    write_pair(tmp_path / "L1" / "full_1mm", tmp_path / "L1" / "quarter_1mm")
    copy = tmp_path / "L1" / "quarter_1mm" / "copy.IMA"
    copy.write_bytes((tmp_path / "L1" / "quarter_1mm" / "0001.dcm").read_bytes())
    assert summary(found(tmp_path)) == [("L1", "Mayo 2016", "1mm", 4, True)]
    write_ct_series(tmp_path / "L1" / "quarter_1mm", slices=4, seed=50, name="again{}.dcm")
    with pytest.raises(BioAttError, match="2 CT series where a dose has one"):
        found(tmp_path)


def test_two_folders_with_one_pseudonym_are_an_error(tmp_path, monkeypatch):
    from scripts.training import studies

    write_ct_series(tmp_path / "A", slices=1)
    write_ct_series(tmp_path / "B", slices=1, seed=1)
    monkeypatch.setattr(studies, "pseudonym_of", lambda name: "P-00000000")
    with pytest.raises(BioAttError, match="patients A and B have the same pseudonym P-00000000"):
        found(tmp_path)


def test_a_pseudonym_is_short_stable_and_is_not_the_name():
    assert pseudonym_of("L067") == "P-22afa587" != pseudonym_of("L096")


def test_paths_become_numbers(tmp_path):
    place = tmp_path / "Smith John"
    for name in ("a 2015.dcm", "a 2015.dcm.bak"):
        (place / "s").mkdir(parents=True, exist_ok=True)
        (place / "s" / name).write_text("")
    message = f"{place}/s/a 2015.dcm.bak and {place}/s/a 2015.dcm in {place}"
    assert without_names(message, [place, None], "P-1") == "file 3 of P-1 and file 2 of P-1 in P-1"


def test_the_data_command_prints_and_writes_the_key(tmp_path, capsys):
    write_pair(tmp_path / "data" / "L067" / "full_1mm", tmp_path / "data" / "L067" / "quarter_1mm", name=MAYO)
    write_ct_series(tmp_path / "data" / "X 1970", slices=2, slice_spacing=5.0, seed=5)
    assert main(["data", str(tmp_path / "data"), "--key", str(tmp_path / "key.json")]) == 0
    printed = capsys.readouterr().out
    one, other = pseudonym_of("L067"), pseudonym_of("X 1970")
    assert re.search(rf"{one} +Mayo 2016 1mm +4 +3 mm +chest +full and low", printed)
    assert re.search(rf"{other} +full dose +2 +5 mm +chest +full, low to be simulated", printed)
    assert "L067" not in printed and "1970" not in printed
    assert json.loads((tmp_path / "key.json").read_text()) == {one: "L067", other: "X 1970"}
    assert (tmp_path / "key.json").stat().st_mode & 0o077 == 0
    assert main(["data", str(tmp_path / "data"), "--key", str(tmp_path / "key.json")]) == 2
    assert "key.json exists" in capsys.readouterr().err


def test_regions_of_header_and_prior():
    assert [region_of_header(term) for term in ("HEAD", "chest ", "PELVIS", "OVARY", "CHESTABDPELVIS", "")] == [
        *("head", "chest", "pelvis", "unknown", "unknown", "unknown")
    ]
    share = dict.fromkeys(DESCRIPTORS, 0.0)

    def region(**shares):
        return region_of_prior(np.array(list((share | shares).values())), DESCRIPTORS)

    assert region(skull=0.3, ventricles=0.3, liver=0.4) == "head"
    assert region(lungs=0.6, spine=0.4) == "chest" and region(liver=0.3, kidneys=0.3, lungs=0.4) == "abdomen"
    assert region(spine=0.9, liver=0.1) == region(liver=0.5, lungs=0.5) == "unknown"
    assert region_of_prior(np.full(11, 1 / 11), DESCRIPTORS) == "unknown"
    nearly = dict.fromkeys(DESCRIPTORS, 0.09) | {"lungs": 0.1}
    assert region(**nearly) == "unknown"  # as for a phantom
    chest = dict.fromkeys(DESCRIPTORS, 0.03) | dict.fromkeys(("lungs", "mediastinum", "spine"), 0.25)
    assert region(**chest) == "chest" and region(**nearly | {"spine": 0.3}) == "unknown"


def test_nifti_uids_follow_the_content(tmp_path):
    def write(name, value):
        image = nibabel.Nifti1Image(np.full((4, 4, 2), value, np.int16), np.diag([1.0, 1, 3, 1]))
        image.header.set_sform(image.affine, 1)
        nibabel.save(image, tmp_path / name)
        return file_stack(tmp_path / name).uids

    assert write("a.nii", 1) == write("b.nii", 1) != write("a.nii", 2)


@pytest.mark.data
def test_the_real_collection(data_dir):
    studies = found(data_dir / "ct")
    slices = {studies.folders[study.patient]: len(study.pairs) for study in studies.studies}
    assert slices == {"C3N-00249": 102, "C3N-04457": 12, "CRLM-CT-1004": 41, "CRLM-CT-1006": 51, "TCGA-09-2043": 160}
    assert not studies.refused and all(study.low is None for study in studies.studies)
    regions = {studies.folders[study.patient]: study.region for study in studies.studies}
    assert regions["C3N-04457"] == "head" and regions["C3N-00249"] == "chest"
