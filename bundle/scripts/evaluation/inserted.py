"""Ignite handler: noise left against contrast kept, and the error against the truth, of an evaluation."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine

from ..errors import BioAttError
from ..hu import hu_to_network, network_to_hu
from ..staging import write_json
from .handlers import OfEachSlice
from .intervals import patient_interval
from .plane import PlanePoint, PlaneSlice, insert_discs
from .truth import pooled, region_errors, truth_regions

#: Images whose error is reported.
IMAGES = ("low", "denoised")


@dataclass(frozen=True, kw_only=True)
class SliceInPlane:
    """What was measured on one slice: its point in the plane, and by image the error (HU^2, pixels) of each region."""

    patient: str
    point: PlanePoint
    errors: Mapping[str, Mapping[str, tuple[float, int]]] = field(default_factory=dict)


class InsertedDiscs(OfEachSlice):
    """Puts discs into each low dose, denoises it again, and writes how much noise is left and contrast kept.

    The discs are known, so it needs no truth and works on real low doses as on simulated ones. The error against the
    noise-free image is given too where it is known how the low dose came about: noise added to the full dose's own, of
    ``alpha_squared`` times its variance (`scripts.evaluation.truth`). Slices without even soft tissue get no discs, and
    slices without a pixel spacing are left out. Takes what `ImageQuality` takes, and in the batch ``spacing_mm`` and
    ``alpha_squared``, NaN where it is not known. Asks the evaluator's network a second time for each slice.

    Args:
        path: JSON file: ``patients``, each with ``slices``, ``discs``, ``noise_left``, ``contrast`` by diameter in mm
            and ``error_hu2`` by image and region; ``overall``: the same over patients, errors as shares of the low's.
        seed: of the places; the slice's UID goes into it too.
    """

    def __init__(self, path: str | os.PathLike[str], seed: int = 0) -> None:
        super().__init__(path)
        self.seed = seed

    def measure(self, engine: Engine) -> None:
        """Measure the slices of one iteration."""
        for item, source in zip(engine.state.output, engine.state.batch, strict=True):
            spacing_mm = float(source["spacing_mm"].mean())
            if not math.isnan(spacing_mm):
                self._slices.append(self._measured(engine, item, source, spacing_mm))

    def _measured(
        self, engine: Engine, item: Mapping[str, Any], source: Mapping[str, Any], spacing_mm: float
    ) -> SliceInPlane:
        low, full, out = (np.asarray(item[key].cpu().numpy()[0], np.float64) for key in ("image", "label", "pred"))
        generator = np.random.default_rng([self.seed, zlib.crc32(str(source.get("uid", "")).encode())])
        try:
            insertions = [insert_discs(full, spacing_mm, generator)]
        except BioAttError:  # lungs, head or air
            insertions = []
        one = PlaneSlice(low_hu=low, anatomy_hu=full, spacing_mm=spacing_mm, insertions=insertions)
        outputs = [out, *(denoised_again(engine, source, image) for image in one.images()[1:])]
        alpha2, errors = float(source["alpha_squared"]), {}
        if math.isfinite(alpha2):
            regions = truth_regions(full, spacing_mm)
            errors = {
                name: region_errors(image, full, low - full, alpha2, regions)
                for name, image in zip(IMAGES, (low, out), strict=True)
            }
        return SliceInPlane(patient=source["patient"], point=one.measure(outputs), errors=errors)

    def finish(self, engine: Engine) -> None:
        """Average per patient, print and write."""
        self.summary = plane_document(self.gathered())
        if idist.get_rank() == 0:
            write_json(self.path, self.summary)
            print(_line(self.summary), flush=True)


def denoised_again(engine: Engine, source: Mapping[str, Any], image_hu: np.ndarray) -> np.ndarray:
    """What an evaluator makes of another image (H, W) in HU with all else of an item of its batch as it was."""
    batch = {key: value[None] for key, value in source.items() if isinstance(value, torch.Tensor)}
    batch["image"] = hu_to_network(torch.from_numpy(np.asarray(image_hu, np.float32)))[None, None]
    inputs, _, args, kwargs = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
    with engine.mode(engine.network):
        output = engine.inferer(inputs, engine.network, *args, **kwargs)
    return network_to_hu(output)[0, 0].float().cpu().numpy()


def plane_document(slices: Sequence[SliceInPlane]) -> dict[str, Any]:
    """What `InsertedDiscs` writes, of all slices."""
    names = sorted({one.patient for one in slices})
    patients = {name: _patient([one for one in slices if one.patient == name]) for name in names}
    diameters = sorted({d for of in patients.values() for d in of["contrast"]}, key=float)
    regions = list(dict.fromkeys(region for of in patients.values() for region in of["error_hu2"].get("low", {})))
    return {
        "patients": patients,
        "overall": {
            "noise_left": patient_interval({name: of["noise_left"] for name, of in patients.items()}),
            "contrast": {
                d: patient_interval({name: of["contrast"].get(d, math.nan) for name, of in patients.items()})
                for d in diameters
            },
            "error_left": {
                region: patient_interval({name: _left(of["error_hu2"], region) for name, of in patients.items()})
                for region in regions
            },
        },
    }


def _patient(slices: Sequence[SliceInPlane]) -> dict[str, Any]:
    figures = sum((one.point for one in slices[1:]), slices[0].point).summary()
    known = [one.errors for one in slices if one.errors]
    return {
        "slices": len(slices),
        **{key: figures[key] for key in ("discs", "noise_in_hu", "noise_left", "frequency_left", "contrast")},
        "error_hu2": {
            image: {region: pooled(of[image][region] for of in known) for region in known[0][image]}
            for image in (IMAGES if known else ())
        },
    }


def _left(errors: Mapping[str, Mapping[str, float]], region: str) -> float:
    """Error of the denoised image over that of the low dose; NaN where either is not known."""
    low, denoised = (errors.get(image, {}).get(region, math.nan) for image in IMAGES)
    return denoised / low if low > 0.0 else math.nan


def _line(summary: Mapping[str, Any]) -> str:
    overall = summary["overall"]
    if not summary["patients"]:
        return "inserted discs: not measured, no slice has a pixel spacing"
    kept = ", ".join(f"{d} mm {of['mean']:.0%}" for d, of in overall["contrast"].items())
    error = overall["error_left"].get("body")
    told = f"; error of the body against the noise-free image {error['mean']:.0%} of the low dose's" if error else ""
    return (
        f"inserted discs: n = {len(summary['patients'])} patients, noise left {overall['noise_left']['mean']:.0%}, "
        f"contrast kept {kept or 'not measured, no even soft tissue'}{told}"
    )
