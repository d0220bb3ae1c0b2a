"""Judge priors of slices whose visible descriptors are known, and write the figures into a README."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS, PriorSource, SliceKey
from torch.nn import functional


@dataclass(frozen=True)
class LabelledSlices:
    """The slices of one patient and what is visible in each.

    Args:
        patient: name of the patient's folder.
        hu: HU `(slices, rows, columns)`, inferior to superior.
        z_mm: position of each slice.
        visible: bool `(slices, descriptors)`.
    """

    patient: str
    hu: torch.Tensor
    z_mm: np.ndarray
    visible: torch.Tensor

    @property
    def target(self) -> torch.Tensor:
        """Equal shares for what is visible; uniform where nothing is. `(slices, descriptors)`, rows sum to 1."""
        shares = self.visible.float()
        shares[~self.visible.any(1)] = 1.0
        return shares / shares.sum(1, keepdim=True)


def read_labels(path: str | Path) -> dict[str, list[tuple[str, float, float]]]:
    """Read labels.csv: patient -> list of (descriptor, z_from_mm, z_to_mm), both ends included.

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
            if row["descriptor"] not in DESCRIPTORS:
                raise BioAttError(f"{where}: unknown descriptor {row['descriptor']!r}; use one of {DESCRIPTORS}")
            try:
                z_from, z_to = float(row["z_from_mm"]), float(row["z_to_mm"])
            except (TypeError, ValueError) as error:
                raise BioAttError(f"{where}: z_from_mm and z_to_mm must be numbers in mm; correct them") from error
            if not z_from <= z_to:
                raise BioAttError(f"{where}: z_from_mm {z_from} must not exceed z_to_mm {z_to}; swap them")
            labels.setdefault(row["patient"], []).append((row["descriptor"], z_from, z_to))
    return labels


def visible_at(ranges: Sequence[tuple[str, float, float]], z_mm: np.ndarray) -> torch.Tensor:
    """Which descriptors are visible at each z: bool `(len(z_mm), descriptors)`. Ends reach half a mm further."""
    visible = torch.zeros(len(z_mm), len(DESCRIPTORS), dtype=torch.bool)
    z = torch.as_tensor(np.asarray(z_mm, dtype=np.float64))
    for word, z_from, z_to in ranges:
        visible[:, DESCRIPTORS.index(word)] |= (z >= z_from - 0.5) & (z <= z_to + 0.5)
    return visible


def judge(
    source: PriorSource, patient: LabelledSlices, constant: torch.Tensor, noise_hu: float = 60.0
) -> dict[str, float]:
    """Compare a source's priors of one patient with the annotation, with `constant`, and with itself under noise.

    `constant` `(K,)` is one prior for every slice, the mean target of the patients trained on: what a model that
    does not look at the image could give at best.

    TV is the total variation distance, half the sum of absolute differences: 0 for equal, 1 for disjoint
    distributions. The noise of `stability_tv` is Gaussian with `noise_hu` standard deviation, correlated over 3x3
    pixels, which resizing does not remove.
    """
    keys = [SliceKey(index) for index in range(len(patient.hu))]
    started = time.perf_counter()
    prior = source(patient.hu, keys)
    elapsed = time.perf_counter() - started
    white = torch.randn(patient.hu.shape, generator=torch.Generator().manual_seed(0))
    noise = noise_hu * 3.0 * functional.avg_pool2d(white[:, None], 3, stride=1, padding=1)[:, 0]
    moved = total_variation(prior, source(patient.hu + noise, keys))
    target, some = patient.target, patient.visible.any(1)
    top = patient.visible[torch.arange(len(prior)), prior.argmax(1)]
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
        "mass_on_visible_uniform": patient.visible.float().mean(1)[some].mean(),
        "mass_on_visible_constant": (constant * patient.visible).sum(1)[some].mean(),
        "top1_visible": top[some].float().mean(),
        "neighbour_tv": total_variation(prior[1:], prior[:-1]).mean(),
        "stability_tv": moved.mean(),
        "stability_tv_max": moved.max(),
        "ms_per_slice": 1000 * elapsed / len(prior),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def total_variation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Half the sum of absolute differences of two distributions `(n, K)`: `(n,)`, from 0 to 1."""
    return 0.5 * (one - other).abs().sum(dim=1)


README = """# Compact prior model 1.0

