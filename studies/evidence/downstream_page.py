"""What docs/evidence/quality.md says of features and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .downstream import BIN_HU, FULL, LOW, THRESHOLDS_HU
from .tables import mean_with_interval, table, with_interval


def downstream_section(one: dict[str, Any], results: Path) -> str:
    """Two tables, and what is in them."""
    agreement, drawn, dice, noise = (one[key] for key in ("concordance", "concordance_95", "dice", "noise_hu"))
    features = list(agreement[LOW])
    standard = next(name for name in agreement if name.startswith("network") and name.endswith("standard"))
    smooth = [name for name in agreement if name.startswith("Gaussian")][-1]
    better, beside = (
        [feature for feature in features if agreement[standard][feature] > agreement[other][feature]]
        for other in (LOW, smooth)
    )
    masks = [mask for mask in THRESHOLDS_HU if mask in dice[LOW]]
    rows = [
        (feature, *(with_interval(of[feature], drawn[name][feature]) for name, of in agreement.items()))
        for feature in features
    ]
    mask_rows = [
        (name, *(mean_with_interval(of[mask], ".3f") for mask in masks), mean_with_interval(noise[name], ".1f"))
        for name, of in dice.items()
    ]
    return f"""## Features and masks that are taken from the images

At strength standard {len(better)} of {len(features)} features agree better with the full dose than those of the low
dose do{": " + ", ".join(better) if better else ""}; {len(beside)} agree better than those of the Gaussian that leaves
as
much noise. The full dose is noisy itself, so features of noise (SD, entropy, co-occurrence) do not agree with it where
more noise is taken off than the low dose added.

Lin's concordance with the full dose over {one["regions"]} flat squares of soft tissue of {one["patients"]} patients,
grey levels of {BIN_HU:g} HU (95% interval by leaving out each patient in turn, on Fisher's z). First-order and
co-occurrence features are those of scipy and scikit-image: pyradiomics 3.1.0 cannot be installed with Python 3.11.
*Gaussian, as ...*: it leaves as much noise in the slice as the network at that strength.

{table(("feature", *agreement), rows)}

Dice coefficient with the full dose's mask by threshold (mean over {noise[FULL]["n"]} patients, 95% interval), and the
noise
in flat soft tissue in HU; that of the full dose is {mean_with_interval(noise[FULL], ".1f")}. Segmentation by a larger
model is a [script](../evaluation.md#segmentation-by-totalsegmentator) for machines with a network; it was not run.

{table(("image", *masks, "noise (HU)"), mask_rows)}"""
