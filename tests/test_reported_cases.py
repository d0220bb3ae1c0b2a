"""Small inputs made from public bug reports, each through the real command: what its README expects is what happens.

Each folder of `reported_cases` holds a README (what, source, expected) and an input.
"""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from scripts.app.command_line import main
from scripts.dicom import read_volume, select_series

pytestmark = pytest.mark.data

#: Cases that are denoised: further options, and what is said on the way.
DENOISED = {
    "coronal-series": ((), ""),
    "frame-of-reference-per-file": ((), "FrameOfReferenceUID differs between .* it is taken as one scan"),
    "highbit-11-bitsstored-16": ((), "HighBit 11 is not BitsStored 16 - 1 and is ignored"),
    "intercept-0-offset-1024": (("--assume-hu",), ""),
    "j2k-14-bits-series": ((), ""),
    "multiframe-ct-image-storage": ((), ""),
    "pixeldata-excess-padding": ((), "512 bytes after the pixels are ignored"),
    "report-page-as-ct": ((), "left out 1 pages in colour or without geometry: .*IM0007.dcm"),
    "rescale-missing": (("--assume-hu",), "rescale is missing; its values are taken as HU"),
    "series-uid-per-slice": (("--one-scan",), "SeriesInstanceUID differs between .* it is taken as one scan"),
    "sopclass-missing": ((), ""),
    "windowed-8bit-dicom": (("--assume-hu",), ""),
    "zero-byte-last-slice": (("--allow-gaps",), "slices are lost, .*IM0006.dcm is empty"),
    "gap-at-0.1mm": (("--allow-gaps",), "irregular slice spacing"),
}
#: Cases that are refused, without further options: what is said.
REFUSED = {
    "decimal-comma": "RescaleIntercept is -1024,0, expected a number",
    "folder-with-zip": r"1 archive \(study.zip\); unpack it",
    "gap-at-0.1mm": "slices are missing.* 0.20 mm between .*--allow-gaps",
    "intercept-0-offset-1024": "does not look like HU: .*perhaps stored with 1024 added.*--assume-hu",
    "modality-lut-sequence": "by a Modality LUT",
    "nifti-totalsegmentator-dataset": "2 NIfTI files in subfolders .*name one of them, .*--cohort",
    "rescale-missing": "RescaleSlope is missing, .*--assume-hu",
    "series-uid-per-slice": "6 of them look like one series of 6 images: .*--one-scan",
    "windowed-8bit-dicom": r"does not look like HU: values in \[0, 255\].*--assume-hu",
    "zero-byte-last-slice": r"slices are lost, .*IM0006.dcm is empty \(0 bytes\)",
}
#: What depends on what the machine that holds the case allows, or on formats that may be added.
OTHERS = {"symlink-folder-half", "input-mha"}


@pytest.fixture
def case(data_dir, tmp_path):
    """Copy of a case by name: nothing is written beside the data."""

    def copy(name):
        folder = data_dir / "reported_cases" / name
        shutil.copytree(folder, tmp_path / name, symlinks=True)
        return tmp_path / name / "input"

    return copy


def denoise(source, target, *options):
    return main(["denoise", str(source), str(target), "--prior", "uniform", "--quiet", *options])


def test_every_case_is_looked_at(data_dir):
    cases = {path.name for path in (data_dir / "reported_cases").iterdir() if path.is_dir()}
    assert cases == DENOISED.keys() | REFUSED.keys() | OTHERS


@pytest.mark.parametrize("name", DENOISED)
def test_a_case_is_denoised(case, tmp_path, name, capsys):
    source, (options, told) = case(name), DENOISED[name]
    assert denoise(source, tmp_path / "out", *options) == 0
    assert re.search(told, capsys.readouterr().err)
    derived = select_series(tmp_path / "out", allow_gaps="--allow-gaps" in options)
    before = select_series(
        source, allow_gaps=True, assume_hu="--assume-hu" in options, one_scan="--one-scan" in options
    )
    np.testing.assert_allclose(derived.affine, before.affine, atol=1e-6)
    change = read_volume(derived) - read_volume(before)
    assert derived.shape == before.shape and 0.5 < np.abs(change).mean() < 50
    assert derived.shape[0] == (5 if name == "zero-byte-last-slice" else 6)


@pytest.mark.parametrize("name", REFUSED)
def test_a_case_is_refused_in_one_line(case, tmp_path, name, capsys):
    source = case(name)
    assert denoise(source, tmp_path / "out") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and re.search(REFUSED[name], last), last
    assert not (tmp_path / "out").exists()


def test_half_a_series_behind_a_link_is_never_lost(case, tmp_path, capsys):
    source = case("symlink-folder-half")
    link = source / "part2"
    if not link.is_symlink():  # copied as the text of a link
        assert denoise(source, tmp_path / "out") == 2
        assert re.search("slices are lost, .*part2 is the text of a link", capsys.readouterr().err)
        link.unlink()
        link.symlink_to("../store")
    assert denoise(source, tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_a_metaimage_is_read_or_named_with_what_to_do(case, tmp_path, capsys):
    source = case("input-mha")
    code = denoise(source, tmp_path / "out")
    assert code == 0 or re.search(r"MetaImage file \(ct.mha\); convert it to NIfTI", capsys.readouterr().err)
