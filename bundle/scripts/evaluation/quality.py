"""PSNR, SSIM and RMSE against the full dose, in HU, for the denoised image and for its input."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from ..dose.image_noise import flat_soft_tissue, noise_sd_hu
from ..hu import WINDOWS_HU


def image_quality(image_hu: np.ndarray, full_hu: np.ndarray, window: str = "abdomen") -> dict[str, float]:
    """Compare an image with the full dose inside a HU window.

    Args:
        image_hu, full_hu: (H, W) in HU.
        window: a name in `WINDOWS_HU`; both images are clipped to it, and its width is the data range.

    Returns:
        ``psnr_db``, ``ssim`` and ``rmse_hu``, by scikit-image.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    lower, upper = WINDOWS_HU[window]
    image, full = (np.asarray(x, dtype=np.float64).clip(lower, upper) for x in (image_hu, full_hu))
    width = upper - lower
    return {
        "psnr_db": float(peak_signal_noise_ratio(full, image, data_range=width)),
        "ssim": float(structural_similarity(full, image, data_range=width)),
        "rmse_hu": float(np.sqrt(np.mean((image - full) ** 2))),
    }


class ImageQuality:
    """Compares an evaluator's input and output with the full dose and writes the means per patient.

    Needs ``image``, ``label`` and ``pred`` in HU in the engine's output, one slice an item, and ``patient`` in its
    decollated batch.

    Args:
        path: JSON file for the result; ``{patient: {low | denoised: {measure: mean}}}`` with ``slices``.
        window: a name in `WINDOWS_HU`.
    """

    def __init__(self, path: str | os.PathLike[str], window: str = "abdomen") -> None:
        self.path = Path(path)
        self.window = window
        self.means: dict[str, Any] = {}
        self._rows: list[tuple[str, dict[str, dict[str, float]]]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.measure)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the last run."""
        self._rows = []

    def measure(self, engine: Engine) -> None:
        """Measure the slices of one iteration."""
        for item, source in zip(engine.state.output, engine.state.batch, strict=True):
            low, full, out = (item[key].cpu().numpy()[0] for key in ("image", "label", "pred"))
            mask = flat_soft_tissue(low)
            row = {}
            for name, image in (("low", low), ("denoised", out)):
                row[name] = image_quality(image, full, self.window)
                row[name]["noise_sd_hu"] = noise_sd_hu(image, mask)
            self._rows.append((source["patient"], row))

    def finish(self, engine: Engine) -> None:
        """Average per patient, print and write."""
        self.means = {
            patient: _means([row for name, row in self._rows if name == patient])
            for patient in sorted({name for name, _ in self._rows})
        }
        engine.state.metrics.update(_flat(self.means))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"window": self.window, "patients": self.means}, indent=2) + "\n")
        for patient, mean in self.means.items():
            low, out = mean["low"], mean["denoised"]
            print(
                f"{patient}: {mean['slices']} slices, PSNR {low['psnr_db']:.2f} -> {out['psnr_db']:.2f} dB, "
                f"SSIM {low['ssim']:.4f} -> {out['ssim']:.4f}, RMSE {low['rmse_hu']:.2f} -> {out['rmse_hu']:.2f} HU, "
                f"noise {low['noise_sd_hu']:.1f} -> {out['noise_sd_hu']:.1f} HU ({self.window} window)",
                flush=True,
            )


class TrainingCurve:
    """Writes one CSV line per epoch: loss, learning rate and, where it ran, the validator's means.

    Args:
        path: the CSV file; it is begun anew with each training.
        validator: the evaluator whose metrics are written.
    """

    def __init__(self, path: str | os.PathLike[str], validator: Engine) -> None:
        self.path = Path(path)
        self.validator = validator
        self._losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, after its validation handler."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        """Write the head of the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", newline="") as file:
            csv.writer(file).writerow(["epoch", "iteration", "loss", "learning_rate", "psnr_db", "ssim", "rmse_hu"])

    def collect(self, engine: Engine) -> None:
        """Keep the loss of one iteration."""
        self._losses.append(float(engine.state.output[0]["loss"]))

    def write(self, engine: Engine) -> None:
        """Write the line of one epoch; the validator's columns are empty where it did not run."""
        rate = engine.optimizer.param_groups[0]["lr"]
        loss, self._losses = float(np.mean(self._losses)), []
        ran = self.validator.state.metrics if engine.state.epoch == self.validator.state.epoch else {}
        print(f"epoch {engine.state.epoch}/{engine.state.max_epochs}: loss {loss:.5f}, lr {rate:.2e}", flush=True)
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            measures = [ran.get(f"denoised_{name}", "") for name in ("psnr_db", "ssim", "rmse_hu")]
            writer.writerow([engine.state.epoch, engine.state.iteration, loss, rate, *measures])


def _means(rows: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Mean of each measure over slices, ignoring where there was nothing to measure."""
    means: dict[str, Any] = {"slices": len(rows)}
    for image in rows[0]:
        means[image] = {key: _mean([row[image][key] for row in rows]) for key in rows[0][image]}
    return means


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _flat(means: Mapping[str, Any]) -> dict[str, float]:
    """Mean over patients of the denoised images' measures, as Ignite metrics."""
    names = next(iter(means.values()))["denoised"] if means else {}
    return {f"denoised_{name}": _mean([mean["denoised"][name] for mean in means.values()]) for name in names}
