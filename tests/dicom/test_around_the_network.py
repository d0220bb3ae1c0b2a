"""Short cuts in reading and writing: the same numbers, bit for bit, as by the plain way."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from phantom import write_ct_series
from pydicom import dcmread
from scripts.dicom import KnownSeries, find, select_series
from scripts.dicom.headers import open_header, quiet_pydicom
from scripts.dicom.read import _hu
from scripts.dicom.write import _copied, _rounded
from scripts.errors import BioAttError
from scripts.priors import RandomPrior, SliceKey, TablePrior, TemperedPrior, UniformPrior, write_prior_table
from scripts.volumes.plausible import check_hu


@pytest.fixture
def scans(monkeypatch):
    """Counts looks at all headers."""
    looks, real = [], find.scan
    monkeypatch.setattr(find, "scan", lambda *a, **k: looks.append(a) or real(*a, **k))
    return looks


def test_a_known_series_is_looked_at_once(tmp_path, scans):
    folder, known = write_ct_series(tmp_path / "in", slices=3), KnownSeries()
    first = known.select(folder, allow_gaps=False)
    assert known.select(folder) is first
    assert known.select(str(folder), first.selector, tell=False, allow_gaps=True) is first
    assert len(scans) == 1


def test_a_series_whose_files_changed_is_looked_at_again(tmp_path, scans):
    folder, known = write_ct_series(tmp_path / "in", slices=5), KnownSeries()
    first = known.select(folder)
    os.utime(first.files[1], ns=(1, 1))
    assert known.select(folder).series_instance_uid == first.series_instance_uid and len(scans) == 2
    first.files[1].unlink()
    with pytest.raises(BioAttError, match="slices are missing"):
        known.select(folder)


def test_a_zip_that_changed_is_looked_at_again(tmp_path, scans):
    write_ct_series(tmp_path / "in", slices=3)
    place, known = Path(shutil.make_archive(tmp_path / "in", "zip", tmp_path / "in")), KnownSeries()
    assert known.select(place) is known.select(place) and len(scans) == 1
    os.utime(place, ns=(1, 1))
    assert known.select(place).shape[0] == 3 and len(scans) == 2


def test_several_series_of_a_folder_are_told_apart(tmp_path):
    for name in ("a", "b"):
        write_ct_series(tmp_path / "in" / name, slices=2)
    uids = [select_series(tmp_path / "in" / name).series_instance_uid for name in ("a", "b")]
    known = KnownSeries()
    assert [known.select(tmp_path / "in", uid).series_instance_uid for uid in (*uids, *uids)] == [*uids, *uids]


def test_a_run_looks_at_the_headers_once(tmp_path, scans, weights):
    from scripts.app.command_line import main

    folder = write_ct_series(tmp_path / "in", slices=2)
    words = ["denoise", str(folder), str(tmp_path / "out"), "--weights", str(weights), "--prior", "uniform", "--quiet"]
    assert main(words) == 0 and len(scans) == 1
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("slope", [1.0, 0.5, 0.7, 1.0000001, -1.0])
@pytest.mark.parametrize("intercept", [0.0, -1024.0, -1024.5, 1e-3, float(1 << 23), 1e9])
def test_hu_are_those_of_float64(slope, intercept):
    for stored in (np.arange(-(1 << 15), 1 << 16, dtype=np.int32), np.array([-(1 << 40), 1 << 40])):
        wanted = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
        np.testing.assert_array_equal(_hu(stored, slope, intercept).astype(np.float32), wanted)


@pytest.mark.parametrize("slope", [1.0, 0.5, 0.7])
def test_stored_values_are_those_of_float64(slope):
    hu = np.random.default_rng(0).normal(0, 500, (64, 64)).astype(np.float32)
    wanted = np.rint((hu.astype(np.float64) - -1024.5) / slope)
    np.testing.assert_array_equal(_rounded(hu, slope, -1024.5), wanted)


@pytest.mark.parametrize("intercept", [0.0, -1024.0, -1023.0, 2.0, -8192.0])
def test_stored_values_of_whole_intercepts_are_those_of_float64(intercept):
    halves = np.arange(-3000, 4000, dtype=np.float32) / 2
    hu = np.concatenate([halves, np.nextafter(halves, np.float32(-9e3)), np.nextafter(halves, np.float32(9e3))])
    wanted = np.rint(hu.astype(np.float64) - intercept)
    np.testing.assert_array_equal(_rounded(hu, 1.0, intercept), wanted)


def test_what_is_quiet_within_stays_quiet_and_is_heard_behind(caplog):
    pydicom_logger = logging.getLogger("pydicom")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with quiet_pydicom():
            with quiet_pydicom():
                pass
            pydicom_logger.warning("values")
            warnings.warn("values", stacklevel=1)
        assert not heard and not caplog.records
        pydicom_logger.warning("heard")
        warnings.warn("heard", stacklevel=1)
    assert len(heard) == 1 and len(caplog.records) == 1


def test_reading_a_header_does_not_change_its_copy(tmp_path):
    file = next(write_ct_series(tmp_path / "in", slices=1).iterdir())
    source = open_header(file)
    copied, plain = _copied(source), dcmread(file, stop_before_pixels=True)
    for element in source:  # decodes them all
        assert str(element.tag)
    source.PatientID = "another"
    assert {tag: copied.get_item(tag) for tag in copied.keys()} == {tag: plain.get_item(tag) for tag in plain.keys()}
    assert copied.original_encoding == plain.original_encoding


@pytest.mark.parametrize("prior", [UniformPrior(), RandomPrior(3), TemperedPrior(UniformPrior(), 2.0)])
def test_priors_that_do_not_look_are_the_same_for_any_pixels(prior, tmp_path):
    keys = [SliceKey(i, f"1.{i}") for i in range(3)]
    assert not prior.looks_at_slices
    assert torch.equal(prior(torch.zeros(3, 4, 4), keys), prior(torch.randn(3, 4, 4), keys))
    write_prior_table(tmp_path / "p.csv", [(key, prior(torch.zeros(1, 4, 4), [key])[0]) for key in keys], prior)
    table = TablePrior(tmp_path / "p.csv")
    assert not table.looks_at_slices and torch.equal(
        table(torch.zeros(3, 4, 4), keys), table(torch.randn(3, 4, 4), keys)
    )


def test_what_is_no_number_is_looked_past():
    hu = np.full((4, 4, 3), -1000.0, np.float32)
    hu[0, 0] = 300.0
    hu[1, 1, 1], hu[2, 2, 2], hu[3, 3, 0] = np.nan, np.inf, -np.inf
    check_hu(hu, "a")
    hu[...] = np.nan
    with pytest.raises(BioAttError, match="no finite value"):
        check_hu(hu, "a")
    filled = np.full((4, 4, 2), -2000.0, np.float32)
    filled[1:, 1:, 1] = 1100.0
    with pytest.raises(BioAttError, match="perhaps stored with 1024 added"):
        check_hu(filled, "a")
