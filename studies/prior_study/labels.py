"""What is annotated as visible in which slice, and the folds that patients are dealt into by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS

from ..compact_prior_evaluation import patient_of, read_labels

LABELS = Path(__file__).parents[2] / "bundle" / "models" / "prior" / "labels.csv"
#: Standard deviation along z of the Gaussian that smooths the annotated ranges, so that neighbours are alike.
SMOOTH_MM = 6.0
#: Ranges of a series: descriptor, from and to which z in mm it is visible.
Ranges = Sequence[tuple[str, float, float]]


def series_folders(data: Sequence[Path], labels: Path) -> dict[str, Path]:
    """Folder of each labelled series that is in one of the folders `data`.

    Raises:
        BioAttError: there are fewer than two patients, so that none can be left out.
    """
    found = {name: next((root / name for root in data if (root / name).is_dir()), None) for name in read_labels(labels)}
    folders = {name: folder for name, folder in found.items() if folder}
    if len({patient_of(name) for name in folders}) < 2:
        raise BioAttError(
            f"{', '.join(map(str, data))} must hold folders of two or more patients of {labels}, found "
            f"{list(folders)}; add some"
        )
    return folders


def make_folds(labels: Mapping[str, Ranges], count: int) -> list[list[str]]:
    """Patients in `count` folds, those of the same anatomy spread over all; phantoms, which show none, in no fold.

    Patients are put in the order of what is annotated as visible in them, and dealt in turn.

    Raises:
        BioAttError: there are fewer patients than folds, or fewer than two folds.
    """
    words: dict[str, set[int]] = {}
    for name, ranges in labels.items():
        words.setdefault(patient_of(name), set()).update(DESCRIPTORS.index(word) for word, _, _ in ranges)
    order = sorted((sorted(seen), patient) for patient, seen in words.items() if seen)
    if not 2 <= count <= len(order):
        raise BioAttError(f"{len(order)} patients cannot be dealt into {count} folds; choose 2 to {len(order)}")
    return [[patient for _, patient in order[fold::count]] for fold in range(count)]


def oracle_priors(visible: torch.Tensor, z_mm: np.ndarray, smooth_mm: float = SMOOTH_MM) -> np.ndarray:
    """Prior (n, K) of the slices of a series, from what is annotated as visible there, bool (n, K).

    Equal shares for what is visible, uniform where nothing is, then smoothed along z by a Gaussian with
    `smooth_mm` standard deviation; 0 leaves them as annotated.
    """
    shares = visible.numpy().astype(np.float64)
    shares[~visible.any(1).numpy()] = 1.0
    shares /= shares.sum(axis=1, keepdims=True)
    if smooth_mm and len(shares) > 1:
        shares = gaussian_filter1d(shares, smooth_mm / float(np.abs(np.diff(z_mm)).mean()), axis=0, mode="nearest")
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
