"""Parts of a series that are taken alone: ranges of slices, and phases, stacks and localizers within one file."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pydicom
import pytest
from dicom_cases import changed, complaints, derive, together, write_enhanced_ct
from phantom import write_ct_series
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless
from scripts.app.command_line import main
from scripts.dicom import read_volume, select_series
from scripts.errors import BioAttError


def at(*places, **elements):
    """A `modify` that puts slice i at places[i] mm."""

    def modify(dataset, i):
        dataset.SeriesInstanceUID = "1.2.3"
        dataset.ImagePositionPatient = [-100.0, -90.0, places[i]]
        for keyword, values in elements.items():
            setattr(dataset, keyword, values[i])

    return modify


def write_at(folder, *places, **elements):
    return write_ct_series(folder, slices=len(places), noise_sd=30.0, modify=at(*places, **elements))


@pytest.mark.parametrize(
    ("places", "ranges"),
    [
        ((-12, -9, -6, -3, 90, 93, 96), {"-12.00..-3.00": 4, "90.00..96.00": 3}),  # two regions
        ((0, 1, 2, 3, 8, 13, 18), {"0.00..3.00": 4, "8.00..18.00": 3}),  # thin slices, then thick ones
        ((0, 3, 6, 9, 15, 18, 21), {"0.00..9.00": 4, "15.00..21.00": 3}),  # a slice is missing
        ((0, 2.5, 5, 100, 102.5, 105, 300, 302.5, 305), {"0.00..5.00": 3, "100.00..105.00": 3, "300.00..305.00": 3}),
        ((0, 0.05, 0.1, 0.5, 0.55, 0.6), {"0.0000..0.1000": 3, "0.5000..0.6000": 3}),
    ],
)
def test_ranges_that_are_even_by_themselves_are_offered_and_taken(tmp_path, places, ranges):
    folder = write_at(tmp_path, *places)
    with pytest.raises(BioAttError, match="slices are missing or their spacing changes.*--allow-gaps") as caught:
        select_series(folder)
    for name, count in ranges.items():
        assert f"--series '1.2.3/range={name}' ({count} images)" in str(caught.value)
        series = select_series(folder, f"range={name}")
        assert len(series.files) == count and not series.gaps
        assert select_series(folder, series.selector).files == series.files
    assert len(select_series(folder, allow_gaps=True).files) == len(places)


@pytest.mark.parametrize("places", [(0, 3, 6, 12), (0, 50, 51, 52), (0, 3, 7, 12, 18, 25, 33)])
def test_what_falls_into_no_few_ranges_gets_no_such_offer(tmp_path, places):
    with pytest.raises(BioAttError, match="spacing changes") as caught:
        select_series(write_at(tmp_path, *places))
    assert "range=" not in str(caught.value)


def test_ranges_that_an_element_tells_apart_are_offered_by_it(tmp_path):
    folder = write_at(tmp_path, 0, 3, 6, 90, 93, 96, 99, AcquisitionNumber=(1, 1, 1, 2, 2, 2, 2))
    with pytest.raises(BioAttError, match=r"one even part with --series '1.2.3/AcquisitionNumber=1' \(3 images\) or"):
        select_series(folder)
    assert len(select_series(folder, "AcquisitionNumber=2").files) == 4


@pytest.mark.parametrize("change", [{"PixelSpacing": [0.5, 0.5]}, {"Rows": 32, "Columns": 32}])
def test_two_grids_in_one_series_can_be_told_apart(tmp_path, change):
    """A head and a chest of different fields of view, or a second matrix, under one UID."""
    for number in (1, 2):
        own = {"SeriesInstanceUID": "1.2.3", "AcquisitionNumber": number} | (change if number == 2 else {})
        pixels = changed(PixelData=bytes(2 * 32 * 32)) if "Rows" in own else changed()
        write_ct_series(tmp_path / str(number), seed=number, modify=together(changed(**own), pixels))
    with pytest.raises(BioAttError, match="differs.*or choose one part with --series '1.2.3/AcquisitionNumber=1'"):
        select_series(tmp_path)
    assert {file.parent.name for file in select_series(tmp_path, "AcquisitionNumber=2").files} == {"2"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("range=500..600", "no slice from 500 to 600 mm; its slices lie from 0.00 to 96.00 mm"),
        ("range=1", "expected range=FIRST..LAST in mm"),
        ("range=a..b", "expected range=FIRST..LAST in mm"),
        ("range=0..96", "spacing changes"),
    ],
)
def test_a_range_that_is_none_is_refused(tmp_path, choice, message):
    with pytest.raises(BioAttError, match=message):
        select_series(write_at(tmp_path, 0, 3, 6, 90, 93, 96), choice)


def test_a_chosen_range_is_denoised(tmp_path, weights, capsys):
    folder = write_at(tmp_path / "in", -6, -3, 0, 90, 93, 96)
    words = ["denoise", str(folder), str(tmp_path / "out"), "--weights", str(weights), "--quiet", "--prior", "uniform"]
    assert main([*words, "--series", "1.2.3/range=-6..0"]) == 0, capsys.readouterr().err
    assert [place[2] for place in positions(tmp_path / "out")] == [-6, -3, 0]


def positions(folder):
    return sorted(list(pydicom.dcmread(file).ImagePositionPatient) for file in folder.iterdir())


def with_localizer(*at_frames):
    """Makes these frames localizers of another plane and quantity: coronal, without rescale to HU."""

    def modify(image):
        image.RepresentativeFrameNumber = 5
        rescale = image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        orientation = image.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
        del image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        del image.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
        del image.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence
        for i, groups in enumerate(image.PerFrameFunctionalGroupsSequence):
            groups.PixelValueTransformationSequence = deepcopy(rescale)
            groups.PlaneOrientationSequence = deepcopy(orientation)
            kind = Dataset()
            kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if i in at_frames else "VOLUME", "NONE"]
            groups.CTImageFrameTypeSequence = [kind]
            if i in at_frames:
                groups.PixelValueTransformationSequence[0].RescaleType = "US"
                groups.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    return modify


@pytest.mark.parametrize("options", [{}, {"syntax": JPEGLSLossless}, {"signed": True, "padding": -2000}])
@pytest.mark.parametrize("at_frames", [(0,), (2,), (4,), (0, 4)])
def test_a_localizer_within_an_enhanced_image_is_left_out_and_told(tmp_path, caplog, at_frames, options):
    file, single = write_enhanced_ct(tmp_path, modify=with_localizer(*at_frames), slices=5, **options)
    if 2 in at_frames:  # the others are no regularly spaced stack without it
        with pytest.raises(BioAttError, match="slices are missing"):
            select_series(file)
        return
    series = select_series(file)
    assert f"left out {len(at_frames)} frames that are localizers: {file}, frame {at_frames[0] + 1}" in caplog.text
    kept = [i for i in range(5) if i not in at_frames]
    assert list(series.frames) == kept
    np.testing.assert_array_equal(read_volume(series), read_volume(select_series(single))[kept])
    derived = derive(file, tmp_path / "out", lambda volume: volume + 1)
    image = pydicom.dcmread(derived.files[0])
    assert image.NumberOfFrames == len(kept) == len(image.PerFrameFunctionalGroupsSequence)
    assert "RepresentativeFrameNumber" not in image  # it counts the frames of the source
    named = [one.DerivationImageSequence[0].SourceImageSequence[0] for one in image.PerFrameFunctionalGroupsSequence]
    assert [one.ReferencedFrameNumber for one in named] == [i + 1 for i in kept]
    before, after = read_volume(series), read_volume(derived)
    padded = before == before.min() if "padding" in options else np.zeros_like(before, bool)
    np.testing.assert_array_equal(after, np.where(padded, before, before + 1))
    np.testing.assert_allclose(derived.affine, series.affine)
    assert complaints(derived.files[0]) <= complaints(file)


def test_an_enhanced_image_of_localizers_alone_is_refused(tmp_path):
    file, _ = write_enhanced_ct(tmp_path, modify=with_localizer(0, 1, 2), slices=3)
    with pytest.raises(BioAttError, match="holds only CT localizers"):
        select_series(file)


def in_two(set_phase):
    """Makes of six frames two phases at three positions; `set_phase` says which to a frame's groups."""

    def modify(image):
        groups = image.PerFrameFunctionalGroupsSequence
        for i, one in enumerate(groups):
            if i % 2:
                one.PlanePositionSequence = deepcopy(groups[i - 1].PlanePositionSequence)
            set_phase(one, i % 2 + 1)

    return modify


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return [dataset]


