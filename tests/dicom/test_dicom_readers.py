"""Derived series of many kinds, as other programs see them: dciodvfy, highdicom, SimpleITK, dcm2niix."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_cases import CASES, complaints, derive, units, write_enhanced_ct
from phantom import write_ct_series
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless
from scripts.dicom import DerivedRules, read_volume, select_series

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: SimpleITK takes the first slice's rescale for a whole series.
FOR_SIMPLEITK = [case for case in CASES if case != "rescale of each slice"]
#: dcm2niix straightens a tilted gantry by resampling.
FOR_DCM2NIIX = [case for case in CASES if case != "tilted gantry"]
#: highdicom makes volumes of several slices at right angles, with a frame of reference.
FOR_HIGHDICOM = [
    case for case in CASES if case not in ("tilted gantry", "no frame of reference") and CASES[case].get("slices") != 1
]
every_case = pytest.mark.parametrize("case", CASES)
pytestmark = pytest.mark.filterwarnings("ignore:Unknown encoding")  # pydicom's, about a case that is made so


def warmer(volume):
    """Tissue, air and all by 5 HU, but not what lies outside their range."""
    return np.where(np.abs(volume - 1000) < 2000, volume + 5, volume)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Makes the source and the derived series of a case, once; gives (folder, source, derived, change)."""
    made = {}

    def make(case):
        if case not in made:
            folder = tmp_path_factory.mktemp("case")
            write_ct_series(folder / "in", **CASES[case])
            series = derive(folder / "in", folder / "out", warmer)
            made[case] = folder, select_series(folder / "in", tell=False), series
        return made[case]

    return make


def at(volume, affine, points):
    """Values of `volume` at RAS `points` (n, 3), by the nearest voxel; the points must be voxels."""
    index = nibabel.affines.apply_affine(np.linalg.inv(affine), points)
    assert np.abs(index - np.rint(index)).max() < 0.02
    return volume[tuple(np.rint(index).astype(int).T)]


def points_of(series):
    """Some voxels of a series: their RAS places, and their HU."""
    volume = read_volume(series)
    rng = np.random.default_rng(0)
    index = np.stack([rng.integers(0, size, 200) for size in volume.shape], axis=1)
    return nibabel.affines.apply_affine(series.affine, index[:, ::-1]), volume[tuple(index.T)]


@every_case
def test_the_derived_series_has_the_hu_that_were_given_and_the_geometry_of_the_source(pair, case):
    _, source, derived = pair(case)
    before, after = read_volume(source), read_volume(derived)
    np.testing.assert_array_equal(derived.affine, source.affine)
    step = 1.0 if CASES[case].get("slope", 1.0) > 1 else CASES[case].get("slope", 1.0)
    given = warmer(before)
    limits = after.min(), after.max()
    assert np.abs(after - given.clip(*limits)).max() <= step / 2
    assert (given != given.clip(*limits)).mean() < 0.001


@every_case
def test_the_series_written_once_more_is_the_same(pair, case, tmp_path, caplog):
    _, _, derived = pair(case)
    again = derive(derived.files[0].parent, tmp_path / "again")
    np.testing.assert_array_equal(read_volume(again), read_volume(derived))
    assert "stored as signed 16-bit HU" not in caplog.text


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: dicom3tools)")
@every_case
def test_dciodvfy_finds_nothing_that_the_source_does_not_have(pair, case):
    _, source, derived = pair(case)
    for before, after in zip(source.files[:2], derived.files[:2], strict=True):
        assert complaints(after) - complaints(before) == set()


@pytest.mark.parametrize("case", FOR_HIGHDICOM)
def test_highdicom_finds_the_same_volume(pair, case):
    _, source, derived = pair(case)
    datasets = [pydicom.dcmread(file) for file in derived.files]
    volume = highdicom.get_volume_from_series(datasets)
    points, hu = points_of(derived)
    np.testing.assert_allclose(at(volume.array, LPS_TO_RAS @ volume.affine, points), hu, atol=1e-3)


@pytest.mark.parametrize("case", FOR_SIMPLEITK)
def test_simpleitk_finds_the_same_volume(pair, case):
    _, source, derived = pair(case)
    if len(derived.files) == 1:
        image = SimpleITK.ReadImage(str(derived.files[0]))
    else:
        image = SimpleITK.ReadImage([str(file) for file in derived.files])
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    hu = SimpleITK.GetArrayFromImage(image)
    if case == "tilted gantry":  # its directions are always at right angles: compare the pixels alone
        np.testing.assert_allclose(hu, read_volume(derived), atol=1e-3)
        return
    points, expected = points_of(derived)
    np.testing.assert_allclose(at(hu.transpose(2, 1, 0), LPS_TO_RAS @ affine, points), expected, atol=1e-3)


