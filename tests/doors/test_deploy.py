"""The MONAI Deploy application: what its files say, and the application run for real in its own environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml
from dicom_cases import CASES, changed, write_enhanced_ct
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.dicom import read_volume, select_series

ROOT = Path(__file__).parents[2]
APP = ROOT / "deploy" / "app"
PYTHON = ROOT / ".venv-deploy" / "bin" / "python"
MR = changed(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")


def pins(file):
    """Package and version of each line ``package==version``."""
    return dict(re.findall(r"^([\w-]+)==(\S+)$", file.read_text(), re.MULTILINE))


def test_the_package_has_the_bundles_version_and_tested_packages(bundle_root):
    config = yaml.safe_load((APP / "app.yaml").read_text())
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    assert config["application"]["version"] == metadata["version"]
    tested, packaged = pins(ROOT / "constraints.txt"), pins(APP / "requirements.txt")
    assert {name: version for name, version in packaged.items() if name in tested}.items() <= tested.items()
    assert metadata["required_packages_version"].keys() <= packaged.keys() & tested.keys()


def test_the_settings_are_the_defaults_of_the_inference_workflow(bundle_root):
    config = yaml.safe_load((APP / "app.yaml").read_text())
    inference = json.loads((bundle_root / "configs" / "inference.json").read_text())
    assert config["denoise"].items() <= (inference | inference["displayable_configs"]).items()


def in_deploy(function):
    """Mark a test that needs the SDK's environment."""
    ready = pytest.mark.skipif(not PYTHON.exists(), reason="needs the App SDK in .venv-deploy (make test-deploy)")
    return pytest.mark.deploy(ready(function))


def run(*words, **environment):
    """Run the application."""
    return run_python(APP, *words, **environment)


