"""MONAI Label's stock app with this bundle, started for real: inference and training through its REST interface."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from made_studies import as_nifti
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.volumes import load_volume

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-label" / "bin" / "python"
NAME = "ct_low_dose_denoising_bioatt"
pytestmark = [
    pytest.mark.label,
    pytest.mark.skipif(not PYTHON.exists(), reason="needs MONAI Label in .venv-label (make test-label)"),
]


class Server:
    """MONAI Label on this machine, with an app and studies of its own.

    Args:
        folder: for app, studies and log.
    """

    def __init__(self, folder):
        self.studies = folder / "studies"
        self.log = folder / "log.txt"
        self.app = folder / "apps" / "monaibundle"
        self.model = self.app / "model" / NAME
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        self._call("apps", "--download", "--name", "monaibundle", "--output", str(folder / "apps")).wait(600)
        shutil.copytree(ROOT / "bundle", self.model, ignore=shutil.ignore_patterns("__pycache__"))

    def start(self):
        """Start it and wait until it answers."""
        conf = {"models": NAME, "zoo_source": "ngc", "sam2": "false"}
        words = [word for pair in conf.items() for word in ("--conf", *pair)]
        words += ["--app", self.app, "--studies", self.studies, "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = self._call("start_server", *words)
        for _ in range(600):
            try:
                return self.ask("info/")
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(1.0)
        raise TimeoutError("MONAI Label does not answer")

    def ask(self, path, body=None):
        """Answer of its REST interface; `body` is sent as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read())

    def _call(self, *words):
        with self.log.open("a") as log:
            command = [PYTHON, "-m", "monailabel.main", *words]
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)


@pytest.fixture(scope="module")
def client():
    """The client that is shipped, with what works outside Slicer."""
    spec = importlib.util.spec_from_file_location("client", ROOT / "deploy" / "label" / "client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with three patients: images of low dose, and labels of full dose to train on."""
    folder = tmp_path_factory.mktemp("label")
    one = Server(folder)
    labels = one.studies / "labels" / "final"
    labels.mkdir(parents=True)
    for seed, name in enumerate("abc"):
        for place, noise_sd in ((one.studies, 40.0), (labels, 8.0)):
            series = write_ct_series(
                folder / "dicom" / place.name / name, slices=3, spacing=(0.8, 0.8), noise_sd=noise_sd, seed=seed
            )
            as_nifti(series, place / f"{name}.nii.gz", axes=(1, 0, 2), flip=(seed,))
    try:
        one.start()
        yield one
    finally:
        one.process.terminate()
        one.process.wait(timeout=60)


def assert_same(path, hu, affine):
    """The NIfTI file at `path` holds `hu` to 1 HU, at the same places."""
    image = nibabel.load(path)
    np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    np.testing.assert_allclose(image.get_fdata(), hu, atol=1.0)


def denoised_nifti(source, target, *words):
    assert main(["denoise", str(source), str(target), "--quiet", *words]) == 0
    return nibabel.load(target / source.name)


def test_the_server_lists_model_trainer_and_images(server):
    info = server.ask("info/")
    assert NAME in info["models"] and NAME in info["trainers"]
    assert info["datastore"]["total"] == 3


def test_a_nifti_is_denoised_as_by_bioatt(server, client, tmp_path):
    source = server.studies / "b.nii.gz"
    result = client.fetch_denoised(server.url, "b", tmp_path / "result.nii.gz")
    ours = denoised_nifti(source, tmp_path / "ours")
    assert_same(result, ours.get_fdata(), ours.affine)
    assert np.abs(nibabel.load(result).get_fdata() - nibabel.load(source).get_fdata()).max() > 20
    shown = SimpleITK.ReadImage(client.fetch_denoised(server.url, "b", tmp_path / "result.nrrd"))
    assert shown.GetPixelID() == SimpleITK.sitkInt16
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(shown).T, nibabel.load(result).get_fdata())


def test_each_strength_is_that_of_bioatt_and_no_other_is_taken(server, client, tmp_path):
    results = {}
    for name in ("high", "low"):
        results[name] = client.fetch_denoised(server.url, "b", tmp_path / f"{name}.nii.gz", name)
        ours = denoised_nifti(server.studies / "b.nii.gz", tmp_path / f"ours {name}", "--strength", name)
        assert_same(results[name], ours.get_fdata(), ours.affine)
    high, low = (nibabel.load(results[name]).get_fdata() for name in ("high", "low"))
    assert np.abs(high - low).max() > 5
    with pytest.raises(urllib.error.HTTPError, match="500"):
        client.fetch_denoised(server.url, "b", tmp_path / "none.nii.gz", "strong")


def test_a_dicom_folder_is_denoised_as_by_bioatt(server, client, tmp_path):
    source = write_ct_series(
        tmp_path / "series", slices=4, spacing=(0.8, 0.8), noise_sd=40.0, signed=True, patient_position="FFS"
    )
    result = client.fetch_denoised(server.url, str(source), tmp_path / "result.nii.gz")
    assert main(["denoise", str(source), str(tmp_path / "ours"), "--quiet"]) == 0
    ours = load_volume(tmp_path / "ours")
    assert_same(result, ours.hu, ours.affine)
    assert np.abs(ours.hu - load_volume(source).hu).max() > 20


def test_what_bioatt_refuses_the_server_refuses_and_goes_on(server, client, tmp_path):
    for seed, name in enumerate(("one", "two")):
        write_ct_series(tmp_path / "several" / name, slices=2, seed=seed)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        client.fetch_denoised(server.url, str(tmp_path / "several"), tmp_path / "result.nii.gz")
    for _ in range(60):  # the answer is sent before the log is written
        if told := re.search("BioAttError: .* holds 2 CT series", server.log.read_text()):
            break
        time.sleep(0.5)
    assert told
    assert server.ask("info/")["models"]


def test_training_publishes_weights_that_the_server_then_uses(server, client, tmp_path):
    weights = server.model / "models" / "model.pt"
    before = weights.read_bytes()
    for _ in range(2):  # once more: labels come in one after the other
        server.ask(f"train/{NAME}", {"max_epochs": 1, "val_split": 0.34, "device": "cpu"})
        while (task := server.ask("train/"))["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(1.0)
        assert task["status"] == "DONE", server.log.read_text()
        assert weights.read_bytes() != before
        before = weights.read_bytes()
    result = client.fetch_denoised(server.url, "a", tmp_path / "result.nii.gz")
    ours = denoised_nifti(server.studies / "a.nii.gz", tmp_path / "ours", "--weights", str(weights))
    assert_same(result, ours.get_fdata(), ours.affine)