@pytest.mark.parametrize("case", FOR_DCM2NIIX)
def test_dcm2niix_finds_the_same_volume(pair, case):
    folder, _, derived = pair(case)
    image = dcm2niix(folder / "out", folder / "nifti")
    points, hu = points_of(derived)
    np.testing.assert_allclose(at(image.get_fdata().reshape(image.shape[:3]), image.affine, points), hu, atol=1e-3)


def dcm2niix(folder, target):
    """The one NIfTI that dcm2niix makes of a folder."""
    target.mkdir()
    program = Path(sys.executable).with_name("dcm2niix")
    program = program if program.exists() else shutil.which("dcm2niix")
    done = subprocess.run([program, "-b", "n", "-f", "volume", "-o", target, folder], capture_output=True, text=True)
    (file,) = target.glob("*.nii")
    assert done.returncode == 0
    return nibabel.load(file)


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("slope", [1.0, 2.0])
def test_an_enhanced_image_stays_enhanced_for_all_readers(tmp_path, per_frame, slope, caplog):
    file, single = write_enhanced_ct(
        tmp_path, order=(2, 0, 1, 3), per_frame_rescale=per_frame, slope=slope, slices=4, signed=True
    )
    derived = derive(file, tmp_path / "out")
    (written,) = (tmp_path / "out").iterdir()
    np.testing.assert_array_equal(read_volume(derived), read_volume(select_series(single)))
    np.testing.assert_allclose(derived.affine, select_series(file).affine)
    assert len(derived.files) == 4 and ("4 slices stored as signed 16-bit HU" in caplog.text) == (slope > 1)
    points, hu = points_of(derived)
    volume = highdicom.imread(written).get_volume(apply_real_world_transform=False, apply_modality_transform=True)
    np.testing.assert_allclose(at(volume.array, LPS_TO_RAS @ volume.affine, points), hu, atol=1e-3)
    image = dcm2niix(tmp_path / "out", tmp_path / "nifti")
    np.testing.assert_allclose(at(image.get_fdata(), image.affine, points), hu, atol=1e-3)
    if shutil.which("dciodvfy"):
        assert complaints(written) - complaints(file) == set()


def test_a_real_world_mapping_of_all_frames_goes_with_the_rescale_it_belongs_to(tmp_path):
    def modify(image):
        image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = units("[hnsf'U]")

    file, _ = write_enhanced_ct(tmp_path, slope=2.0, modify=modify)
    derive(file, tmp_path / "out")
    image = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    (shared,) = image.SharedFunctionalGroupsSequence
    assert shared.PixelValueTransformationSequence[0].RescaleSlope == 1
    assert "RealWorldValueMappingSequence" not in shared


def test_frames_of_a_concatenation_are_not_joined_with_the_source(tmp_path):
    def modify(image):
        image.ConcatenationUID, image.SOPInstanceUIDOfConcatenationSource = "1.2.3", "1.2.4"
        image.InConcatenationNumber, image.InConcatenationTotalNumber = 1, 1

    file, _ = write_enhanced_ct(tmp_path, modify=modify)
    derive(file, tmp_path / "out")
    image = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    made = {image.ConcatenationUID, image.SOPInstanceUIDOfConcatenationSource}
    assert len(made) == 2 and all(uid.startswith("2.25.") for uid in made)


def test_earlier_derivations_of_frames_are_kept(tmp_path):
    def modify(image):
        earlier = Dataset()
        earlier.DerivationDescription = "Averaged"
        image.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [earlier]

    file, _ = write_enhanced_ct(tmp_path, modify=modify)
    derive(file, tmp_path / "out")
    image = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert "DerivationImageSequence" not in image.SharedFunctionalGroupsSequence[0]
    for groups in image.PerFrameFunctionalGroupsSequence:
        before, ours = groups.DerivationImageSequence
        assert before.DerivationDescription == "Averaged" and "Denoised by" in ours.DerivationDescription


def test_indices_to_private_elements_go_with_them(tmp_path):
    def modify(image):
        private = Dataset()
        private.DimensionIndexPointer, private.FunctionalGroupPointer = 0x00211001, 0x00211000
        private.DimensionIndexPrivateCreator = "SOMEBODY"
        image.DimensionIndexSequence.append(private)
        for groups in image.PerFrameFunctionalGroupsSequence:
            content = groups.FrameContentSequence[0]
            content.DimensionIndexValues = [*content.DimensionIndexValues, 7]

    file, _ = write_enhanced_ct(tmp_path, modify=modify)
    source = pydicom.dcmread(file)
    derive(file, tmp_path / "out")
    image = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert len(image.DimensionIndexSequence) == len(source.DimensionIndexSequence) - 1
    for ours, theirs in zip(
        image.PerFrameFunctionalGroupsSequence, source.PerFrameFunctionalGroupsSequence, strict=True
    ):
        before = theirs.FrameContentSequence[0].DimensionIndexValues
        assert list(ours.FrameContentSequence[0].DimensionIndexValues) == list(before)[:-1]
    derive(file, tmp_path / "kept", rules=DerivedRules(keep_private=True))
    kept = pydicom.dcmread(tmp_path / "kept" / "0001.dcm")
    assert len(kept.DimensionIndexSequence) == len(source.DimensionIndexSequence)


