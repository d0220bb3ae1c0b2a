"""Folds of the labelled patients, and for each fold a compact prior model that saw none of its patients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.dicom import find_series
from scripts.errors import BioAttError
from scripts.evaluation.results import write_json
from scripts.markdown import table
from scripts.priors import DESCRIPTORS, make_prior
from scripts.staging import staged_folder

from ..compact_prior import read_patient, train, write_skeleton
from ..compact_prior_evaluation import LabelledSlices, evaluate, patient_of, read_labels

LABELS = Path(__file__).parents[2] / "bundle" / "models" / "prior" / "labels.csv"
#: Standard deviation along z of the Gaussian that smooths the annotated ranges, so that neighbours are alike.
SMOOTH_MM = 6.0
#: Ranges of a series: descriptor, from and to which z in mm it is visible.
Ranges = Sequence[tuple[str, float, float]]
#: Figures of the page's table, with what they are.
SHOWN = {
    "slices": "slices",
    "tv_to_target": "distance to the target",
    "tv_to_target_uniform": "of the uniform prior",
    "mass_on_visible": "share on what is visible",
    "mass_on_visible_uniform": "of the uniform prior",
}


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


def oracle_priors(folder: Path, ranges: Ranges, smooth_mm: float = SMOOTH_MM) -> dict[str, np.ndarray]:
    """Prior (K,) of each slice of a series, by SOPInstanceUID, from what is annotated as visible there.

    Equal shares for what is visible, uniform where nothing is, then smoothed along z by a Gaussian with
    `smooth_mm` standard deviation; 0 leaves them as annotated.
    """
    from scipy.ndimage import gaussian_filter1d

    patient = read_patient(folder, ranges)
    (series,) = find_series(folder)
    shares = patient.shares.numpy().astype(np.float64)
    if smooth_mm and len(shares) > 1:
        spacing_mm = float(np.abs(np.diff(patient.z_mm)).mean())
        shares = gaussian_filter1d(shares, smooth_mm / spacing_mm, axis=0, mode="nearest")
    shares /= shares.sum(axis=1, keepdims=True)
    return dict(zip(series.slice_names, shares.astype(np.float32), strict=True))


def fold_models(
    data: Sequence[Path], out: Path, labels: Path, folds: Sequence[Sequence[str]], *, seed: int, steps: int
) -> list[dict[str, Any]]:
    """Train the model of each fold in `out`/foldF, on the labelled patients of all other folds; keep what is there.

    Returns:
        Of each model what figures.json beside it holds: ``held_out``, its figures on the series that it never saw,
        ``seed``, ``steps``, ``digest``.

    Raises:
        BioAttError: a model that is there was made with another seed, number of steps, labels or patients.
    """
    torch.set_num_threads(1)  # as the shipped model was trained: sums in another order give another model
    ranges = read_labels(labels)
    wanted = [{"seed": seed, "steps": steps, "left_out": sorted(fold)} for fold in folds]
    records: list[dict[str, Any]] = []
    patients: list[LabelledSlices] = []
    for number, recipe in enumerate(wanted):
        folder = out / f"fold{number}"
        if not folder.exists():
            patients = patients or [read_patient(at, ranges[n], n) for n, at in series_folders(data, labels).items()]
            _train_one(folder, labels, patients, recipe)
        record = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        made = {name: record[name] for name in recipe}
        if made != recipe or (folder / "labels.csv").read_bytes() != labels.read_bytes():
            raise BioAttError(
                f"{folder} was made with {made}, wanted {recipe} and the same labels; delete it to train it anew, or "
                "name another folder"
            )
        records.append(record)
    return records


def _train_one(folder: Path, labels: Path, patients: Sequence[LabelledSlices], recipe: Mapping[str, Any]) -> None:
    left_out = [one for one in patients if patient_of(one.patient) in recipe["left_out"]]
    known = [one for one in patients if patient_of(one.patient) not in recipe["left_out"]]
    constant = torch.cat([one.target for one in known]).mean(0)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(folder) as staged:
        write_skeleton(staged)
        shutil.copyfile(labels, staged / "labels.csv")
        train(known, staged, steps=recipe["steps"], seed=recipe["seed"])
        source = make_prior(f"local-dir:{staged}")
        figures = {one.patient: evaluate(source, one, constant) for one in left_out}
        write_json(staged / "figures.json", {**recipe, "digest": source.digest, "held_out": figures})


def models_page(records: Sequence[Mapping[str, Any]]) -> str:
    """The evidence page of the models of all folds."""
    rows = [
        (name, str(fold), *(_cell(figures[key]) for key in SHOWN))
        for fold, record in enumerate(records)
        for name, figures in record["held_out"].items()
    ]
    closer = sum(one["tv_to_target"] < one["tv_to_target_uniform"] for r in records for one in r["held_out"].values())
    return f"""# The prior models of the study

On {closer} of {len(rows)} series that they never saw the compact prior models of the study (priors.md, beside this
page) are nearer to the annotation than the uniform prior is. For each of {len(records)} folds one was trained on the
patients of all others, as the shipped one (bundle/models/prior), seed {records[0]["seed"]}, {records[0]["steps"]}
steps. It is a stand-in for BiomedCLIP for machines without a network, and not BiomedCLIP.

{table(("series", "fold", *SHOWN.values()), rows)}

Distances are total variation, from 0 (equal) to 1 (disjoint), to the target that a model is taught, which is nearer to
uniform the fewer words are visible. The annotation was made by eye and by no radiologist. Where a patient alone shows a
region, their model never saw that region; `-` where nothing is visible.

Made by `python -m studies.prior_study pack`.
"""


def _cell(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:g}"
