"""What is no slice of its series is left out of it and told: pages, scouts that do not say so, other planes."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from dicom_cases import changed
from phantom import write_ct_series
from scripts.dicom import find_series, read_volume, select_series
from scripts.errors import BioAttError

UID = changed(SeriesInstanceUID="1.2.3")


def add(folder, tmp_path, count=1, modify=lambda dataset, i: None, **kwargs):
    """Put `count` other images into the series in `folder`."""

    def both(dataset, i):
        UID(dataset, i)
        modify(dataset, i)

    for file in write_ct_series(tmp_path / "other", slices=count, seed=9, modify=both, **kwargs).iterdir():
        shutil.copy(file, folder / f"9{file.name}")


def page(dataset, i):
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        if keyword in dataset:
            del dataset[keyword]


def colour_page(dataset, i):
    page(dataset, i)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"


def screen(dataset, i):
    dataset.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    dataset.ImagePositionPatient = [0, 0, 0]
    del dataset.RescaleSlope, dataset.RescaleIntercept


@pytest.mark.parametrize("modify", [page, colour_page, screen])
def test_a_page_without_geometry_is_left_out_and_named(tmp_path, caplog, modify):
    folder = write_ct_series(tmp_path / "in", modify=UID)
    plain = read_volume(select_series(folder))
    add(folder, tmp_path, modify=modify, shape=(64, 64))
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    assert "left out 1 pages in colour or without geometry: " in caplog.text and "90001.dcm" in caplog.text


def test_a_colour_image_at_a_place_in_the_stack_is_left_out_and_named(tmp_path, caplog):
    """Reconstructions in colour, stored in the series that they were made of."""
    folder = write_ct_series(tmp_path / "in", modify=UID)
    plain = read_volume(select_series(folder))
    add(folder, tmp_path, modify=changed(SamplesPerPixel=3, PhotometricInterpretation="RGB"))
    np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    assert "left out 1 pages in colour or without geometry: " in caplog.text and "90001.dcm" in caplog.text


def test_a_series_of_pages_alone_is_refused(tmp_path):
    with pytest.raises(BioAttError, match="is missing"):
        select_series(write_ct_series(tmp_path, modify=page))


@pytest.mark.parametrize("modify", [page, colour_page, screen])
def test_pages_in_a_series_of_their_own_do_not_ask_for_a_choice(tmp_path, caplog, modify):
    folder = write_ct_series(tmp_path / "in", modify=UID)

    def own(dataset, i):
        modify(dataset, i)
        changed(SeriesInstanceUID="1.2.9", SeriesNumber=999)(dataset, i)

    write_ct_series(folder / "protocol", slices=1, seed=9, modify=own)
    assert select_series(folder).series_instance_uid == "1.2.3"
    assert [one.series_instance_uid for one in find_series(folder)] == ["1.2.3"]
    assert "series 1.2.9: left out, 1 pages in colour or without geometry: " in caplog.text


def test_a_slice_that_lacks_its_position_is_no_page(tmp_path):
    folder = write_ct_series(tmp_path / "in", modify=UID)
    add(folder, tmp_path, modify=changed(ImagePositionPatient=None))
    with pytest.raises(BioAttError, match="90001.dcm: ImagePositionPatient is missing"):
        select_series(folder)


@pytest.mark.parametrize(
    "other",
    [
        {"orientation": (1, 0, 0, 0, 0, -1)},  # a scout that does not say LOCALIZER
        {"orientation": (0, 1, 0, 0, 0, -1), "shape": (100, 30), "spacing": (1.0, 2.0)},
        {"orientation": (0, 1, 0, 0, 0, -1), "modify": changed(RescaleSlope=None, RescaleIntercept=None)},
        {"orientation": (1, 0, 0, 0, 0, -1), "count": 3},
        {"orientation": (1, 0, 0, 0, 0.98480775, -0.17364818)},
    ],
)
def test_an_image_of_another_plane_is_left_out_and_named(tmp_path, caplog, other):
    folder = write_ct_series(tmp_path / "in", modify=UID)
    plain = read_volume(select_series(folder))
    add(folder, tmp_path, **other)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_volume(select_series(folder)), plain)
    assert f"left out {other.get('count', 1)} images of another plane: " in caplog.text and "90001.dcm" in caplog.text


def test_two_planes_of_equal_number_are_refused(tmp_path):
    folder = write_ct_series(tmp_path / "in", modify=UID)
    add(folder, tmp_path, count=4, orientation=(1, 0, 0, 0, 0, -1))
    with pytest.raises(BioAttError, match="ImageOrientationPatient differs"):
        select_series(folder)


@pytest.mark.parametrize("word", ["LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM", "SURVIEW"])
def test_scouts_in_a_vendors_word_are_localizers(tmp_path, word):
    """In a series of their own they ask for no choice, and alone they are no CT to denoise."""
    folder = write_ct_series(tmp_path / "in", modify=UID)
    scout = changed(ImageType=["ORIGINAL", "PRIMARY", word], SeriesInstanceUID="1.2.9")
    write_ct_series(folder / "scout", slices=2, seed=9, orientation=(1, 0, 0, 0, 0, -1), modify=scout)
    assert select_series(folder).series_instance_uid == "1.2.3"
    with pytest.raises(BioAttError, match="only CT localizers"):
        select_series(folder / "scout")


def test_series_of_which_one_would_be_left_out_do_not_look_like_one(tmp_path):
    write_ct_series(tmp_path / "a", modify=UID)
    write_ct_series(
        tmp_path / "b", slices=1, orientation=(1, 0, 0, 0, 0, -1), modify=changed(SeriesInstanceUID="1.2.9")
    )
    with pytest.raises(BioAttError, match="holds 2 CT series") as caught:
        select_series(tmp_path)
    assert "--one-scan" not in str(caught.value)
