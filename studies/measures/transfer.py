"""Task transfer function, as AAPM TG-233 defines it, and texture and resolution of a network on the rod phantom.

Source: Samei et al., Performance evaluation of computed tomography systems: summary of AAPM Task Group 233, Med
Phys 46 (2019) e735, section on task-based spatial resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.signal.windows import tukey
from scripts.dose import DoseSimulator
from scripts.evaluation.texture import noise_power_spectrum

from .phantoms import RodPhantom, rod_phantom

#: At which a transfer function is given, from 0 to the Nyquist frequency; and draws of a bootstrap.
FREQUENCIES, DRAWS = 101, 1000


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
    frequency, transform, edge = _edge_transform(image_hu, centers, radius_mm, spacing_mm, half_width_mm)
    transfer = _normalised(transform)
    quarter = len(edge) // 4
    return {
        "frequency_per_mm": frequency.tolist(),
        "ttf": transfer.tolist(),
        "ttf50_per_mm": _first_fall(frequency, transfer, 0.5),
        "ttf10_per_mm": _first_fall(frequency, transfer, 0.1),
        "contrast_hu": float(edge[:quarter].mean() - edge[-quarter:].mean()),
    }


def _edge_transform(
    image_hu: np.ndarray,
    centers: Sequence[tuple[float, float]],
    radius_mm: float,
    spacing_mm: float,
    half_width_mm: float = 8.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies, the complex transform of the line spread at them, and the edge spread; both linear in the image."""
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
    frequency = np.linspace(0.0, 0.5 / spacing_mm, FREQUENCIES)
    return frequency, np.exp(-2j * np.pi * np.outer(frequency, middles)) @ line, edge


def _normalised(transform: np.ndarray) -> np.ndarray:
    transfer = np.abs(transform)
    return transfer / (transfer[0] if transfer[0] > 0 else math.nan)


