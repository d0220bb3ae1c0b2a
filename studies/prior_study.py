"""Priors for the study "Do priors help?": an oracle table, and for each patient a compact model that never saw them.

    PYTHONPATH=bundle python -m studies.prior_study DATA OUT --page docs/evidence/prior_models.md

DATA holds one folder a patient with one series; the study is of the labelled patients there. In OUT stand afterwards
oracle.csv, compact/PSEUDONYM (the model trained without this patient, in open_clip's local-dir form) and
figures.json. Models there are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.dicom import find_series
from scripts.errors import BioAttError
from scripts.evaluation.results import write_json
from scripts.markdown import table
from scripts.priors import DESCRIPTORS, PriorSource, SliceKey, make_prior, write_prior_table
from scripts.priors.sources import digest_of
from scripts.staging import staged_file
from scripts.training.simulated import find_match, simulate, simulation_recipe
from scripts.training.studies import pseudonym_of
from scripts.volumes import radiological_slices
from scripts.volumes.reader import slice_keys_from_meta

from .compact_prior import build, read_patient
from .compact_prior_evaluation import read_labels, total_variation

LABELS = Path(__file__).parents[1] / "bundle" / "models" / "prior" / "labels.csv"
#: Standard deviation along z of the Gaussian that smooths the annotated ranges, so that neighbours are alike.
SMOOTH_MM = 6.0
DOSE_FRACTION = 0.25
#: Figures of the page's table, with what they are.
SHOWN = {
    "slices": "slices",
    "tv_to_target": "distance to the annotation",
    "tv_to_target_uniform": "of the uniform prior",
    "tv_to_target_constant": "of the mean annotation of the others",
    "mass_on_visible": "share on what is visible",
    "mass_on_visible_uniform": "of the uniform prior",
    "top1_visible": "highest is visible",
    "neighbour_tv": "distance of neighbours",
    "quarter_dose_tv": "distance quarter to full dose",
    "quarter_dose_tv_max": "largest such",
}


@dataclass(frozen=True)
class Annotation:
    """What made the oracle table, as `write_prior_table` records it."""

    model: str
    digest: str
    descriptors: tuple[str, ...] = DESCRIPTORS


def oracle_rows(
    folder: Path, ranges: Sequence[tuple[str, float, float]], smooth_mm: float = SMOOTH_MM
) -> list[tuple[SliceKey, torch.Tensor]]:
    """Key and prior `(K,)` of each slice of a patient's series, from what is annotated as visible there.

    Equal shares for what is visible, then smoothed along z by a Gaussian with
    `smooth_mm` standard deviation; 0 leaves them as annotated.
    """
    from scipy.ndimage import gaussian_filter1d

    patient = read_patient(folder, ranges)
    (series,) = find_series(folder)
    target = patient.shares.numpy().astype(np.float64)
    if smooth_mm and len(target) > 1:
        spacing_mm = float(np.abs(np.diff(patient.z_mm)).mean())
        target = gaussian_filter1d(target, smooth_mm / spacing_mm, axis=0, mode="nearest")
    target /= target.sum(axis=1, keepdims=True)
    keys = [SliceKey(index, uid) for index, uid in enumerate(series.slice_names)]
    return list(zip(keys, torch.from_numpy(target).float(), strict=True))


def labelled_patients(data: Path, labels: Path) -> dict[str, list[tuple[str, float, float]]]:
    """The ranges of the labelled patients that have a folder in `data`.

    Raises:
        BioAttError: there are fewer than two, so that none can be left out.
    """
    ranges = {name: own for name, own in read_labels(labels).items() if (data / name).is_dir()}
    if len(ranges) < 2:
        raise BioAttError(
            f"{data} must hold folders of two or more patients of {labels}, found {list(ranges)}; add some"
        )
    return ranges


def write_oracle(data: Path, path: Path, labels: Path) -> Path:
    """Write the annotation of the patients in `data` as a table for ``table:FILE``; no path or name goes into it."""
    ranges = labelled_patients(data, labels)
    rows = [row for name, own in ranges.items() for row in oracle_rows(data / name, own)]
    digest = digest_of(labels.read_bytes(), repr(SMOOTH_MM))
    made_by = Annotation(model=f"annotation by eye, smoothed over {SMOOTH_MM:g} mm (no model)", digest=digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_prior_table(path, rows, made_by)


def left_out_model(data: Path, out: Path, labels: Path, patient: str, *, seed: int, steps: int) -> dict[str, Any]:
    """The record of the model in `out`, trained on the labelled patients in `data` but one; trained if not there.

    Raises:
        BioAttError: the model that is there was made with another seed, number of steps, labels or patient.
    """
    file = out / "figures.json"
    if not file.exists():
        names = list(labelled_patients(data, labels))
        return build(data, out, labels, [patient], seed=seed, steps=steps, only=names)
    record = json.loads(file.read_text(encoding="utf-8"))
    made = (record["seed"], record["steps"], list(record["held_out"]), (out / "labels.csv").read_bytes())
    if made != (seed, steps, [patient], labels.read_bytes()):
        raise BioAttError(
            f"{out} was made with seed {made[0]}, {made[1]} steps, {', '.join(made[2])} left out, or other labels; "
            "delete it to train it anew, or name another folder"
        )
    return record


def dose_distances(source: PriorSource, folder: Path) -> dict[str, float]:
    """Total variation distance of the priors of a patient's slices at simulated quarter dose and at full dose.

    Returns:
        ``quarter_dose_tv``, the mean over slices, and ``quarter_dose_tv_max``.
    """
    volume = radiological_slices(folder)
    keys = slice_keys_from_meta(volume.meta, len(volume))
    recipe = simulation_recipe((DOSE_FRACTION,), 600, 0)
    match = find_match(volume, recipe).of(volume.spacing_mm, recipe)
    distances = []
    for index, key in enumerate(keys):
        low = simulate(volume[index], match, recipe, key.sop_instance_uid)[0]
        full_and_low = torch.from_numpy(np.stack([volume[index], low]).astype(np.float32))
        prior = source(full_and_low, [key, key])
        distances.append(total_variation(prior[:1], prior[1:]))
    moved = torch.cat(distances)
    return {"quarter_dose_tv": round(float(moved.mean()), 4), "quarter_dose_tv_max": round(float(moved.max()), 4)}


def page(figures: Mapping[str, Any]) -> str:
    """The evidence page of figures.json."""
    patients = figures["patients"]
    rows = [(words, *(f"{one[key]:g}" for one in patients.values())) for key, words in SHOWN.items()]
    return f"""# The prior models of the study

