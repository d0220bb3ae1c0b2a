"""Evaluate priors of slices whose visible descriptors are known, and write the figures into a README."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scripts.errors import BioAttError
from scripts.pages import table
from scripts.priors import DESCRIPTORS, PriorSource, SliceKey
from torch.nn import functional

#: Series -> figure -> value; None where a series has no slice to evaluate it by.
Figures = Mapping[str, Mapping[str, float | None]]
#: Stands in labels.csv in place of a descriptor for a series that shows none of them, over the whole series.
NOTHING = "nothing"
#: Number of visible descriptors at which half of a slice's target is uniform.
HALF_UNIFORM_COUNT = 2.0


@dataclass(frozen=True)
class LabelledSlices:
    """The slices of one patient and what is visible in each.

    Args:
        patient: the series' folder; below a folder of the patient where they have several: ``patient/series``.
        hu: HU `(slices, rows, columns)` in radiological orientation, inferior to superior.
        z_mm: position of each slice.
        visible: bool `(slices, descriptors)`.
    """

    patient: str
    hu: torch.Tensor
    z_mm: np.ndarray
    visible: torch.Tensor

    @property
    def shares(self) -> torch.Tensor:
        """Equal shares for what is visible; uniform where nothing is. `(slices, descriptors)`, rows sum to 1."""
        shares = self.visible.float()
        shares[~self.visible.any(1)] = 1.0
        return shares / shares.sum(1, keepdim=True)

    @property
    def target(self) -> torch.Tensor:
        """What the model is taught: `shares`, nearer to uniform the fewer are visible. Rows sum to 1.

        ``(1 - u) shares + u / K`` with ``u = 1 / (1 + (n / 2)^2)`` where n of the K descriptors are visible: u is 1
        where nothing is (thigh, phantom), 0.8 for one (the spine of a pelvis, neck or shoulder), 0.5 for two, 0.31
        for three (a chest) and 0.1 for six (an abdomen). A prior that is sure of one word uses one of the network's
        K attention maps, so it acts as a strength knob; few visible words are little evidence, and deserve little.
        """
        count = self.visible.sum(1, keepdim=True)
        uniform_share = 1 / (1 + (count / HALF_UNIFORM_COUNT) ** 2)
        return torch.lerp(self.shares, torch.full_like(self.shares, 1 / len(DESCRIPTORS)), uniform_share)


def patient_of(name: str) -> str:
    """The patient of a labelled series: the first folder of ``patient/series``."""
    return name.split("/")[0]


def read_labels(path: str | Path) -> dict[str, list[tuple[str, float, float]]]:
    """Read labels.csv: series' folder -> list of (descriptor, z_from_mm, z_to_mm), both ends included.

    A row of `NOTHING` names a series and no range.

    Raises:
        BioAttError: a column is missing, a descriptor is unknown, or a range is no range; with the line.
    """
    labels: dict[str, list[tuple[str, float, float]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        wanted = ["patient", "descriptor", "z_from_mm", "z_to_mm"]
        if reader.fieldnames != wanted:
            raise BioAttError(f"{path} must have the columns {wanted}, got {reader.fieldnames}; correct its first line")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if row["descriptor"] not in (*DESCRIPTORS, NOTHING):
                known = (*DESCRIPTORS, NOTHING)
                raise BioAttError(f"{where}: unknown descriptor {row['descriptor']!r}; use one of {known}")
            try:
                z_from, z_to = float(row["z_from_mm"]), float(row["z_to_mm"])
            except (TypeError, ValueError) as error:
                raise BioAttError(f"{where}: z_from_mm and z_to_mm must be numbers in mm; correct them") from error
            if not z_from <= z_to:
                raise BioAttError(f"{where}: z_from_mm {z_from} must not exceed z_to_mm {z_to}; swap them")
            ranges = labels.setdefault(row["patient"], [])
            if row["descriptor"] != NOTHING:
                ranges.append((row["descriptor"], z_from, z_to))
    return labels


def visible_at(ranges: Sequence[tuple[str, float, float]], z_mm: np.ndarray) -> torch.Tensor:
    """Which descriptors are visible at each z: bool `(len(z_mm), descriptors)`. Ends reach half a mm further."""
    visible = torch.zeros(len(z_mm), len(DESCRIPTORS), dtype=torch.bool)
    z = torch.as_tensor(np.asarray(z_mm, dtype=np.float64))
    for word, z_from, z_to in ranges:
        visible[:, DESCRIPTORS.index(word)] |= (z >= z_from - 0.5) & (z <= z_to + 0.5)
    return visible


def evaluate(
    source: PriorSource, patient: LabelledSlices, constant: torch.Tensor, noise_hu: float = 60.0
) -> dict[str, float | None]:
    """Compare a source's priors of one patient with the annotation, with `constant`, and with itself under noise.

    `constant` `(K,)` is one prior for every slice, the mean target of the patients trained on: what a model that
    does not look at the image could give at best.

    TV is the total variation distance, half the sum of absolute differences: 0 for equal, 1 for disjoint
    distributions. `highest_absent` is the largest share of a descriptor that is not visible, `highest_few` the
    largest share of any in slices that show one at most: how sure of something wrong, and how sure without evidence
    (the target's is at most 0.27). None where no slice has such. The noise of `stability_tv` is Gaussian with
    `noise_hu` standard deviation, correlated over 3x3 pixels, which resizing does not remove.
    """
    keys = [SliceKey(index) for index in range(len(patient.hu))]
    prior = source(patient.hu, keys)
    white = torch.randn(patient.hu.shape, generator=torch.Generator().manual_seed(0))
    noise = noise_hu * 3.0 * functional.avg_pool2d(white[:, None], 3, stride=1, padding=1)[:, 0]
    moved = total_variation(prior, source(patient.hu + noise, keys))
    target, some, few = patient.target, patient.visible.any(1), patient.visible.sum(1) <= 1
    top = patient.visible[torch.arange(len(prior)), prior.argmax(1)]
    absent = (prior * ~patient.visible).amax(1)
    figures = {
        "slices": len(prior),
        "cross_entropy": -(target * prior.clamp_min(1e-9).log()).sum(1).mean(),
        "cross_entropy_uniform": math.log(len(DESCRIPTORS)),
        "cross_entropy_constant": -(target * constant.clamp_min(1e-9).log()).sum(1).mean(),
        "cross_entropy_floor": -(target * target.clamp_min(1e-9).log()).sum(1).mean(),
        "tv_to_target": total_variation(prior, target).mean(),
        "tv_to_target_uniform": total_variation(torch.full_like(target, 1 / len(DESCRIPTORS)), target).mean(),
        "tv_to_target_constant": total_variation(constant.expand_as(target), target).mean(),
        "mass_on_visible": (prior * patient.visible).sum(1)[some].mean(),
        "mass_on_visible_target": (target * patient.visible).sum(1)[some].mean(),
        "mass_on_visible_uniform": patient.visible.float().mean(1)[some].mean(),
        "mass_on_visible_constant": (constant * patient.visible).sum(1)[some].mean(),
        "top1_visible": top[some].float().mean(),
        "highest_absent": absent.mean(),
        "highest_absent_max": absent.max(),
        "highest_few": prior.amax(1)[few].mean(),
        "neighbour_tv": total_variation(prior[1:], prior[:-1]).mean(),
        "stability_tv": moved.mean(),
        "stability_tv_max": moved.max(),
    }
    return {name: None if math.isnan(value) else round(float(value), 4) for name, value in figures.items()}


def total_variation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Half the sum of absolute differences of two distributions `(n, K)`: `(n,)`, from 0 to 1."""
    return 0.5 * (one - other).abs().sum(dim=1)


README = """# Compact prior model 2.0

A stand-in for BiomedCLIP on machines without a network. **It is not BiomedCLIP**, is not derived from it, and
knows nothing but the 11 words below. It is a small CLIP in open_clip's `local-dir` form: a narrow residual network
for a {image} pixel image, a two-layer text tower over bytes, {parameters:,} parameters, stored in float16.

Words: {words}.

## Made by

    PYTHONPATH=bundle python -m studies.compact_prior --data DIR [DIR ...] --out bundle/models/prior \\
        --seed {seed} --steps {steps}

on one thread. Each DIR held one folder a patient with one CT series, or with one folder a series.

- Trained on {patients_trained} patients, donors and phantoms ({slices_trained} slices): {trained}.
- Only evaluated: {held_out}.

`labels.csv` says from which to which z (mm, third value of ImagePositionPatient) each word is visible; `nothing` names
a series that shows none. It was read off pictures of the series, every 1 to 3 slices or every slice where slices are
far apart, in the abdomen window (ventricles in a brain window), by eye and by no radiologist. Spine counts sacrum and
coccyx, skull the bones of the face above the lower jaw.

The target of a slice in which n of the K = 11 words are visible is

    (1 - u) / n for each visible word, and u / K for every word;   u = 1 / (1 + (n / 2)^2)

so u, the share of the uniform prior, is 1 where nothing is visible (thigh, phantom), 0.8 for one word (pelvis, neck,
shoulder: the spine alone), 0.5 for two, 0.31 for three (chest) and 0.1 for six (abdomen). Version 1.0 gave a slice's
whole weight to what was visible, however little, and on a patient it had not seen called a thigh "lymph nodes" and a
pelvis "spine" with certainty. A prior that is sure of one word uses one of the network's attention maps alone.

The loss is the cross entropy of target and prior. Window, noise (white, smooth or in streaks), sharpness, position,
size, slice thickness and the table are varied, left and right are not. A patient is drawn as the root of the number of
their slices; several series of one patient are one patient.

## How good it is

On the patients held out:

{held_out_table}

Cross entropy cannot fall below its floor, the entropy of the target. TV is the total variation distance (0 equal, 1
disjoint). `uniform` is 1/11 for every word, `constant` the mean target of the patients trained on, for every slice:
what can be had without looking; `target` is what the target itself reaches. `top1_visible` says little, because the
spine is visible in nearly all slices. `highest_absent` is the largest share given to a word that is not visible, the
mean over slices and its maximum; `highest_few` the largest share of any word in slices that show one at most (the
target's is at most 0.27; a dash where a series has no such slice). `neighbour_tv` is the distance between neighbouring
slices; `stability_tv` that between the prior of a slice and of the same slice with correlated noise of 60 HU standard
deviation. `figures.json` holds the same numbers.
{comparison}
On the series trained on, for comparison only:

{trained_table}

## What it cannot do

- On patients it did not see it is less sure than its targets: compare `mass_on_visible` with that of the target.
- No nearer to its targets than the uniform prior, by TV: {no_nearer}.
- {patients_trained} patients are few: expect it to be wrong on anatomy, contrast phases and scanners unlike theirs.
- `ventricles` was learnt from three heads, two of them of body donors, and never evaluated on another patient; so was
  `skull`, from four.
- `lymph nodes` was labelled only where nodes were plain (groin of one patient, mediastinum of another), is the least
  certain label and is not labelled in any patient that came with version 2.0, whatever nodes they have.
- Legs below the groin were not among the data: the phantoms stand for slices that show nothing.
- It is part of a research tool, not a medical device, and recognises nothing a reader should rely on.

The bundle's docs/data_license.txt names the collections with their licences. No image of them is in this folder.
"""

COMPARISON = """
The model before it (digest {digest}) on the same patients and the same targets, its figure / this model's:

{table}

Its own target was another (equal shares for what is visible), so `cross_entropy` and `tv_to_target` favour this
model where few words are visible; `highest_absent`, `highest_few` and the stability do not depend on a target.
"""

COMPARED = (
    "cross_entropy",
    "tv_to_target",
    "mass_on_visible",
    "highest_absent",
    "highest_absent_max",
    "highest_few",
    "neighbour_tv",
    "stability_tv",
    "stability_tv_max",
)
SHOWN_OF_TRAINED = ("slices", "tv_to_target", "mass_on_visible", "highest_absent", "highest_absent_max", "highest_few")


def write_readme(folder: Path, record: Mapping[str, object], image_shape: int) -> None:
    """Write README.md from the figures of `record`, so that text and figures cannot differ."""
    from safetensors import safe_open

    with safe_open(str(folder / "open_clip_model.safetensors"), framework="np") as weights:
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    held_out: Figures = record["held_out"]
    trained: Figures = record["trained_on"]
    previous: Figures = record["previous"]
    metrics = list(next(iter(held_out.values())))
    transposed = {name: {p: _number(f[name]) for p, f in held_out.items()} for name in metrics}
    compared = {
        name: {p: f"{_number(f[name])} / {_number(held_out[p][name])}" for p, f in previous.items()}
        for name in COMPARED
    }
    chosen = {p: {name: _number(f[name]) for name in SHOWN_OF_TRAINED} for p, f in trained.items()}
    comparison = (
        COMPARISON.format(digest=str(record["previous_digest"])[:12], table=_table(compared)) if previous else ""
    )
    text = README.format(
        image=image_shape,
        parameters=parameters,
        words=", ".join(DESCRIPTORS),
        seed=record["seed"],
        steps=record["steps"],
        patients_trained=len({patient_of(name) for name in trained}),
        slices_trained=sum(int(f["slices"] or 0) for f in trained.values()),
        trained=", ".join(trained),
        held_out=", ".join(held_out),
        held_out_table=_table(transposed),
        trained_table=_table(chosen),
        comparison=comparison,
        no_nearer=", ".join(p for p, f in held_out.items() if f["tv_to_target"] >= f["tv_to_target_uniform"]) or "none",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _table(rows: Mapping[str, Mapping[str, str]]) -> str:
    """A Markdown table of row name -> column name -> text."""
    columns = list(next(iter(rows.values())))
    return table(("", *columns), [(name, *(row[c] for c in columns)) for name, row in rows.items()])
