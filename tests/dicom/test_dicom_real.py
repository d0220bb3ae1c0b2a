"""Real CT: five series of four scanners, and one slice in fifteen transfer syntaxes."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
from dicom_cases import PROVENANCE, complaints
from scripts.dicom import find_series, read_volume, select_series, write_derived_series
from scripts.errors import BioAttError

pytestmark = pytest.mark.data

#: Slices, spacing between slices in mm, and lowest HU of each series.
SERIES = {
    "C3N-00249": (102, 3.0, -1024),
    "C3N-04457": (12, 3.0, -2048),
    "CRLM-CT-1004": (41, 5.0, -3024),
    "CRLM-CT-1006": (51, 5.0, -3024),
    "TCGA-09-2043": (160, 3.0, -2048),
}
LOSSLESS = "1.2 1.2.1 1.2.1.99 1.2.2 1.2.4.57 1.2.4.70 1.2.4.80 1.2.4.90 1.2.5".split()
LOSSY = {"1.2.4.81": 1.0, "1.2.4.91": 5.0}  # largest difference in HU
UNDECODABLE = "1.2.4.51 1.2.4.53 1.2.4.55".split()


def in_syntax(data_dir, end):
    """The slice in the transfer syntax 1.2.840.10008.`end`."""
    (file,) = (data_dir / "dicom_cases" / "transfer_syntaxes").glob(f"*_1.2.840.10008.{end}.dcm")
    return file


@pytest.mark.parametrize("name", SERIES)
def test_a_real_series_comes_back_exactly(data_dir, tmp_path, name, caplog):
    slices, spacing, lowest = SERIES[name]
    series = select_series(data_dir / "ct" / name)
    volume = read_volume(series)
    assert series.shape == (slices, 512, 512) and series.spacing[2] == pytest.approx(spacing, abs=1e-3)
    assert series.is_axial and volume.min() == lowest and 1000 < volume.max() < 4096
    write_derived_series(series, volume, tmp_path / "out", PROVENANCE)
    derived = select_series(tmp_path / "out")
    np.testing.assert_array_equal(read_volume(derived), volume)
    np.testing.assert_array_equal(derived.affine, series.affine)
    assert "clipped" not in caplog.text and "16-bit" not in caplog.text


@pytest.mark.parametrize("end", LOSSLESS)
def test_lossless_syntaxes_give_the_same_hu(data_dir, tmp_path, end):
    plain = read_volume(select_series(in_syntax(data_dir, "1.2.1")))
    shutil.copy(in_syntax(data_dir, end), tmp_path / "slice")
    (series,) = find_series(tmp_path)
    volume = read_volume(series)
    np.testing.assert_array_equal(volume, plain)
    write_derived_series(series, volume, tmp_path / "out", PROVENANCE)
    np.testing.assert_array_equal(read_volume(select_series(tmp_path / "out")), plain)


@pytest.mark.parametrize("end, largest", LOSSY.items())
def test_lossy_syntaxes_give_nearly_the_same_hu(data_dir, tmp_path, end, largest):
    plain = read_volume(select_series(in_syntax(data_dir, "1.2.1")))
    series = select_series(in_syntax(data_dir, end))
    volume = read_volume(series)
    assert 0 < np.abs(volume - plain).max() <= largest
    write_derived_series(series, volume, tmp_path / "out", PROVENANCE)
    assert pydicom.dcmread(tmp_path / "out" / "0001.dcm").LossyImageCompression == "01"


def test_eight_bits_with_a_coarse_slope_are_stored_as_hu(data_dir, tmp_path, caplog):
    series = select_series(in_syntax(data_dir, "1.2.4.50"))
    volume = read_volume(series)
    write_derived_series(series, volume, tmp_path / "out", PROVENANCE)
    again = read_volume(select_series(tmp_path / "out"))
    np.testing.assert_array_equal(again, np.rint(volume))
    assert "1 slices stored as signed 16-bit HU" in caplog.text and len(np.unique(volume)) > 50


@pytest.mark.parametrize("end", UNDECODABLE)
def test_syntaxes_without_a_decoder_are_named(data_dir, end, caplog):
    series = select_series(in_syntax(data_dir, end))
    assert "lossy compressed" in caplog.text
    caplog.clear()
    with pytest.raises(BioAttError, match=rf"JPEG .*\(1\.2\.840\.10008\.{end}\) cannot be decoded.*dcmdjpeg") as caught:
        read_volume(series)
    assert "\n" not in str(caught.value) and caplog.text == ""


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize("name", [*SERIES, "1.2", "1.2.2", "1.2.4.50", "1.2.4.81", "1.2.4.91"])
def test_dciodvfy_finds_nothing_that_the_source_does_not_have(data_dir, tmp_path, name):
    path = data_dir / "ct" / name if name in SERIES else in_syntax(data_dir, name)
    series = select_series(path)
    first = select_series(series.files[0])
    write_derived_series(first, read_volume(first), tmp_path / "out", PROVENANCE)
    assert complaints(tmp_path / "out" / "0001.dcm") - complaints(series.files[0]) == set()
