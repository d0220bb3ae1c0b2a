"""The water phantom: HU, noise texture and resolution of the network at low dose, with their acceptance limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scripts.dose import DoseSimulator, ParallelBeam

from studies.measures.phantoms import RodPhantom, rod_phantom
from studies.measures.transfer import measure_texture

from .denoisers import Denoiser, gaussian_denoiser
from .limits import Limit

#: Noise of the full dose in the water, as in routine abdominal scans.
FULL_NOISE_HU = 12.0
SIZE, SPACING_MM, VIEWS = 448, 0.7, 600
LOW_CONTRAST = "14"
#: Of frequencies in the noise, 1/mm.
BANDS_PER_MM = ((0.0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.5))
WIDEST_GAUSSIAN_MM = 10.0


def measure_phantom(
    denoisers: Sequence[Denoiser],
    *,
    beside: Sequence[str] = (),
    dose_fraction: float = 0.25,
    realisations: int = 50,
    seed: int = 0,
) -> dict[str, Any]:
    """`measure_texture` of each denoiser on the same noise, with photons that give the full dose its noise.

    Args:
        denoisers: the limits apply to the first.
        beside: names of those that a Gaussian which leaves as much noise stands beside.
        dose_fraction, realisations, seed: see `measure_texture`.

    Returns:
        ``denoisers``: name to the result; ``limits`` of the first; ``simulation``: how it was done.
    """
    phantom = rod_phantom(SIZE, SPACING_MM)
    simulator = calibrated(phantom)

    def measured(one: Denoiser) -> dict[str, Any]:
        return measure_texture(
            lambda stack: one(stack, SPACING_MM),
            simulator,
            dose_fraction=dose_fraction,
            realisations=realisations,
            seed=seed,
            phantom=phantom,
            bands_per_mm=BANDS_PER_MM,
        )

    results: dict[str, dict[str, Any]] = {}
    for one in denoisers:
        results[one.name] = measured(one)
        if one.name in beside:
            sigma_mm = gaussian_with_noise(results[one.name]["nps"])
            plain = gaussian_denoiser(f"Gaussian of {sigma_mm:.2f} mm, as {one.name}", sigma_mm)
            results[plain.name] = measured(plain)
    described = {"views": VIEWS, "photons": simulator.photons, "full_noise_hu": FULL_NOISE_HU, "pixels": SIZE}
    limits = [one.as_dict() for one in phantom_limits(results[denoisers[0].name])]
    return {"simulation": described, "denoisers": results, "limits": limits}


def calibrated(phantom: RodPhantom, noise_hu: float = FULL_NOISE_HU) -> DoseSimulator:
    """A simulator whose photons give the water `noise_hu` at full dose: noise goes as 1 / sqrt(photons)."""
    geometry = ParallelBeam(views=VIEWS, spacing_mm=phantom.spacing_mm)
    trial = DoseSimulator(geometry=geometry, electronic_sd=0.0)
    noise = trial.low_dose(phantom.image_hu, 0.5, np.random.default_rng(0)) - phantom.image_hu  # half: the full dose's
    return replace(trial, photons=trial.photons * (float(phantom.rois(noise).std()) / noise_hu) ** 2)


def gaussian_with_noise(nps: dict[str, Any]) -> float:
    """SD in mm of the Gaussian that leaves as much of the low dose's noise as the denoiser did.

    Args:
        nps: ``low`` and ``denoised`` of `measure_texture`.
    """
    low = nps["low"]
    frequency, power = np.array(low["frequency_per_mm"]), np.array(low["nps_hu2_mm2"])
    wanted = (nps["denoised"]["sd_hu"] / low["sd_hu"]) ** 2

    def too_much(sigma_mm: float) -> float:
        passed = np.exp(-((2.0 * np.pi * sigma_mm * frequency) ** 2))
        return float((passed * power * frequency).sum() / (power * frequency).sum()) - wanted

    return float(brentq(too_much, 0.0, WIDEST_GAUSSIAN_MM)) if too_much(WIDEST_GAUSSIAN_MM) < 0 < too_much(0.0) else 0.0


def noise_passed(spectrum: dict[str, Any], reference: dict[str, Any]) -> list[float]:
    """SD of the noise as a share of the reference's, one for each of `BANDS_PER_MM`.

    Args:
        spectrum, reference: of `noise_power_spectrum`, with the same frequencies.
    """
    frequency = np.array(reference["frequency_per_mm"])
    shares = []
    for lowest, highest in BANDS_PER_MM:
        band = (frequency >= lowest) & (frequency < highest)
        power, of = ((np.array(one["nps_hu2_mm2"])[band] * frequency[band]).sum() for one in (spectrum, reference))
        shares.append(float(np.sqrt(power / of)))
    return shares


def peak_moved(result: dict[str, Any]) -> float:
    """How far the peak of the noise lies from the full dose's, as a share of it."""
    full, out = (result["nps"][name]["peak_frequency_per_mm"] for name in ("full", "denoised"))
    return abs(out / full - 1)


def ttf50_share(result: dict[str, Any], contrast: str) -> float:
    """TTF50 at rods of a contrast as a share of the full dose's."""
    low, out = (result["ttf"][contrast][name]["ttf50_per_mm"] for name in ("low", "denoised"))
    return out / low


def phantom_limits(result: dict[str, Any]) -> list[Limit]:
    """The limits on a result of `measure_texture`."""
    worst = max(result["bias_hu"].values(), key=abs)
    return [
        Limit("noise power spectrum: peak moved by less than 20%", peak_moved(result), "<", 0.2, "of the full dose's"),
        Limit(
            f"TTF50 at {LOW_CONTRAST} HU at least 90%",
            ttf50_share(result, LOW_CONTRAST),
            ">=",
            0.9,
            "of the full dose's",
        ),
        Limit("HU of water and rods within 2 HU", abs(worst), "<", 2.0, "HU"),
    ]
