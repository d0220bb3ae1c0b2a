"""Scans whose identifiers were drawn anew for each file, and several phases in one series."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from dicom_cases import PROVENANCE, changed, derive, together, write_enhanced_ct
from phantom import write_ct_series
from pydicom.uid import generate_uid
from scripts.dicom import DerivedRules, find_series, read_volume, select_series, write_derived_series
from scripts.errors import BioAttError
from scripts.workflow import check_inference, run_workflow


def anew(*keywords, part=1):
    """A `modify` that gives each `part` slices identifiers of their own."""

    def modify(dataset, i):
        for keyword in keywords:
            setattr(dataset, keyword, f"1.2.3.{keywords.index(keyword)}.{i // part + 1}")

    return modify


def values(folder, keyword):
    return {str(pydicom.dcmread(file).get(keyword)) for file in folder.iterdir()}


@pytest.mark.parametrize("part", [1, 3])
def test_a_frame_of_reference_a_slice_is_warned_of_and_the_derived_series_has_one(tmp_path, caplog, part):
    folder = write_ct_series(tmp_path / "in", slices=6, modify=anew("FrameOfReferenceUID", part=part))
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain", slices=6)))
    series = select_series(folder)
    assert "0001.dcm and " in caplog.text
    assert "; grid and positions form one regularly spaced stack: it is taken as" in caplog.text
    np.testing.assert_array_equal(read_volume(series), plain)
    caplog.clear()
    derived = derive(folder, tmp_path / "out")
    assert values(tmp_path / "out", "FrameOfReferenceUID") == {"1.2.3.0.1"}
    np.testing.assert_allclose(derived.affine, series.affine)


def test_a_frame_of_reference_that_some_slices_lack_is_warned_of(tmp_path, caplog):
    def modify(dataset, i):
        if i % 2:
            del dataset.FrameOfReferenceUID

    derived = derive(write_ct_series(tmp_path / "in", modify=modify), tmp_path / "out")
    assert len(derived.files) == 4 and len(values(tmp_path / "out", "FrameOfReferenceUID")) == 1


@pytest.mark.parametrize("allow_gaps", [False, True])
def test_frames_of_reference_over_a_gap_are_two_scans(tmp_path, allow_gaps):
    folder = write_ct_series(tmp_path, slices=6, modify=anew("FrameOfReferenceUID", part=3))
    (folder / "0003.dcm").unlink()
    with pytest.raises(
        BioAttError, match="FrameOfReferenceUID differs between .* slices are missing.*; put slices of one"
    ):
        select_series(folder, allow_gaps=allow_gaps)


def test_two_scans_at_the_same_places_are_not_joined(tmp_path):
    for number in (1, 2):
        names = changed(
            SeriesInstanceUID="1.2.3", FrameOfReferenceUID=f"1.2.{number}", StudyInstanceUID=f"1.3.{number}"
        )
        write_ct_series(tmp_path / str(number), seed=number, modify=names)
    with pytest.raises(BioAttError, match="one position, .*, which differ in StudyInstanceUID and FrameOfReferenceUID"):
        select_series(tmp_path, one_scan=True)


@pytest.mark.parametrize(
    "keywords", [("SeriesInstanceUID",), ("SeriesInstanceUID", "StudyInstanceUID"), ("StudyInstanceUID",)]
)
@pytest.mark.parametrize("part", [1, 3])
def test_a_study_or_series_a_file_is_joined_when_asked(tmp_path, caplog, keywords, part):
    folder = write_ct_series(tmp_path / "in", slices=6, modify=anew(*keywords, "FrameOfReferenceUID", part=part))
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain", slices=6)))
    with pytest.raises(BioAttError, match="go on with --one-scan"):
        select_series(folder)
    series = select_series(folder, one_scan=True)
    np.testing.assert_array_equal(read_volume(series), plain)
    assert all(f"{one} differs between" in caplog.text for one in (*keywords, "FrameOfReferenceUID"))


def test_series_uids_a_file_are_told_as_one_scan_and_few_are_listed(tmp_path):
    folder = write_ct_series(tmp_path, slices=9, modify=anew("SeriesInstanceUID"))
    with pytest.raises(
        BioAttError, match="holds 9 CT series.* and 4 more; 9 of them look like one series of 9 images: to take"
    ):
        select_series(folder)


def test_of_two_such_scans_one_is_named_by_its_number(tmp_path):
    for number in (1, 2):
        modify = together(anew("SeriesInstanceUID"), lambda dataset, i, n=number: setattr(dataset, "SeriesNumber", n))
        write_ct_series(tmp_path / str(number), seed=number, modify=together(modify, _apart(number)))
    with pytest.raises(BioAttError, match="4 of them look like one series of 4 images: .*--one-scan --series 1"):
        select_series(tmp_path)
    series = select_series(tmp_path, "2", one_scan=True)
    assert {file.parent.name for file in series.files} == {"2"} and len(series.files) == 4
    with pytest.raises(BioAttError, match="two different slices at one position"):
        select_series(tmp_path, one_scan=True)


def _apart(number):
    def modify(dataset, i):
        dataset.SeriesInstanceUID += f".{number}"

    return modify


def test_files_without_a_series_uid_are_joined_when_asked(tmp_path):
    folder = write_ct_series(tmp_path, modify=changed(SeriesInstanceUID=None))
    with pytest.raises(BioAttError, match="SeriesInstanceUID is missing; .*--one-scan"):
        select_series(folder)
    assert len(select_series(folder, one_scan=True).files) == 4


@pytest.mark.parametrize("patients", [[0, 0, 1, 1], [0, 1, 2, 2], [0, 1], ["", "", 1, 2]])
def test_two_patients_are_never_joined(tmp_path, patients):
    modify = together(anew("SeriesInstanceUID"), lambda d, i: setattr(d, "PatientID", str(patients[i])))
    folder = write_ct_series(tmp_path, slices=len(patients), modify=modify)
    with pytest.raises(BioAttError, match="PatientID differs between .*0001.dcm and .*; put each patient's slices in"):
        select_series(folder, one_scan=True)
    with pytest.raises(BioAttError) as caught:
        select_series(folder)
    assert "--one-scan" not in str(caught.value)


def test_a_patient_a_file_is_joined_when_asked_and_the_derived_series_is_of_one(tmp_path, caplog):
    def modify(dataset, i):
        dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = f"SECRET-{i}", f"SECRET^{i}", f"1970010{i}"

    folder = write_ct_series(tmp_path / "in", modify=modify)
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain")))
    with pytest.raises(BioAttError, match="PatientID differs between .*0001.dcm and .*0002.dcm, .* go on with --one"):
        select_series(folder)
    series = select_series(folder, one_scan=True)
    np.testing.assert_array_equal(read_volume(series), plain)
    assert "PatientID differs between" in caplog.text and "SECRET" not in caplog.text
    write_derived_series(series, plain, tmp_path / "out", PROVENANCE)
    for keyword, value in (("PatientID", "SECRET-0"), ("PatientName", "SECRET^0"), ("PatientBirthDate", "19700100")):
        assert values(tmp_path / "out", keyword) == {value}


def without_instance_uids(folder):
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        del image.SOPInstanceUID, image.file_meta.MediaStorageSOPInstanceUID
        image.save_as(file, enforce_file_format=False)
    return folder


@pytest.mark.parametrize("is_missing", [True, False])
def test_slices_without_an_instance_uid_of_their_own_are_taken_when_asked(tmp_path, caplog, is_missing):
    folder = write_ct_series(tmp_path / "in", modify=None if is_missing else changed(SOPInstanceUID="1.2.3"))
    folder = without_instance_uids(folder) if is_missing else folder
    plain = read_volume(select_series(write_ct_series(tmp_path / "plain")))
    what = "is missing, e.g. from" if is_missing else "stands for slices at different positions, e.g."
    with pytest.raises(
        BioAttError, match=f"SOPInstanceUID {what} .*0001.dcm.*, if it is one scan".replace(", if", "; if")
    ):
        select_series(folder)
    series = select_series(folder, one_scan=True)
    assert series.sop_instance_uids == ("",) * 4 and what in caplog.text
    np.testing.assert_array_equal(read_volume(series), plain)
    write_derived_series(series, plain, tmp_path / "out", PROVENANCE)
    assert len(values(tmp_path / "out", "SOPInstanceUID")) == 4
    first = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert is_missing or first.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert is_missing == ("SourceImageSequence" not in first)
    with pytest.raises(BioAttError, match="leave out --stable-uids"):
        write_derived_series(series, plain, tmp_path / "more", PROVENANCE, rules=DerivedRules(stable_uids=True))
    with pytest.raises(BioAttError, match="leave out --stable-uids"):  # and before anything is loaded
        check_inference(str(folder), str(tmp_path / "more"), one_scan=True, stable_uids=True)


def test_slices_without_an_instance_uid_over_a_gap_are_refused(tmp_path):
    folder = write_ct_series(tmp_path, slices=6, modify=changed(SOPInstanceUID="1.2.3"))
    (folder / "0003.dcm").unlink()
    with pytest.raises(BioAttError, match="stands for slices at different .* slices are missing .*export them again"):
        select_series(folder, one_scan=True)


def test_several_real_series_are_not_taken_for_one_scan(tmp_path):
    for number in (1, 2):
        write_ct_series(tmp_path / str(number), seed=number)
    with pytest.raises(BioAttError) as caught:
        select_series(tmp_path)
    assert "--one-scan" not in str(caught.value)


def test_a_joined_scan_is_denoised_to_one_series_of_one_study(tmp_path, weights):
    names = anew("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")

    def modify(dataset, i):
        names(dataset, i)
        dataset.StudyDate, dataset.SeriesNumber, dataset.AccessionNumber = f"2020010{i + 1}", i + 1, str(i)

    source = write_ct_series(tmp_path / "in", modify=modify, slices=3)
    overrides = {"dataset_dir": str(source), "output_dir": str(tmp_path / "out"), "weights": str(weights)}
    overrides |= {"prior": "uniform", "progress": False, "one_scan": True}
    run_workflow("inference", ["inference.json"], overrides)
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "SeriesNumber"):
        assert len(values(tmp_path / "out", keyword)) == 1, keyword
    assert values(tmp_path / "out", "SeriesNumber") == {"1001"} and values(tmp_path / "out", "AccessionNumber") == {"0"}
    assert len(values(tmp_path / "out", "SOPInstanceUID")) == 3
    assert len(find_series(tmp_path / "out")) == 1
    studies = {
        pydicom.dcmread(file).SourceImageSequence[0].ReferencedSOPInstanceUID for file in (tmp_path / "out").iterdir()
    }
    assert len(studies) == 3


def write_phases(folder, **elements):
    """Two phases of one series; `elements` have a value for each."""
    for number in (0, 1):
        own = {keyword: both[number] for keyword, both in elements.items()}
        modify = changed(**{"SeriesInstanceUID": "1.2.3", "SeriesDescription": "Body"} | own)
        write_ct_series(folder / str(number), seed=number, modify=modify)
    return folder


@pytest.mark.parametrize(
    ("elements", "choice"),
    [
        ({"AcquisitionNumber": (1, 2)}, "AcquisitionNumber=2"),
        ({"TemporalPositionIdentifier": (1, 2), "ContentTime": ("101010", "101020")}, "TemporalPositionIdentifier=2"),
        ({"NominalPercentageOfCardiacPhase": (40, 75)}, "NominalPercentageOfCardiacPhase=75"),
        ({"ConvolutionKernel": ("B30f", "B70f")}, "ConvolutionKernel=B70f"),
        ({"SliceThickness": ("3.0", "5.0")}, "SliceThickness=5"),
        ({"KVP": ("80", "140")}, "KVP=140.0"),
        ({"FilterType": ("HELIX", "AXIAL/2")}, "FilterType=AXIAL/2"),
        ({"AcquisitionTime": ("101010", "101050.5")}, "AcquisitionTime=101050.5"),
        ({"ContentTime": ("101010", "101020")}, "ContentTime=101020"),
        ({"IrradiationEventUID": ("1.5.1", "1.5.2")}, "IrradiationEventUID=1.5.2"),
        ({"SeriesDescription": ("arterial", "venous")}, "SeriesDescription=venous"),
        ({"ContrastBolusAgent": ("Iodine", "")}, "ContrastBolusAgent="),
        ({"AcquisitionNumber": (1, "")}, "AcquisitionNumber="),
    ],
)
@pytest.mark.parametrize("name", ["1.2.3/", "", "3/"])
def test_phases_that_one_element_tells_apart_are_offered_and_taken(tmp_path, elements, choice, name):
    write_phases(tmp_path, **elements)
    keyword = choice.split("=")[0]
    with pytest.raises(
        BioAttError, match=rf"choose one phase with --series '1.2.3/{keyword}=.*' \(4 images\) or --series"
    ):
        select_series(tmp_path)
    series = select_series(tmp_path, f"{name}{choice}")
    assert {file.parent.name for file in series.files} == {"1"} and len(series.files) == 4
    assert select_series(tmp_path, series.selector).files == series.files


@pytest.mark.parametrize(
    "elements", [{"InstanceNumber": (1, 2)}, {"ImageComments": ("a", "b")}, {"SeriesDescription": ("it's", "that's")}]
)
def test_phases_that_no_element_tells_apart_for_sure_are_not_offered(tmp_path, elements):
    write_phases(tmp_path, **elements)
    with pytest.raises(BioAttError, match="keep one image a position") as caught:
        select_series(tmp_path)
    assert "--series" not in str(caught.value)


def test_times_that_change_within_a_phase_are_not_offered(tmp_path):
    for number in (0, 1):

        def modify(dataset, i, number=number):
            changed(SeriesInstanceUID="1.2.3", SeriesDescription="Body", AcquisitionTime=f"10{number}0{i}0")(dataset, i)

        write_ct_series(tmp_path / str(number), seed=number, modify=modify)
    with pytest.raises(BioAttError, match="which differ in AcquisitionTime; keep one image a position"):
        select_series(tmp_path)


def test_phases_that_are_no_whole_stacks_are_not_offered(tmp_path):
    write_phases(tmp_path, AcquisitionNumber=(1, 2))
    (tmp_path / "1" / "0002.dcm").unlink()
    with pytest.raises(BioAttError, match=r"choose one phase with --series '1.2.3/AcquisitionNumber=1' \(4 images\)$"):
        select_series(tmp_path)
    (tmp_path / "0" / "0003.dcm").unlink()
    with pytest.raises(BioAttError, match="which differ in AcquisitionNumber; keep one image a position"):
        select_series(tmp_path)


def test_slices_that_watched_the_contrast_come_can_be_left_behind(tmp_path):
    write_ct_series(tmp_path / "in", slices=5, modify=changed(SeriesInstanceUID="1.2.3"))
    for i in range(3):
        watched = changed(SeriesInstanceUID="1.2.3", AcquisitionNumber=9, AcquisitionTime=f"10000{i}")
        write_ct_series(tmp_path / "in" / str(i), slices=1, seed=5 + i, modify=watched)
    with pytest.raises(BioAttError, match=r"choose one phase with --series '1.2.3/AcquisitionNumber=1' \(5 images\)$"):
        select_series(tmp_path)
    assert len(select_series(tmp_path, "AcquisitionNumber=1").files) == 5


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("AcquisitionNumber=3", "no image with AcquisitionNumber '3'; it has '1', '2'; choose one"),
        ("PatientID=3", "phases are chosen by AcquisitionNumber, .*, and slices by range=.*; name one of them"),
        ("7/AcquisitionNumber=1", "holds no CT series 7"),
    ],
)
def test_a_phase_that_is_not_there_is_refused(tmp_path, choice, message):
    write_phases(tmp_path, AcquisitionNumber=(1, 2))
    with pytest.raises(BioAttError, match=message):
        select_series(tmp_path, choice)


def test_a_chosen_phase_is_denoised(tmp_path, weights):
    write_phases(tmp_path / "in", AcquisitionNumber=(1, 2))
    overrides = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out"), "weights": str(weights)}
    overrides |= {"prior": "uniform", "progress": False, "series": "AcquisitionNumber=2"}
    run_workflow("inference", ["inference.json"], overrides)
    assert values(tmp_path / "out", "AcquisitionNumber") == {"2"} and len(list((tmp_path / "out").iterdir())) == 4


def test_frames_at_one_position_that_nothing_tells_apart_are_refused(tmp_path):
    def at_one_position(image):
        first, second = image.PerFrameFunctionalGroupsSequence[:2]
        second.PlanePositionSequence = first.PlanePositionSequence

    file, _ = write_enhanced_ct(tmp_path / "a", modify=at_one_position, slices=4)
    with pytest.raises(BioAttError, match="two different slices at one position.*; keep one image a position"):
        select_series(file)


def test_a_slice_that_was_stored_again_under_another_uid_counts_once(tmp_path, caplog):
    folder = write_ct_series(tmp_path, slices=4)
    for name in ("0001.dcm", "0003.dcm"):
        dataset = pydicom.dcmread(folder / name)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / f"again_{name}")
    assert [file.name for file in select_series(folder).files] == [f"{i:04d}.dcm" for i in range(1, 5)]
    assert "left out 2 files that repeat a slice under another SOPInstanceUID" in caplog.text
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(folder / "again_0003.dcm")
    with pytest.raises(BioAttError, match="two different slices at one position"):
        select_series(folder)


def test_slices_that_all_share_one_position_are_no_phases(tmp_path):
    folder = write_ct_series(tmp_path, slices=4, modify=changed(ImagePositionPatient=[0, 0, 0]))
    with pytest.raises(BioAttError, match="so have all 4: they follow in time, or lost their positions; export"):
        select_series(folder)
