"""Error against the noise-free image, measured without having it: the full dose may be as noisy as it is.

A full dose is ``full = t + n``, truth and noise; the low dose adds a: ``low = t + n + a``. Where a has the spectrum of
n and ``alpha2 = var(a) / var(n)``, the noise of ``r = full - a / alpha2`` is uncorrelated with that of the low dose:
``cov(n - a / alpha2, n + a) = var(n) - var(a) / alpha2 = 0``. For Gaussian noise it is independent of it, so

    mean (f(low) - r)^2 = error of f(low) against t + var(r - t),   var(r - t) = var(r - low) / (1 + alpha2)

and the last term is known, since ``r - low = -a (1 + 1 / alpha2)``. PSNR against the full dose has no such property:
it is best for an output that keeps a part of the scanner's own noise.

Source: Pang et al., Recorrupted-to-Recorrupted, CVPR 2021, eq. 7; Moran et al., Noisier2Noise, CVPR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, label

from ..dose.image_noise import flat_soft_tissue
from ..errors import BioAttError

#: Edges are where the slice, smoothed by a Gaussian of 2 mm, changes by so much: a step of 100 HU does.
EDGE_SCALE_MM, EDGE_HU_PER_MM = 2.0, 20.0
#: The body is what lies above this, smoothed, in one piece; air in lung and bowel is not counted.
BODY_HU = -500.0


def independent_target(full_hu: np.ndarray, added_hu: np.ndarray, alpha2: float) -> np.ndarray:
    """``r = full - a / alpha2``, whose noise is uncorrelated with that of ``full + a``; same shape, in HU.

    Args:
        full_hu: the full dose, (H, W).
        added_hu: a, the noise that makes the low dose of it.
        alpha2: var(a) / var(n); ``1 / k - 1`` for a dose fraction k.

    Raises:
        BioAttError: no noise was added.
    """
    if not alpha2 > 0.0:
        raise BioAttError(f"alpha2 must be above 0, got {alpha2}; error against the truth needs a lower dose than full")
    return full_hu - added_hu / alpha2


def squared_error(
    output_hu: np.ndarray, full_hu: np.ndarray, added_hu: np.ndarray, alpha2: float, mask: np.ndarray
) -> tuple[float, int]:
    """Mean squared error against the truth in HU^2, and the pixels it is the mean of.

    An estimate: its expectation is the error, so of a small error in few pixels it can be negative.

    Args:
        output_hu: what was made of ``full_hu + added_hu``, (H, W).
        full_hu, added_hu, alpha2: see `independent_target`.
        mask: where, (H, W); it must not hang on the noise of a pixel.

    Returns:
        NaN and 0 for an empty mask.
    """
    pixels = int(mask.sum())
    if not pixels:
        return math.nan, 0
    added = np.asarray(added_hu, np.float64)[mask]
    target = independent_target(np.asarray(full_hu, np.float64)[mask], added, alpha2)
    known = np.mean(added**2) * (1.0 + 1.0 / alpha2) ** 2 / (1.0 + alpha2)
    return float(np.mean((np.asarray(output_hu, np.float64)[mask] - target) ** 2) - known), pixels


def truth_regions(full_hu: np.ndarray, spacing_mm: float) -> dict[str, np.ndarray]:
    """Masks (H, W) of ``body``, ``edges`` in it, and ``flat`` soft tissue, from the smoothed full dose.

    Args:
        full_hu: (H, W) in HU.
    """
    image = np.asarray(full_hu, np.float32)
    body = _largest_piece(gaussian_filter(image, EDGE_SCALE_MM / spacing_mm) > BODY_HU)
    slope = gaussian_gradient_magnitude(image, EDGE_SCALE_MM / spacing_mm) / spacing_mm
    return {"body": body, "edges": body & (slope >= EDGE_HU_PER_MM), "flat": flat_soft_tissue(image)}


def pooled(values: Iterable[tuple[float, int]]) -> float:
    """Mean over all pixels of `squared_error` of several slices; NaN for none."""
    known = [(value, pixels) for value, pixels in values if pixels]
    total = sum(pixels for _, pixels in known)
    return math.fsum(value * pixels for value, pixels in known) / total if total else math.nan


def region_errors(
    output_hu: np.ndarray, full_hu: np.ndarray, added_hu: np.ndarray, alpha2: float, regions: Mapping[str, np.ndarray]
) -> dict[str, tuple[float, int]]:
    """`squared_error` in each region."""
    return {name: squared_error(output_hu, full_hu, added_hu, alpha2, mask) for name, mask in regions.items()}


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    pieces, count = label(mask)
    if count < 2:
        return mask
    return pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