@pytest.mark.parametrize(
    ("keyword", "set_phase"),
    [
        ("TemporalPositionIndex", lambda one, n: setattr(one.FrameContentSequence[0], "TemporalPositionIndex", n)),
        ("FrameAcquisitionNumber", lambda one, n: setattr(one.FrameContentSequence[0], "FrameAcquisitionNumber", n)),
        ("StackID", lambda one, n: setattr(one.FrameContentSequence[0], "StackID", str(n))),
        (
            "NominalPercentageOfCardiacPhase",
            lambda one, n: setattr(one, "CardiacSynchronizationSequence", item(NominalPercentageOfCardiacPhase=n)),
        ),
        ("KVP", lambda one, n: setattr(one, "CTXRayDetailsSequence", item(KVP=n))),
    ],
)
def test_phases_in_the_frames_of_an_enhanced_image_are_offered_and_taken(tmp_path, keyword, set_phase):
    file, single = write_enhanced_ct(tmp_path, modify=in_two(set_phase), slices=6)
    volume = read_volume(select_series(single))
    with pytest.raises(BioAttError, match=rf"choose one phase with --series '.*/{keyword}=.*' \(3 images\) or "):
        select_series(file)
    for number in (1, 2):
        series = select_series(file, f"{keyword}={number}")
        np.testing.assert_array_equal(read_volume(series), volume[number - 1 :: 2])
        assert select_series(file, series.selector).frames == series.frames


