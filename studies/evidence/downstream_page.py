"""What docs/evidence/quality.md says of features and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.strengths import DEFAULT

from .downstream import BIN_HU, FULL, LOW, THRESHOLDS_HU
from .tables import mean_with_interval, table, with_interval


def downstream_section(one: dict[str, Any], results: Path) -> str:
    """Two tables, and what is in them."""
    agreement, drawn, dice, noise = (one[key] for key in ("concordance", "concordance_95", "dice", "noise_hu"))
    features = list(agreement[LOW])
    standard = next(name for name in agreement if name.startswith("network") and name.endswith(f", {DEFAULT}"))
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

At strength {DEFAULT} {_told(one["more_than"][standard][LOW], "the low dose's")} Beside the Gaussian that leaves as
much noise {_told(one["more_than"][standard][f"Gaussian, as {DEFAULT}"], "the Gaussian's")} These counts are of features
whose difference has a 95% interval without 0 (each patient left out in turn, n = {one["patients"]}), and are not
corrected for their number. The full dose is noisy itself, so features of noise (SD, entropy, co-occurrence) do not
agree with it where more noise is taken off than the low dose added.

Lin's concordance with the full dose over {one["regions"]} flat squares of soft tissue of {one["patients"]} patients,
grey levels of {BIN_HU:g} HU (95% interval by leaving out each patient in turn, on Fisher's z; wide, as patients differ
in the scanner's noise). First-order and
co-occurrence features are those of scipy and scikit-image: pyradiomics 3.1.0 cannot be installed with Python 3.11.
*Gaussian, as ...*: it leaves as much noise in the slice as the network at that strength.

{table(("feature", *agreement), rows)}

Dice coefficient with the full dose's mask by threshold (mean over {noise[FULL]["n"]} patients, 95% interval), and the
noise in flat soft tissue in HU; that of the full dose is {mean_with_interval(noise[FULL], ".1f")}. Segmentation by a
larger model is a [script](../evaluation.md#segmentation-by-totalsegmentator) for machines with a network; it was not
run.

{table(("image", *masks, "noise (HU)"), mask_rows)}"""


def _told(differences: Mapping[str, Sequence[float] | None], whose: str) -> str:
    """How many features agree better with the full dose than another image's, and how many less well."""
    known = {feature: ends for feature, ends in differences.items() if ends}
    better = [feature for feature, (lower, _) in known.items() if lower > 0.0]
    worse = [feature for feature, (_, upper) in known.items() if upper < 0.0]
    return (
        f"{len(better)} of {len(differences)} features agree better with the full dose than {whose}"
        f"{_names(better)}, {len(worse)} less well{_names(worse)}."
    )


def _names(features: Sequence[str]) -> str:
    return f" ({', '.join(features)})" if features else ""
