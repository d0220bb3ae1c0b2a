"""The headline figures, measured again on the validation patient."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies.evidence.bench import Bench
from studies.evidence.denoisers import Denoiser, bundle_denoiser
from studies.evidence.methods import anchored, network_method
from studies.evidence.patients import Patient
from studies.evidence.quality import measure_quality

pytestmark = pytest.mark.data

PATIENT = "CRLM-CT-1006"


def test_the_shipped_weights_have_the_psnr_and_ssim_that_the_evidence_tells(data_dir, bundle_root):
    told = json.loads((Path(__file__).parents[2] / "docs" / "evidence" / "results" / "quality.json").read_text())
    strength = told["network"].get("strength")  # not recorded until 0.3.2, which had no anchor
    network = bundle_denoiser(
        "network",
        bundle_root / "models" / "model.pt",
        prior=told["network"]["prior"],
        strength=strength and strength["name"],
    )
    assert network.record["weights_sha256"] == told["network"]["weights_sha256"]
    patient = Patient.read(data_dir / "ct" / PATIENT, seed=told["seed"])
    unused = Denoiser(name="nlm", denoise=lambda stack, spacing_mm: stack)  # measured by `make evidence` alone
    measured = measure_quality([patient], [network, unused], slices=told["slices_per_patient"])
    for image in ("low", "network"):
        ours, theirs = measured["patients"][PATIENT][image], told["patients"][PATIENT][image]
        assert ours["psnr_db"] == pytest.approx(theirs["psnr_db"], abs=0.02)
        assert ours["ssim"] == pytest.approx(theirs["ssim"], abs=0.0005)


def test_the_shipped_weights_keep_the_contrast_and_the_error_that_the_evidence_tells(data_dir, bundle_root, tmp_path):
    told = json.loads((Path(__file__).parents[2] / "docs" / "evidence" / "results" / "plane.json").read_text())
    settings = {name: anchored(*values) for name, values in told["strengths"].items()}
    weights, prior = bundle_root / "models" / "model.pt", told["network"]["prior"]
    slices = len(told["patients"][PATIENT]["slices"])
    bench = Bench(data_dir, tmp_path, [PATIENT], slices=slices, seed=told["seed"])
    measured = bench.figures("again", list(settings), lambda: network_method("network", weights, settings, prior=prior))
    for strength, of in measured.items():
        ours, theirs = of[PATIENT], told["figures"]["network"][strength][PATIENT]
        assert ours["slices"] == theirs["slices"] and ours["discs"] == theirs["discs"]
        assert ours["noise_left"] == pytest.approx(theirs["noise_left"], abs=0.005)
        assert ours["contrast"] == pytest.approx(theirs["contrast"], abs=0.005)
        assert ours["error_hu2"] == pytest.approx(theirs["error_hu2"], rel=0.01)
