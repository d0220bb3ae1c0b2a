"""The fast network beside networks of another form, trained on the same targets, data and number of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from scripts.evaluation.handlers import read_curve
from scripts.workflow import CONFIGS

from .denoisers import Denoiser
from .limits import Limit
from .patients import Patient
from .phantom import measure_phantom, peak_moved, ttf50_share
from .quality import measure_quality

#: The configs that all trainings of the comparison share.
RECIPE = ("train.json", "shipped.json")
#: What the record of our own networks begins with.
OURS = "BioAttUNet"


def measure_baselines(
    patients: Sequence[Patient],
    denoisers: Sequence[Denoiser],
    baselines: Mapping[str, Path],
    own_curve: Path,
    *,
    slices: int = 10,
    realisations: int = 50,
    seed: int = 0,
) -> dict[str, Any]:
    """Quality, texture and training curves of networks side by side.

    Args:
        patients: left out of all trainings.
        denoisers: the network, non-local means, then the baselines.
        baselines: a baseline's name to its weights; ``curve.csv`` is read beside them.
        own_curve: curve of the network.
        slices: about so many a patient.
        realisations: of the phantom's noise.
        seed: of the phantom's noise.

    Returns:
        ``quality``: see `measure_quality`; ``texture``: a denoiser's noise, peak and TTF50s; ``curves``: validated
        epochs of each training; ``recipe``: what they share; ``limits``: our networks against the others.
    """
    quality = measure_quality(patients, denoisers, slices=slices)
    networks = [denoisers[0], *(one for one in denoisers if one.name in baselines)]
    phantom = measure_phantom(networks, realisations=realisations, seed=seed)["denoisers"]
    files = {denoisers[0].name: own_curve} | {
        name: weights.with_name("curve.csv") for name, weights in baselines.items()
    }
    return {
        "quality": {key: quality[key] for key in ("dose_fraction", "patients", "gain")},
        "texture": {
            name: {
                "sd_hu": one["nps"]["denoised"]["sd_hu"],
                "peak_moved": peak_moved(one),
                "ttf50_share": {contrast: ttf50_share(one, contrast) for contrast in one["ttf"]},
            }
            for name, one in phantom.items()
        },
        "curves": {name: validated(path) for name, path in files.items()},
        "recipe": _recipe(),
        "networks": {one.name: one.record for one in networks},
        "limits": [one.as_dict() for one in baseline_limits(quality["patients"], networks)],
    }


def baseline_limits(patients: Mapping[str, Any], networks: Sequence[Denoiser]) -> list[Limit]:
    """Each of our networks has more PSNR and SSIM than each of another form, on every patient."""
    ours = [one.name for one in networks if one.record["network"].startswith(OURS)]
    theirs = [one.name for one in networks if one.name not in ours]
    limits = []
    for patient, mean in patients.items():
        for own in ours:
            for other in theirs:
                lead = {key: mean[other][key] - mean[own][key] for key in ("psnr_db", "ssim")}
                name = f"{patient}: {{}} of {own} above {other}"
                limits.append(Limit(name.format("PSNR"), lead["psnr_db"], "<", 0.0, "dB (theirs less ours)"))
                limits.append(Limit(name.format("SSIM"), lead["ssim"], "<", 0.0, "(theirs less ours)"))
    return limits


def validated(curve: Path) -> list[dict[str, float]]:
    """Steps, PSNR and the low dose's PSNR of the epochs of a curve.csv that were validated."""
    return [
        {"steps": int(row["iteration"]), **{key: float(row[key]) for key in ("psnr_db", "low_psnr_db")}}
        for row in read_curve(curve)
        if row["psnr_db"]
    ]


def _recipe() -> dict[str, Any]:
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / name) for name in RECIPE]))
    return {"configs": list(RECIPE), "patches_a_step": parser["batch_size"], "patch_shape": list(parser["patch_shape"])}
