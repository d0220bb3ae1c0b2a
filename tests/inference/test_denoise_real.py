"""The promises about real series: noise falls, HU stay, geometry is the same, both ways give the same pixels."""

from __future__ import annotations

import shutil
import subprocess
import sys

import highdicom
import numpy as np
import pydicom
import pytest
from scripts.app.command_line import main
from scripts.volumes import load_volume, radiological_slices

from studies.evidence.series import evaluate_slices

pytestmark = pytest.mark.data

SERIES = ("C3N-00249", "C3N-04457", "CRLM-CT-1004", "CRLM-CT-1006", "TCGA-09-2043")
UNDECODABLE = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")
EIGHT_BIT = "1.2.840.10008.1.2.4.50"


@pytest.fixture(scope="module")
def evaluated(data_dir, tmp_path_factory):
    """Each series denoised by `bioatt denoise` and evaluated, once."""
    kept = {}

    def denoise(name):
        if name not in kept:
            target = tmp_path_factory.mktemp("real") / name
            assert main(["denoise", str(data_dir / "ct" / name), str(target), "--quiet"]) == 0
            kept[name] = (
                target,
                evaluate_slices(radiological_slices(data_dir / "ct" / name), radiological_slices(target)),
            )
        return kept[name]

    return denoise


@pytest.mark.parametrize("name", SERIES)
def test_soft_tissue_noise_falls_by_a_fifth(evaluated, name):
    before, after = evaluated(name)[1]["noise_sd_hu"]
    assert after <= 0.8 * before


@pytest.mark.parametrize("name", SERIES)
def test_hu_of_fat_soft_tissue_and_bone_stay(evaluated, name):
    _, result = evaluated(name)
    assert result["soft_tissue_sd_hu"][1] < result["soft_tissue_sd_hu"][0]
    for tissue in ("fat", "soft tissue", "bone"):
        assert abs(result["bias_hu"][tissue]) <= 2.0, tissue


@pytest.mark.parametrize("name", SERIES)
def test_highdicom_reads_the_same_geometry(data_dir, evaluated, name):
    target, _ = evaluated(name)

    def volume(folder):
        files = [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]
        return highdicom.get_volume_from_series(files)

    source, result = volume(data_dir / "ct" / name), volume(target)
    np.testing.assert_allclose(result.affine, source.affine)
    assert result.spatial_shape == source.spatial_shape


def assert_sharper(edges, baseline):
    """At equal noise the denoised body and bone edges are narrower than the baseline's."""
    assert edges["noise_sd_hu"][baseline] == pytest.approx(edges["noise_sd_hu"]["denoised"], rel=0.1)
    for edge in ("body", "bone"):
        if edge in edges:
            assert edges[edge]["denoised"] < edges[edge][baseline], edge


@pytest.mark.parametrize("name", SERIES)
def test_edges_are_sharper_than_a_gaussians_of_equal_noise(evaluated, name):
    assert_sharper(evaluated(name)[1]["edges"], "gaussian")


@pytest.mark.parametrize("name", SERIES)
def test_edges_are_sharper_than_non_local_means_of_equal_noise(evaluated, name):
    assert_sharper(evaluated(name)[1]["edges"], "nlm")


@pytest.mark.parametrize("name", SERIES)
def test_twelve_slices_through_monai_bundle_run_are_identical(data_dir, bundle_root, tmp_path, name):
    files = sorted((data_dir / "ct" / name).glob("*.dcm"))
    middle = len(files) // 2
    (tmp_path / "in").mkdir()
    for file in files[max(0, middle - 6) : middle + 6]:
        shutil.copy(file, tmp_path / "in")
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "ours"), "--quiet"]) == 0
    words = ["--bundle_root", str(bundle_root), "--config_file", str(bundle_root / "configs" / "inference.json")]
    words += ["--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "monai")]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", "inference", *words], cwd=tmp_path, check=True)
    ours, monai = load_volume(tmp_path / "ours"), load_volume(tmp_path / "monai")
    assert ours.hu.shape[2] == 12
    np.testing.assert_array_equal(ours.hu, monai.hu)


def cases(data_dir):
    return sorted((data_dir / "dicom_cases" / "transfer_syntaxes").glob("CTImage.dcm*"))


def test_every_decodable_transfer_syntax_is_denoised(data_dir, tmp_path):
    done = []
    for i, file in enumerate(cases(data_dir)):
        syntax = str(pydicom.dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        if syntax in UNDECODABLE:
            continue
        assert main(["denoise", str(file), str(tmp_path / str(i)), "--quiet"]) == 0, file.name
        if syntax != EIGHT_BIT:
            result = evaluate_slices(radiological_slices(file), radiological_slices(tmp_path / str(i)))
            before, after = result["noise_sd_hu"]
            assert after <= 0.8 * before, file.name
            assert all(abs(result["bias_hu"][t]) <= 2.0 for t in ("fat", "soft tissue", "bone")), file.name
        done.append(file)
    assert len(done) == len(cases(data_dir)) - len(UNDECODABLE)


def test_undecodable_transfer_syntaxes_are_one_line_that_names_them(data_dir, tmp_path, capsys):
    refused = 0
    for file in cases(data_dir):
        syntax = str(pydicom.dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        if syntax in UNDECODABLE:
            capsys.readouterr()
            assert main(["denoise", str(file), str(tmp_path / "out"), "--quiet"]) == 2
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
            assert len(lines) == 1 and syntax in lines[0]
            assert not (tmp_path / "out").exists()
            refused += 1
    assert refused == len(UNDECODABLE)
