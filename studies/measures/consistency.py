"""Slice-to-slice consistency: whether what a network takes away or adds in the mean jumps between neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from scripts.dose.image_noise import TISSUES_HU, local_mean, tissue_mask

#: A slice with fewer pixels of a tissue says nothing about its mean.
FEWEST_PIXELS = 2000
#: What counts as body: above this, by the 9x9 mean of the reference.
BODY_HU = -500.0


def mean_changes(output_hu: np.ndarray, input_hu: np.ndarray, reference_hu: np.ndarray) -> dict[str, float]:
    """Mean of output minus input of one slice, over the body and over each tissue; NaN where there is too little.

    Args:
        output_hu, input_hu: (H, W) in HU.
        reference_hu: (H, W); its 9x9 mean tells tissues apart (`tissue_mask`).
    """
    masks = {"body": local_mean(reference_hu) > BODY_HU} | {t: tissue_mask(reference_hu, t) for t in TISSUES_HU}
    change = np.asarray(output_hu, np.float64) - input_hu
    return {name: float(change[m].mean()) if m.sum() >= FEWEST_PIXELS else float("nan") for name, m in masks.items()}


def neighbour_steps(changes: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """How much `mean_changes` differ between neighbouring slices, by tissue.

    Args:
        changes: of each slice, in order.

    Returns:
        By body and tissue: ``pairs`` of neighbours that both show it, and of the absolute differences ``median``,
        ``p95`` and ``max`` in HU, and ``slice``, the first of the worst pair. Left out where no pair does.
    """
    steps = {}
    for name in changes[0]:
        difference = np.abs(np.diff([one[name] for one in changes]))
        known = difference[~np.isnan(difference)]
        if known.size:
            steps[name] = {
                "pairs": int(known.size),
                "median": float(np.median(known)),
                "p95": float(np.quantile(known, 0.95)),
                "max": float(known.max()),
                "slice": int(np.nanargmax(difference)),
            }
    return steps