def test_frames_of_a_derived_enhanced_image_name_their_sources(tmp_path):
    file, _ = write_enhanced_ct(tmp_path, syntax=JPEGLSLossless)
    derive(file, tmp_path / "out")
    source, image = pydicom.dcmread(file), pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert image.SOPClassUID == source.SOPClassUID and image.SOPInstanceUID != source.SOPInstanceUID
    assert image.ImageType[0] == "DERIVED" and "DerivationDescription" not in image
    shared = image.SharedFunctionalGroupsSequence[0]
    assert shared.CTImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    for i, groups in enumerate(image.PerFrameFunctionalGroupsSequence):
        (derivation,) = groups.DerivationImageSequence
        (reference,) = derivation.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedFrameNumber == i + 1 and "strength standard" in derivation.DerivationDescription
    assert evidence(image) == [(source.StudyInstanceUID, source.SeriesInstanceUID, [source.SOPInstanceUID])]


def evidence(image):
    """(study, series, its instances) of SourceImageEvidenceSequence."""
    return [
        (
            study.StudyInstanceUID,
            series.SeriesInstanceUID,
            [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence],
        )
        for study in image.SourceImageEvidenceSequence
        for series in study.ReferencedSeriesSequence
    ]


def test_the_evidence_lists_the_sources_of_earlier_derivations_too(tmp_path):
    def modify(image):
        studies = []
        ours = (image.StudyInstanceUID, image.SeriesInstanceUID, "1.2.6")
        for study_uid, series_uid, uid in (("1.2.3", "1.2.4", "1.2.5"), ours):
            instance, series, study = Dataset(), Dataset(), Dataset()
            instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = image.SOPClassUID, uid
            series.SeriesInstanceUID, series.ReferencedSOPSequence = series_uid, [instance]
            study.StudyInstanceUID, study.ReferencedSeriesSequence = study_uid, [series]
            studies.append(study)
        image.SourceImageEvidenceSequence = studies

    file, _ = write_enhanced_ct(tmp_path, modify=modify)
    source = pydicom.dcmread(file)
    other, (study, series, (earlier,)) = evidence(source)
    derive(file, tmp_path / "out")
    once = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert evidence(once) == [other, (study, series, [earlier, source.SOPInstanceUID])]
    derive(tmp_path / "out", tmp_path / "again")
    again = pydicom.dcmread(tmp_path / "again" / "0001.dcm")
    assert evidence(again) == [*evidence(once), (study, once.SeriesInstanceUID, [once.SOPInstanceUID])]
    named = {
        image.ReferencedSOPInstanceUID
        for groups in again.PerFrameFunctionalGroupsSequence
        for derivation in groups.DerivationImageSequence
        for image in derivation.SourceImageSequence
    }
    assert named <= {uid for _, _, uids in evidence(again) for uid in uids} and len(named) == 2


def test_an_enhanced_image_says_nothing_that_was_said_of_its_source_alone(tmp_path):
    def modify(image):
        image.ContentQualification, image.SOPInstanceStatus = "PRODUCT", "AO"
        image.ReferencedPresentationStateSequence = image.FrameExtractionSequence = [Dataset()]
        image.ReferencedPerformedProcedureStepSequence = [Dataset()]
        for groups, group in (
            (image.SharedFunctionalGroupsSequence[0], "UnassignedSharedConvertedAttributesSequence"),
            (image.PerFrameFunctionalGroupsSequence[0], "UnassignedPerFrameConvertedAttributesSequence"),
        ):
            item = Dataset()
            item.PerformedProcedureStepID, item.ImageComments = "STEP", "kept"
            setattr(groups, group, [item])

    file, _ = write_enhanced_ct(tmp_path, modify=modify)
    derive(file, tmp_path / "out")
    image = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert image.ContentQualification == "RESEARCH"
    gone = "SOPInstanceStatus ReferencedPresentationStateSequence FrameExtractionSequence"
    assert not any(keyword in image for keyword in [*gone.split(), "ReferencedPerformedProcedureStepSequence"])
    (shared,) = image.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence
    (own,) = image.PerFrameFunctionalGroupsSequence[0].UnassignedPerFrameConvertedAttributesSequence
    assert [one.keyword for item in (shared, own) for one in item] == ["ImageComments"] * 2
