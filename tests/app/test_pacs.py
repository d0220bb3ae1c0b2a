"""A round trip with a PACS: Orthanc on this machine, filled and asked by DCMTK's programs."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from dicom_cases import CASES, write_enhanced_ct
from phantom import write_ct_series
from pydicom.uid import generate_uid
from scripts.app.command_line import main
from scripts.dicom import read_volume, select_series
from servers import Pacs, dcmtk, main_tag, paths

pytestmark = [
    pytest.mark.pacs,
    pytest.mark.skipif(
        not all(map(dcmtk, ("Orthanc", "storescu", "getscu"))), reason="needs Orthanc and DCMTK (make test-pacs)"
    ),
]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    server = Pacs(tmp_path_factory.mktemp("pacs") / "orthanc")
    try:
        server.wait()
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=30)


@pytest.mark.parametrize("case", ["plain", "padding named, -3024 HU", "enhanced"])
def test_both_series_stand_in_one_study(pacs, weights, tmp_path, case):
    if case == "enhanced":
        file, _ = write_enhanced_ct(tmp_path / "made", seed=8)
        source = file.parent
    else:
        source = write_ct_series(tmp_path / "made", seed=len(case), **CASES[case])
    study = str(generate_uid(entropy_srcs=[case]))  # one of its own for each case
    for path in source.iterdir():
        image = pydicom.dcmread(path)
        image.StudyInstanceUID = study
        image.save_as(path)
    series = select_series(source)

    pacs.send(source)
    pacs.get(series.series_instance_uid, study, tmp_path / "fetched")
    np.testing.assert_array_equal(read_volume(select_series(tmp_path / "fetched")), read_volume(series))
    words = ["--weights", str(weights), "--prior", "uniform", "--quiet", "--anchor-mm", "10"]
    assert main(["denoise", str(tmp_path / "fetched"), str(tmp_path / "denoised"), *words]) == 0
    pacs.send(tmp_path / "denoised")

    (held,) = [one for one in map(pacs.ask, paths(pacs, "studies")) if main_tag(one, "StudyInstanceUID") == study]
    both = [pacs.ask(f"series/{one}") for one in held["Series"]]
    assert len(both) == 2 and len({len(one["Instances"]) for one in both}) == 1
    derived = select_series(tmp_path / "denoised")
    (ours,) = [one for one in both if main_tag(one, "SeriesInstanceUID") == derived.series_instance_uid]
    assert main_tag(ours, "SeriesDescription") == f"{series.description} BioAtt denoised 10 mm"
    (tmp_path / "returned").mkdir()
    for number, instance in enumerate(ours["Instances"]):
        (tmp_path / "returned" / str(number)).write_bytes(pacs.ask(f"instances/{instance}/file"))
    returned = select_series(tmp_path / "returned")
    np.testing.assert_array_equal(read_volume(returned), read_volume(derived))
    np.testing.assert_allclose(returned.affine, series.affine)
    assert np.abs(read_volume(returned) - read_volume(series)).max() > 1
