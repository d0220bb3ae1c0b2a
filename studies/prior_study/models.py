"""For each fold a compact prior model that saw none of its patients, and the priors that it gives the slices."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.evaluation.intervals import patient_interval
from scripts.pages import table
from scripts.priors import PriorSource, SliceKey, make_prior
from scripts.staging import staged_file, write_json

from studies.evidence.tables import mean_with_interval

from ..compact_prior import train, write_skeleton
from ..compact_prior_evaluation import LabelledSlices, evaluate
from .pack import Pack, read_pack

#: In place of the models' digests where priors are the shipped model's.
SHIPPED = "shipped"
#: Figures of the page's table, with what they are.
SHOWN = {
    "slices": "slices",
    "tv_to_target": "distance to the target",
    "tv_to_target_uniform": "of the uniform prior",
    "mass_on_visible": "share on what is visible",
    "mass_on_visible_uniform": "of the uniform prior",
}


def write_priors(folder: Path, unpacked: Path, *, steps: int, seed: int = 0, processes: int = 1) -> None:
    """Train the models and write priors.npz and models.json into the pack `folder`, unless they are there.

    Args:
        folder, unpacked: see `read_pack`.
        steps: of the training; 0 takes the shipped model, which has seen most of the patients, for all folds.
        seed: of the training.
        processes: folds side by side; each takes its share of the cores.
    """
    listing = folder / "models.json"
    wanted = {"prior_steps": steps, "prior_seed": seed}
    if listing.exists() and wanted.items() <= json.loads(listing.read_text(encoding="utf-8"))["made"].items():
        return
    pack = read_pack(folder, unpacked)
    jobs = [
        (folder, unpacked, fold, steps, seed, max(1, torch.get_num_threads() // processes))
        for fold in range(len(pack.folds))
    ]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(_one_fold, *zip(*jobs, strict=True)))
    listing.unlink(missing_ok=True)
    with staged_file(folder / "priors.npz") as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **{name: array for arrays, _ in made for name, array in arrays.items()})
    records = [record for _, record in made]
    wanted["prior_models"] = [record["digest"] if steps else SHIPPED for record in records]
    write_json(listing, {"made": wanted, "folds": records})


def _one_fold(
    folder: Path, unpacked: Path, fold: int, steps: int, seed: int, threads: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Priors of all slices by the model of a fold, vectors and dense ones, and its record."""
    torch.set_num_threads(threads)
    pack = read_pack(folder, unpacked)
    patients = _labelled(pack)
    left_out = [one for one in patients if one.patient in pack.folds[fold]]
    known = [one for one in patients if one.patient not in pack.folds[fold]]
    constant = torch.cat([one.target for one in known]).mean(0)
    with tempfile.TemporaryDirectory() as scratch:
        name = "compact"
        if steps:
            write_skeleton(Path(scratch))
            train(known, Path(scratch), steps=steps, seed=seed)
            name = f"local-dir:{scratch}"
        source, dense = make_prior(name), make_prior(name, form="dense")
        record = {
            "digest": source.digest,
            "held_out": {one.patient: evaluate(source, one, constant) for one in left_out},
        }
        return {f"compact_{fold}": _priors_of(source, pack), f"dense_{fold}": _priors_of(dense, pack)}, record


def _labelled(pack: Pack) -> list[LabelledSlices]:
    """The full doses of each patient with what is visible in them."""
    patients = []
    for name in dict.fromkeys(one.patient for one in pack.slices):
        own = [index for index, one in enumerate(pack.slices) if one.patient == name]
        hu = np.stack([np.load(pack.pairs[index])["full"] for index in own]).astype(np.float32)
        visible = torch.from_numpy(pack.labels["visible"][own])
        patients.append(LabelledSlices(name, torch.from_numpy(hu), pack.labels["z_mm"][own], visible))
    return patients


def _priors_of(source: PriorSource, pack: Pack) -> np.ndarray:
    """Priors of all low doses, (n, K) or (n, K, h, w)."""
    rows = []
    for index, (one, file) in enumerate(zip(pack.slices, pack.pairs, strict=True)):
        low = torch.from_numpy(np.load(file)["low"].astype(np.float32))
        rows.append(source(low, [SliceKey(index, one.uid)])[0].numpy())
    return np.stack(rows)


def models_page(listing: Mapping[str, Any]) -> str:
    """The evidence page of models.json."""
    records, made = listing["folds"], listing["made"]
    rows = [
        (name, str(fold), *(_cell(figures[key]) for key in SHOWN))
        for fold, record in enumerate(records)
        for name, figures in record["held_out"].items()
    ]
    every = {name: figures for record in records for name, figures in record["held_out"].items()}
    closer = sum(one["tv_to_target"] < one["tv_to_target_uniform"] for one in every.values())
    ours, uniform = (
        mean_with_interval(patient_interval({name: one[key] for name, one in every.items()}), ".2f")
        for key in ("tv_to_target", "tv_to_target_uniform")
    )
    return f"""# The prior models of the study

The compact prior models of the [study](priors.md) come closer to the annotation than the uniform prior on {closer} of
{len(rows)} patients whom they never saw: their mean distance to it is {ours}, that of the uniform prior
{uniform} (95% interval over patients).

For each of {len(records)} folds one model was trained on the study's slices of the patients of all other folds, as the
shipped one (bundle/models/prior) but on fewer slices, seed {made["prior_seed"]}, {made["prior_steps"]} steps. It is a
stand-in for BiomedCLIP for machines without a network, and not BiomedCLIP. A row is the mean over the slices of one
patient and has no interval.

{table(("patient", "fold", *SHOWN.values()), rows)}

Distances are total variation, from 0 (equal) to 1 (disjoint), to the target that a model is taught, which is closer to
uniform the fewer words are visible. The annotation was made by eye, not by a radiologist. Where only one patient shows
a region, their model never saw that region; `-` where nothing is visible.

Made by `make study`; `make pages` writes it again from prior_models.json.
"""


def _cell(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:g}"