For each patient left out of the study (priors.md, beside this page) a compact prior model was trained on the
{len(patients) - 1} others, as the shipped one (bundle/models/prior), seed {figures["seed"]}, {figures["steps"]} steps.
Each column is evaluated on the one patient that its model never saw. It is a stand-in for BiomedCLIP for machines
without a network, and not BiomedCLIP.

{table(("", *(f"without {name}" for name in patients)), rows)}

Distances are total variation, from 0 (equal) to 1 (disjoint). The annotation was made by eye and by no radiologist, and
is taught as the shipped model's page says. `highest is visible` is flattered where the spine is visible in every slice.
Quarter dose is simulated. Where a patient alone shows a region, their model never saw that region.

Made by `python -m studies.prior_study DATA OUT`; the oracle of the study is the annotation itself, smoothed along z by
a Gaussian of {SMOOTH_MM:g} mm.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 done, 2 input or usage."""
    parser = argparse.ArgumentParser(prog="python -m studies.prior_study", description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with one folder a patient")
    parser.add_argument("output", type=Path, help="folder for table, models and figures")
    parser.add_argument("--labels", type=Path, default=LABELS, help="(default: those of the shipped model)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument(
        "--page", type=Path, help="write the evidence page to this file, its figures beside it as .json"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as the shipped model was trained: sums in another order give another model
    try:
        figures = make(chosen.data, chosen.output, chosen.labels, seed=chosen.seed, steps=chosen.steps)
        if chosen.page:
            write_json(chosen.page.with_suffix(".json"), figures)
            with staged_file(chosen.page) as partial:
                partial.write_text(page(figures), encoding="utf-8")
    except BioAttError as error:
        print(f"error: {error}")
        return 2
    print(page(figures))
    return 0


def make(data: Path, out: Path, labels: Path, *, seed: int, steps: int) -> dict[str, Any]:
    """Make the table and the models, evaluate each on the patient it never saw, and write and return figures.json."""
    write_oracle(data, out / "oracle.csv", labels)
    figures: dict[str, Any] = {"seed": seed, "steps": steps, "patients": {}}
    for name in labelled_patients(data, labels):
        folder = out / "compact" / pseudonym_of(name)
        record = left_out_model(data, folder, labels, name, seed=seed, steps=steps)
        distances = dose_distances(make_prior(f"local-dir:{folder}"), data / name)
        figures["patients"][name] = record["held_out"][name] | distances | {"digest": record["digest"]}
    write_json(out / "figures.json", figures)
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
