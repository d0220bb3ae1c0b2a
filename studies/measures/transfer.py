"""Task transfer function, as AAPM TG-233 defines it, and texture and resolution of a network on the rod phantom.

Source: Samei et al., Performance evaluation of computed tomography systems: summary of AAPM Task Group 233, Med
Phys 46 (2019) e735, section on task-based spatial resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.signal.windows import tukey
from scripts.dose import DoseSimulator
from scripts.evaluation.texture import noise_power_spectrum

from .phantoms import RodPhantom, rod_phantom


def task_transfer_function(
    image_hu: np.ndarray,
    centers: Sequence[tuple[float, float]],
    radius_mm: float,
    spacing_mm: float,
    half_width_mm: float = 8.0,
) -> dict[str, Any]:
    """Transfer function at the edge of circular rods: edge spread -> line spread -> |Fourier transform|.

    Every pixel within `half_width_mm` of an edge is a sample of the edge spread at its distance from the centre, so
    bins of a tenth of a pixel fill. Its derivative is tapered (flat over the inner half, cosine to the ends), against
    the noise of the plateaus, transformed, and normalised at frequency 0.

    Args:
        image_hu: (H, W) in HU; the mean over realisations, since the noise of the edge goes into the result.
        centers: (row, column) in pixels of rods of one contrast; all of them make one edge spread.
        radius_mm: of the rods.
        spacing_mm: of the pixels.
        half_width_mm: how far inside and outside of the edge pixels count; at least five times its blur.

    Returns:
        ``frequency_per_mm`` up to the Nyquist frequency and ``ttf``, lists; ``ttf50_per_mm`` and ``ttf10_per_mm``,
        where it first falls to that part, NaN where it does not; ``contrast_hu``, inside minus outside, by the
        outer quarters of the edge spread.
    """
    image = np.asarray(image_hu, dtype=np.float64)
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    distances, values = [], []
    for row, column in centers:
        distance = np.hypot(rows - row, columns - column) * spacing_mm - radius_mm
        near = np.abs(distance) <= half_width_mm
        distances.append(distance[near])
        values.append(image[near])
    position, edge = _edge_spread(np.concatenate(distances), np.concatenate(values), half_width_mm, spacing_mm / 10)
    line = -np.diff(edge) * tukey(len(edge) - 1)
    middles = (position[1:] + position[:-1]) / 2
    frequency = np.linspace(0.0, 0.5 / spacing_mm, 101)
    transfer = np.abs(np.exp(-2j * np.pi * np.outer(frequency, middles)) @ line)
    transfer /= transfer[0] if transfer[0] > 0 else math.nan
    quarter = len(edge) // 4
    return {
        "frequency_per_mm": frequency.tolist(),
        "ttf": transfer.tolist(),
        "ttf50_per_mm": _first_fall(frequency, transfer, 0.5),
        "ttf10_per_mm": _first_fall(frequency, transfer, 0.1),
        "contrast_hu": float(edge[:quarter].mean() - edge[-quarter:].mean()),
    }


def measure_texture(
    network: Callable[[np.ndarray], np.ndarray],
    simulator: DoseSimulator,
    *,
    dose_fraction: float = 0.25,
    realisations: int = 50,
    seed: int = 0,
    phantom: RodPhantom | None = None,
) -> dict[str, Any]:
    """Noise power spectrum and HU in water, transfer functions and HU at rods, before and after a network.

    The phantom has no noise of its own, and the simulator adds the *difference* between two doses; so it is asked
    for ``k / (1 + k)``, whose difference to the full dose is the whole quantum noise at k: (1 + k) / k - 1 = 1 / k.
    Before and after see the same realisations; those of the full dose are others.

    A transfer function is that of the mean signal ``<network(water + rods + noise) - network(water + noise)>``, each
    pair with one noise: the same expectation as without the second term, which is flat, but with little of the noise
    that would drown a low contrast. A network's transfer hangs on contrast and noise, so noise must be there. That
    of the input is the full dose's too, since simulation adds noise and blurs nothing.

    Args:
        network: slices (n, N, N) in HU to slices (n, N, N) in HU; asked with two at a time.
        simulator: its spacing is that of the phantom.
        dose_fraction: k in (0, 1], as a share of the dose that the simulator's photons stand for.
        realisations: how many noisy images, at least two.
        seed: of the noise.
        phantom: `rod_phantom` at the simulator's spacing if not given.

    Returns:
        ``nps`` of ``full``, ``low`` and ``denoised``, see `noise_power_spectrum`; ``ttf`` by contrast in HU (a string,
        as JSON has it) of ``low`` and ``denoised``, see `task_transfer_function`; ``bias_hu`` of ``denoised`` by the
        same contrasts, "0" for the water; and ``dose_fraction``, ``realisations``, ``seed``, ``spacing_mm``.
    """
    spacing_mm = simulator.geometry.spacing_mm
    phantom = phantom or rod_phantom(spacing_mm=spacing_mm)
    if not math.isclose(phantom.spacing_mm, spacing_mm):
        raise ValueError(f"phantom and simulator must have one spacing, got {phantom.spacing_mm} and {spacing_mm} mm")
    generator = np.random.default_rng(seed)
    line_integrals = simulator.geometry.project(phantom.image_hu)

    def noisy(dose: float) -> np.ndarray:
        return simulator.low_dose(phantom.image_hu, dose / (1 + dose), generator, line_integrals=line_integrals)

    rois: dict[str, list[np.ndarray]] = {"full": [], "low": [], "denoised": []}
    mean = np.zeros(phantom.image_hu.shape)
    signals = {"low": phantom.rods_hu, "denoised": np.zeros(phantom.rods_hu.shape)}
    for _ in range(realisations):
        low = noisy(dose_fraction)
        denoised, without = network(np.stack([low, low - phantom.rods_hu]))
        for name, image in (("full", noisy(1.0)), ("low", low), ("denoised", denoised)):
            rois[name].append(phantom.rois(image))
        mean += (denoised - low) / realisations  # its own noise is taken off: the low dose is right in the mean
        signals["denoised"] += (denoised - without) / realisations
    return {
        "dose_fraction": dose_fraction,
        "realisations": realisations,
        "seed": seed,
        "spacing_mm": spacing_mm,
        "nps": {name: noise_power_spectrum(np.stack(stack), spacing_mm) for name, stack in rois.items()},
        "ttf": {
            f"{contrast:g}": {
                name: task_transfer_function(signal, centers, phantom.radius_mm, spacing_mm)
                for name, signal in signals.items()
            }
            for contrast, centers in phantom.centers.items()
        },
        "bias_hu": {
            "0": float(phantom.rois(mean).mean()),
            **{f"{contrast:g}": float(mean[phantom.inside(contrast)].mean()) for contrast in phantom.centers},
        },
    }


def _edge_spread(
    distance: np.ndarray, value: np.ndarray, half_width: float, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and mean values in bins of `width`; an empty bin is interpolated from its neighbours."""
    edges = np.arange(-half_width, half_width + width / 2, width)
    counts, _ = np.histogram(distance, edges)
    sums, _ = np.histogram(distance, edges, weights=value)
    middles = (edges[1:] + edges[:-1]) / 2
    full = counts > 0
    return middles, np.interp(middles, middles[full], sums[full] / counts[full])


def _first_fall(frequency: np.ndarray, transfer: np.ndarray, level: float) -> float:
    """Frequency where `transfer` first falls through `level`, between samples by a straight line."""
    below = np.flatnonzero(transfer < level)
    if not below.size or below[0] == 0:
        return math.nan
    i = int(below[0])
    part = (transfer[i - 1] - level) / (transfer[i - 1] - transfer[i])
    return float(frequency[i - 1] + part * (frequency[i] - frequency[i - 1]))