def run_python(*words, **environment):
    """Run the SDK's Python without a network, and without this one's packages."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HOLOSCAN")}
    environment = {**kept, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", **environment}
    return subprocess.run(
        [PYTHON, *map(str, words)], capture_output=True, text=True, env=environment, timeout=1800, check=False
    )


def assert_same_as_bioatt(source, result, tmp_path, *words):
    """The derived series in `result` is that of `bioatt denoise`."""
    assert main(["denoise", str(source), str(tmp_path / "ours"), "--quiet", *words]) == 0
    theirs, ours = select_series(result), select_series(tmp_path / "ours")
    np.testing.assert_array_equal(read_volume(theirs), read_volume(ours))
    np.testing.assert_allclose(theirs.affine, ours.affine)
    headers = [pydicom.dcmread(one.files[0], stop_before_pixels=True) for one in (theirs, ours)]
    for keyword in ("DerivationDescription", "SeriesDescription", "SeriesNumber", "StudyInstanceUID", "ImageType"):
        assert headers[0].get(keyword) == headers[1].get(keyword), keyword


@in_deploy
def test_the_one_ct_series_of_a_study_is_denoised_as_by_bioatt(tmp_path):
    study = tmp_path / "study"
    fine = {"slices": 5, "noise_sd": 40.0, "spacing": (0.8, 0.8)}
    source = write_ct_series(study / "a", **fine, **CASES["padding named, -3024 HU"])
    write_ct_series(study / "scout", slices=1, seed=1, modify=changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    write_ct_series(study / "mr", slices=2, seed=2, modify=MR)
    done = run("-i", study, "-o", tmp_path / "out", "-m", ROOT / "bundle")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_as_bioatt(source, tmp_path / "out" / "denoised", tmp_path)
    assert (
        np.abs(read_volume(select_series(tmp_path / "out" / "denoised")) - read_volume(select_series(source))).max()
        > 20
    )
    header = pydicom.dcmread(next(source.iterdir()))
    for keyword in ("PatientName", "PatientID", "StudyDescription", "AccessionNumber"):
        assert str(header[keyword].value) not in done.stdout + done.stderr


@in_deploy
def test_a_package_finds_folders_rules_and_settings_in_its_environment(tmp_path):
    thin = write_ct_series(tmp_path / "in" / "thin", slices=4, noise_sd=40.0)
    write_ct_series(tmp_path / "in" / "thick", slices=3, seed=1, modify=changed(SliceThickness=5.0))
    thickness = float(pydicom.dcmread(next(thin.iterdir())).SliceThickness)
    config = yaml.safe_load((APP / "app.yaml").read_text())
    config["selection"]["selections"][0]["conditions"]["SliceThickness"] = [0, thickness]
    config["denoise"] = {"strength": "low", "anchor_mm": 8.0, "prior": "uniform"}
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(config))
    shutil.copytree(ROOT / "bundle", tmp_path / "models" / "ct_low_dose_denoising_bioatt")
    (tmp_path / "out").mkdir()
    places = {"INPUT": "in", "OUTPUT": "out", "MODEL": "models", "CONFIG": "app.yaml"}
    done = run(**{f"HOLOSCAN_{name}_PATH": str(tmp_path / place) for name, place in places.items()})
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_as_bioatt(thin, tmp_path / "out" / "denoised", tmp_path, "--anchor-mm", "8", "--prior", "uniform")


#: What stands in the input folder, and what the one line says.
BAD = {
    "nothing": "no files; name a folder with a CT series",
    "no DICOM": "no DICOM in 1 files",
    "no CT": "holds DICOM but no CT image",
    "several": "the rules select 2 CT series in .*narrow selection in app.yaml",
    "gaps": "slices are missing or their spacing changes",
    "exists": "denoised exists; name another one",
}
#: Many runs in one process: each start takes longer than all of them.
DRIVER = """
import contextlib, io, json, sys
sys.path.insert(0, sys.argv[1])
from app import main
ends = {}
for name, *words in json.loads(sys.argv[2]):
    sys.argv[1:] = words
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main()
    ends[name] = [code, said.getvalue()]
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Folder with in/CASE and out/CASE; exit code and stderr of each case, and of an Enhanced CT image."""
    root = tmp_path_factory.mktemp("cases")
    for name in BAD:
        (root / "in" / name).mkdir(parents=True)
    (root / "in" / "no DICOM" / "notes.txt").write_text("no image")
    write_ct_series(root / "in" / "no CT" / "mr", slices=2, modify=MR)
    for name in ("several", "gaps", "exists"):
        write_ct_series(root / "in" / name / "a", slices=4)
    write_ct_series(root / "in" / "several" / "b", slices=2, seed=1)
    (root / "in" / "gaps" / "a" / "0002.dcm").unlink()
    (root / "out" / "exists" / "denoised").mkdir(parents=True)
    (root / "out" / "exists" / "denoised" / "mine.txt").write_text("mine")
    file, _ = write_enhanced_ct(root / "made", slices=3)
    file.parent.rename(root / "in" / "enhanced")
    words = [[name, "-i", root / "in" / name, "-o", root / "out" / name, "-m", ROOT / "bundle"] for name in BAD]
    words.append(["enhanced", "-i", root / "in" / "enhanced", "-o", root / "out" / "enhanced", "-m", ROOT / "bundle"])
    done = run_python("-c", DRIVER, APP, json.dumps(words, default=str))
    assert done.returncode == 0, done.stdout + done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


@in_deploy
def test_an_enhanced_ct_image_stays_one(ends, tmp_path):
    root, told = ends
    assert told["enhanced"][0] == 0, told["enhanced"]
    assert_same_as_bioatt(root / "in" / "enhanced", root / "out" / "enhanced" / "denoised", tmp_path)


@in_deploy
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_exit_code_2_and_nothing_written(ends, case):
    root, told = ends
    code, said = told[case]
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and re.search(BAD[case], lines[0]), said
    written = [path.name for path in (root / "out" / case).rglob("*")]
    assert sorted(written) == (["denoised", "mine.txt"] if case == "exists" else [])


PACKAGER = """
import json, pathlib, sys
from holoscan_cli.packager.config_reader import ApplicationConfiguration
from holoscan_cli.packager.models import Models
config = ApplicationConfiguration()
config.read(pathlib.Path(sys.argv[1]))
models = Models().build(pathlib.Path(sys.argv[2]))
print(json.dumps([config.title(), {name: str(path) for name, path in models.items()}]))
"""


@in_deploy
def test_the_packager_reads_the_config_and_finds_the_bundle(tmp_path):
    bundle = tmp_path / "ct_low_dose_denoising_bioatt"
    shutil.copytree(ROOT / "bundle", bundle)
    done = run_python("-c", PACKAGER, APP / "app.yaml", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["BioAtt low-dose CT denoising", {bundle.name: str(bundle)}]
