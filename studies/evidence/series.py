"""Real series as they are, denoised: noise taken away, HU kept, and edges against filters at equal noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scripts.dose.image_noise import TISSUES_HU, flat_soft_tissue, local_sd, noise_sd_hu, tissue_mask
from scripts.evaluation import tissue_bias
from scripts.evaluation.figures import picture_rows
from scripts.hu import VALID_RANGE_HU
from scripts.networks import weights_sha256
from scripts.volumes import radiological_slices
from scripts.volumes.orientation import RadiologicalSlices

from studies.measures.baselines import non_local_means
from studies.measures.edges import edge_widths

#: Slices of a series whose filters are tuned and whose edges are measured.
EDGE_SLICES = 4


def measure_series(data: Path, weights: Path, work: Path, pictures: Path, network_config: str = "") -> dict[str, Any]:
    """Denoise every series of a folder by the inference workflow, and evaluate it.

    Args:
        data: with one folder of DICOM files per patient.
        weights, network_config: see `bundle_denoiser`.
        work: where the denoised series are kept, under the digest of the weights; those there are not made again.
        pictures: where a picture of each series goes.

    Returns:
        ``series``: name to what `evaluate_slices` returns; ``pictures``: file names.
    """
    from scripts.workflow import run_workflow

    results, names = {}, []
    for folder in sorted(one for one in data.iterdir() if one.is_dir() and not one.name.startswith(".")):
        name = folder.name
        target = work / weights_sha256(weights)[:16] / name
        if not target.exists():
            overrides = {"dataset_dir": str(folder), "output_dir": str(target), "weights": str(weights)}
            run_workflow("inference", ["inference.json", *([network_config] if network_config else [])], overrides)
        before, after = radiological_slices(folder), radiological_slices(target)
        results[name] = evaluate_slices(before, after)
        names.append(f"series_{name}.png")
        middle = len(before) // 2 if len(before) > 20 else 0  # a few slices of a vault: the first shows most
        panels = {"input": before[middle], "denoised": after[middle]}
        picture_rows(pictures / names[-1], {"": panels}, ("input", "denoised"))
    return {"series": results, "pictures": names}


def evaluate_slices(before: RadiologicalSlices, after: RadiologicalSlices) -> dict[str, Any]:
    """Compare a series with its denoised one: noise and HU over all slices, edges on some.

    Returns:
        ``slices``; ``noise_sd_hu`` and ``soft_tissue_sd_hu`` as [before, after] pairs; ``bias_hu`` per tissue; and
        ``edges``: width in mm per edge for input, denoised, gaussian and nlm, the filters at the noise of denoised.
    """
    noise, spread, bias = [], [], {tissue: [] for tissue in TISSUES_HU}
    for i in range(len(before)):
        low, out = (x[i].clip(*VALID_RANGE_HU) for x in (before, after))
        flat = flat_soft_tissue(low)
        soft = tissue_mask(low, "soft tissue")
        if flat.any():
            noise.append((noise_sd_hu(low, flat), noise_sd_hu(out, flat)))
            spread.append((float(np.median(local_sd(low)[soft])), float(np.median(local_sd(out)[soft]))))
        for tissue, one in tissue_bias(out, low).items():
            if one.pixels:
                bias[tissue].append(one)
    return {
        "slices": len(before),
        "noise_sd_hu": _median_pair(noise),
        "soft_tissue_sd_hu": _median_pair(spread),
        "bias_hu": {t: sum(b.mean_hu * b.pixels for b in v) / sum(b.pixels for b in v) for t, v in bias.items() if v},
        "edges": _edges(before, after),
    }


def _median_pair(pairs: list[tuple[float, float]]) -> list[float]:
    """Medians of [before, after] over slices; NaN where there was nothing to measure."""
    return np.median(pairs, axis=0).tolist() if pairs else [float("nan")] * 2


def _edges(before: RadiologicalSlices, after: RadiologicalSlices) -> dict[str, dict[str, float]]:
    """Edge widths in mm of the input, the denoised series, and two filters tuned to the same noise."""
    with_tissue = [i for i in range(len(before)) if flat_soft_tissue(before[i]).any()]
    if not with_tissue:
        return {"noise_sd_hu": {}}
    chosen = [with_tissue[int(i)] for i in np.linspace(0, len(with_tissue) - 1, EDGE_SLICES + 2)[1:-1]]
    lows = [before[i].clip(*VALID_RANGE_HU) for i in chosen]
    outs = [after[i].clip(*VALID_RANGE_HU) for i in chosen]
    flats = [flat_soft_tissue(low) for low in lows]
    target = float(np.median([noise_sd_hu(out, flat) for out, flat in zip(outs, flats, strict=True)]))
    images = {
        "input": lows,
        "denoised": outs,
        "gaussian": _tuned(lambda low, x: gaussian_filter(low, x), lows, flats, target, (0.05, 4.0)),
        "nlm": _tuned(lambda low, x: non_local_means(low, strength=x, blend=1.0), lows, flats, target, (0.05, 3.0)),
    }
    widths = edge_widths(lows, images, before.spacing_mm)
    noises = {
        name: float(np.median([noise_sd_hu(x, m) for x, m in zip(stack, flats, strict=True)]))
        for name, stack in images.items()
    }
    return {"noise_sd_hu": noises, **widths}


def _tuned(
    smooth: Callable[[np.ndarray, float], np.ndarray],
    lows: list[np.ndarray],
    flats: list[np.ndarray],
    target_sd_hu: float,
    limits: tuple[float, float],
) -> list[np.ndarray]:
    """Images smoothed just so much that their median noise is the target's, by bisection."""
    lower, upper = limits
    for _ in range(9):
        strength = (lower + upper) / 2
        images = [smooth(low, strength) for low in lows]
        noise = np.median([noise_sd_hu(image, flat) for image, flat in zip(images, flats, strict=True)])
        lower, upper = (strength, upper) if noise > target_sd_hu else (lower, strength)
    return images