def test_a_range_of_counted_frames_is_refused(tmp_path):
    """Their places would be others without the frames before them."""
    folder = write_ct_series(tmp_path, slices=1, modify=changed(SpacingBetweenSlices=3, NumberOfFrames=2))
    dataset = pydicom.dcmread(folder / "0001.dcm")
    dataset.PixelData = dataset.PixelData * 2
    dataset.save_as(folder / "0001.dcm")
    assert len(select_series(folder).files) == 2
    with pytest.raises(BioAttError, match="frames of CT Image Storage are counted"):
        select_series(folder, "range=0..1")


def write_concatenation(folder, *kept, total=3, said=True):
    """An Enhanced image of six frames as a concatenation of parts of two, of which those in `kept` are there."""
    file, _ = write_enhanced_ct(folder, slices=6)
    whole = pydicom.dcmread(file)
    for part in range(total):
        image = deepcopy(whole)
        image.PerFrameFunctionalGroupsSequence = whole.PerFrameFunctionalGroupsSequence[2 * part : 2 * part + 2]
        image.PixelData = whole.pixel_array[2 * part : 2 * part + 2].tobytes()
        image.NumberOfFrames, image.InConcatenationNumber, image.ConcatenationUID = 2, part + 1, "1.2.3.9"
        image.SOPInstanceUIDOfConcatenationSource, image.ConcatenationFrameOffsetNumber = "1.2.3.8", 2 * part
        if said:
            image.InConcatenationTotalNumber = total
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{part + 1}"
        if part + 1 in kept:
            image.save_as(file.parent / f"part{part + 1}")
    file.unlink()
    return file.parent


@pytest.mark.parametrize(
    ("kept", "said", "what"),
    [
        ((1, 2), True, "part1 is part 1 of a concatenation of 3, without 3"),  # even by itself: no gap tells it
        ((3,), True, "part3 is part 3 of a concatenation of 3, without 1, 2"),
        ((2, 3), False, "part2 is part 2 of a concatenation of 3, without 1"),
    ],
)
def test_a_concatenation_that_lacks_a_part_is_refused_and_named(tmp_path, caplog, kept, said, what):
    folder = write_concatenation(tmp_path, *kept, said=said)
    with pytest.raises(BioAttError, match=f"slices are lost, .*{what}; .*--allow-gaps"):
        select_series(folder)
    assert len(select_series(folder, allow_gaps=True).files) == 2 * len(kept)
    assert what in caplog.text


def test_a_whole_concatenation_is_one_series(tmp_path, caplog):
    series = select_series(write_concatenation(tmp_path, 1, 2, 3))
    assert len(series.files) == 6 and not series.gaps and not caplog.text