A stand-in for BiomedCLIP on machines without a network. **It is not BiomedCLIP**, is not derived from it, and
knows nothing but the 11 words below. It is a small CLIP in open_clip's `local-dir` form: a narrow residual network
for a {image} pixel image, a two-layer text tower over bytes, {parameters:,} parameters, stored in float16.

Words: {words}.

## Made by

    PYTHONPATH=bundle python -m studies.compact_prior --data DIR --out bundle/models/prior --seed {seed} --steps {steps}

on one thread. DIR held one folder a patient, each with one CT series of The Cancer Imaging Archive.

- Trained on: {trained}.
- Only judged: {held_out}.

`labels.csv` says from which to which z (mm, third value of ImagePositionPatient) each word is visible. It was read
off pictures of the series, every 1 to 3 slices in the abdomen window, by eye and by no radiologist. Spine counts
sacrum and coccyx. The target of a slice gives equal shares to what is visible, and is uniform where nothing is. The
loss is the cross entropy of target and prior; window, noise, blur, position, slice thickness and the table are
varied, left and right are not.

## How good it is

| | {columns} |
|---|{rule}|
{rows}

The patients trained on are listed for comparison only. Cross entropy cannot fall below its floor, the entropy of the
target. TV is the total variation distance (0 equal, 1 disjoint). `uniform` is 1/11 for every word, `constant` the
mean target of the patients trained on, for every slice: what can be had without looking. `top1_visible` says little
for the held-out patients, because the spine is visible in all their slices. `neighbour_tv` is the distance between
neighbouring slices; `stability_tv` that between the prior of a slice and of the same slice with correlated noise of
60 HU standard deviation. `figures.json` holds the same numbers.

The held-out patients were looked at once before: the augmentation was made stronger after a first run (900 steps)
had a tv_to_target of 0.265 and 0.197 on them. No other choice was made by their figures.

## What it cannot do

- Three patients are few: expect it to be wrong on anatomy, contrast phases and scanners unlike theirs.
- `ventricles` (of the brain) is visible in none of the series, so the model hardly ever gives it weight.
- `skull` was learnt from the top of one cranial vault. There is no brain below it, no face and no neck.
- `lymph nodes` was labelled only where nodes were plain (groin, mediastinum) and is the least certain label.
- Two patients in the figures have the abdomen and lower chest alone; the head was never judged on another patient.
- It is part of a research tool, not a medical device, and recognises nothing a reader should rely on.

The series are TCGA-OV (CC BY 3.0), CPTAC-PDA (CC BY 3.0), CPTAC-LSCC (CC BY 3.0) and
Colorectal-Liver-Metastases (CC BY 4.0). No image of them is in this folder.
"""


def write_readme(folder: Path, record: Mapping[str, object], image_shape: int) -> None:
    """Write README.md from the figures of `record`, so that text and figures cannot differ."""
    from safetensors import safe_open

    with safe_open(str(folder / "open_clip_model.safetensors"), framework="np") as weights:
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    patients: dict[str, dict[str, float]] = {**record["held_out"], **record["trained_on"]}
    seen = {name: "trained on" if name in record["trained_on"] else "held out" for name in patients}
    names = list(next(iter(patients.values())))
    text = README.format(
        image=image_shape,
        parameters=parameters,
        words=", ".join(DESCRIPTORS),
        seed=record["seed"],
        steps=record["steps"],
        trained=", ".join(record["trained_on"]),
        held_out=", ".join(record["held_out"]),
        columns=" | ".join(f"{name} ({seen[name]})" for name in patients),
        rule="---|" * (len(patients) - 1) + "---",
        rows="\n".join(f"| {n} | " + " | ".join(f"{f[n]:g}" for f in patients.values()) + " |" for n in names),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