def measure_texture(
    network: Callable[[np.ndarray], np.ndarray],
    simulator: DoseSimulator,
    *,
    dose_fraction: float = 0.25,
    realisations: int = 50,
    seed: int = 0,
    phantom: RodPhantom | None = None,
    bands_per_mm: Sequence[tuple[float, float]] = (),
) -> dict[str, Any]:
    """Noise power spectrum and HU in water, transfer functions and HU at rods, before and after a network.

    The phantom has no noise of its own, and the simulator adds the *difference* between two doses; so it is asked
    for ``k / (1 + k)``, whose difference to the full dose is the whole quantum noise at k: (1 + k) / k - 1 = 1 / k.
    Before and after see the same realisations; those of the full dose are others.

    A transfer function is that of the mean signal ``<network(water + rods + noise) - network(water + noise)>``, each
    pair with one noise: the same expectation as without the second term, which is flat, but with little of the noise
    that would drown a low contrast. A network's transfer depends on contrast and noise, so noise must be there. That
    of the input is the full dose's too, since simulation adds noise and blurs nothing.

    Args:
        network: slices (n, N, N) in HU to slices (n, N, N) in HU; asked with two at a time.
        simulator: its spacing is that of the phantom.
        dose_fraction: k in (0, 1], as a share of the dose that the simulator's photons stand for.
        realisations: how many noisy images, at least two.
        seed: of the noise.
        phantom: `rod_phantom` at the simulator's spacing if not given.
        bands_per_mm: frequencies whose noise, output over input, is to have intervals.

    Returns:
        ``nps`` of ``full``, ``low`` and ``denoised``, see `noise_power_spectrum`; ``ttf`` by contrast in HU (a string,
        as JSON has it) of ``low`` and ``denoised``, see `task_transfer_function`; ``bias_hu`` of ``denoised`` by the
        same contrasts, "0" for the water; ``intervals_95``, see `_intervals`; and ``dose_fraction``, ``realisations``,
        ``seed``, ``spacing_mm``.
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
    transforms: dict[str, list[np.ndarray]] = {f"{contrast:g}": [] for contrast in phantom.centers}
    biases: dict[str, list[float]] = {name: [] for name in ("0", *transforms)}
    for _ in range(realisations):
        low = noisy(dose_fraction)
        denoised, without = network(np.stack([low, low - phantom.rods_hu]))
        for name, image in (("full", noisy(1.0)), ("low", low), ("denoised", denoised)):
            rois[name].append(phantom.rois(image))
        mean += (denoised - low) / realisations  # its own noise is taken off: the low dose is right in the mean
        signals["denoised"] += (denoised - without) / realisations
        biases["0"].append(float(phantom.rois(denoised - low).mean()))
        for contrast, centers in phantom.centers.items():
            _, transform, _ = _edge_transform(denoised - without, centers, phantom.radius_mm, spacing_mm)
            transforms[f"{contrast:g}"].append(transform)
            biases[f"{contrast:g}"].append(float((denoised - low)[phantom.inside(contrast)].mean()))
    noises = {name: _noises(np.stack(stack)) for name, stack in rois.items()}
    spectra = {name: [noise_power_spectrum(one, spacing_mm) for one in of] for name, of in noises.items()}
    return {
        "dose_fraction": dose_fraction,
        "realisations": realisations,
        "seed": seed,
        "spacing_mm": spacing_mm,
        "nps": {name: noise_power_spectrum(of, spacing_mm) for name, of in noises.items()},
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
        "intervals_95": _intervals(spectra, transforms, biases, spacing_mm, bands_per_mm, seed),
    }


def _noises(rois_hu: np.ndarray) -> np.ndarray:
    """What each realisation (n, regions, N, N) has beyond the mean, with the variance that the mean takes."""
    count = len(rois_hu)
    if count < 2:
        raise ValueError("noise beyond the mean needs at least two realisations")
    return (rois_hu - rois_hu.mean(axis=0)) * math.sqrt(count / (count - 1))


def _intervals(
    spectra: Mapping[str, Sequence[Mapping[str, Any]]],
    transforms: Mapping[str, Sequence[np.ndarray]],
    biases: Mapping[str, Sequence[float]],
    spacing_mm: float,
    bands_per_mm: Sequence[tuple[float, float]],
    seed: int,
) -> dict[str, Any]:
    """95% intervals over `DRAWS` draws of realisations, the same in all figures.

    Returns:
        ``nps``: image to ``sd_hu``, ``peak_frequency_per_mm`` and ``mean_frequency_per_mm``; ``bands``: the SD in each
        band, denoised over low; ``ttf50_per_mm`` and ``bias_hu`` by contrast. Each is [lower, upper], None where a
        draw has no value.
    """
    count = len(biases["0"])
    weights = np.random.default_rng([seed, count]).multinomial(count, np.full(count, 1.0 / count), DRAWS) / count
    frequency = np.array(next(iter(spectra.values()))[0]["frequency_per_mm"])
    radial = {name: weights @ np.array([s["nps_hu2_mm2"] for s in of]) for name, of in spectra.items()}
    variance = {name: weights @ np.array([s["sd_hu"] ** 2 for s in of]) for name, of in spectra.items()}
    grid = np.linspace(0.0, 0.5 / spacing_mm, FREQUENCIES)
    bands = []
    for lowest, highest in bands_per_mm:
        band = (frequency >= lowest) & (frequency < highest)
        powers = {name: of[:, band] @ frequency[band] for name, of in radial.items()}
        bands.append(_quantiles(np.sqrt(powers["denoised"] / powers["low"])))
    return {
        "nps": {
            name: {
                "sd_hu": _quantiles(np.sqrt(variance[name])),
                "peak_frequency_per_mm": _quantiles(frequency[of.argmax(axis=1)]),
                "mean_frequency_per_mm": _quantiles(of @ frequency / of.sum(axis=1)),
            }
            for name, of in radial.items()
        },
        "bands": bands,
        "ttf50_per_mm": {
            contrast: _quantiles([_first_fall(grid, _normalised(one), 0.5) for one in weights @ np.array(of)])
            for contrast, of in transforms.items()
        },
        "bias_hu": {contrast: _quantiles(weights @ np.array(of)) for contrast, of in biases.items()},
    }


def _quantiles(values: Sequence[float] | np.ndarray) -> list[float] | None:
    found = np.asarray(values, np.float64)
    return np.quantile(found, [0.025, 0.975]).tolist() if np.isfinite(found).all() else None


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
