"""Ignite handlers: quality against the full dose in validation and evaluation, and the curve of a training."""

from __future__ import annotations

import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from ..errors import BioAttError
from ..hu import WINDOWS_HU
from ..staging import make_folder, staged_file, write_json
from .quality import METRICS, check_names, slice_measures
from .results import SliceResult, summary_document, write_csv


class OfEachSlice(ABC):
    """A handler of an evaluator that collects something of each slice and writes a summary at the end of the run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.summary: dict[str, Any] = {}
        self._slices: list[Any] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the last run."""
        self._slices = []

    @abstractmethod
    def measure(self, engine: Engine) -> None:
        """Measure the slices of one iteration."""

    @abstractmethod
    def finish(self, engine: Engine) -> None:
        """Summarise, print and write."""

    def gathered(self) -> list[Any]:
        """What was collected, by all processes."""
        return [one for part in idist.all_gather(tuple(self._slices)) for one in part]


class ImageQuality(OfEachSlice):
    """Compares an evaluator's input and output with the full dose, slice by slice, and writes what it found.

    Needs ``image`` (the low dose), ``label`` (the full) and ``pred`` (1, H, W) in HU in each item of the engine's
    output; in its decollated batch ``patient`` and, where known, ``region`` and ``uid``. Leaves the means over
    patients as ``low_...`` and ``denoised_...``, e.g. ``denoised_psnr_db``, in the engine's metrics, at the end of
    the epoch and so for all handlers that stand after this one. Of several processes the first one writes.

    Args:
        path: JSON file, see `summary_document`.
        slices_path: CSV file with a line per slice, image and window; none if empty.
        metrics: names in `METRICS`.
        windows: names in `WINDOWS_HU`; the measures of the first bear no window in their name.

    Raises:
        BioAttError: a metric or window is unknown, or an image holds values that are not finite.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        slices_path: str | os.PathLike[str] = "",
        metrics: Sequence[str] = METRICS,
        windows: Sequence[str] = ("abdomen",),
    ) -> None:
        check_names("metrics", metrics, METRICS)
        check_names("windows", windows, tuple(WINDOWS_HU))
        if not metrics or not windows:
            raise BioAttError(f"metrics and windows must each name something, got {list(metrics)} and {list(windows)}")
        super().__init__(path)
        self.slices_path = slices_path
        self.metrics = tuple(metrics)
        self.windows = tuple(windows)

    def measure(self, engine: Engine) -> None:
        """Measure the slices of one iteration."""
        for item, source in zip(engine.state.output, engine.state.batch, strict=True):
            images = {key: np.asarray(item[key].cpu().numpy()[0], np.float64) for key in ("image", "label", "pred")}
            for key, image in images.items():
                if not np.isfinite(image).all():
                    remedy = "lower the learning rate" if key == "pred" else "check the data"
                    raise BioAttError(f"{key} of a slice of {source['patient']} holds NaN or infinity; {remedy}")
            measures = slice_measures(
                {"low": images["image"], "denoised": images["pred"]}, images["label"], self.metrics, self.windows
            )
            one = SliceResult(
                patient=source["patient"],
                region=source.get("region", "unknown"),
                uid=source.get("uid", ""),
                measures=measures,
            )
            self._slices.append(one)

    def finish(self, engine: Engine) -> None:
        """Average per patient and region, print and write."""
        slices = self.gathered()
        slices.sort(key=lambda one: one.patient)
        self.summary = summary_document(slices, self.metrics, self.windows)
        overall = self.summary["overall"]
        for image in ("low", "denoised"):
            engine.state.metrics |= {f"{image}_{measure}": one["mean"] for measure, one in overall[image].items()}
        if idist.get_rank() == 0:
            write_json(self.path, self.summary)
            if self.slices_path:
                write_csv(self.slices_path, slices, self.metrics, self.windows)
            print("\n".join(_lines(self.summary)), flush=True)


class TrainingCurve:
    """Writes one CSV line per epoch: loss, learning rate and, where it ran, the validator's means.

    ``low_...`` are those of the low-dose input, which the network has to rise above. The lines of earlier epochs are
    kept and all others replaced, so a resumed training goes on with its curve, and one from the start begins anew.

    Args:
        validator: the evaluator whose metrics are written.
    """

    MEASURES = ("psnr_db", "ssim", "rmse_hu", "low_psnr_db", "low_ssim", "low_rmse_hu")

    def __init__(self, path: str | os.PathLike[str], validator: Engine) -> None:
        self.path = Path(path)
        self.validator = validator
        self._losses: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, after its validation handler."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        """Forget the losses of the last epoch."""
        self._losses = []

    def collect(self, engine: Engine) -> None:
        """Keep the loss of one iteration, on its device: to look at it would wait for the device."""
        self._losses.append(engine.state.output["loss"].detach())

    def write(self, engine: Engine) -> None:
        """Write the line of one epoch; the validator's columns are empty where it did not run."""
        state = engine.state
        row = {
            "epoch": state.epoch,
            "iteration": state.iteration,
            "loss": float(torch.stack(self._losses).double().mean()),
            "learning_rate": engine.optimizer.param_groups[0]["lr"],
        }
        ran = self.validator.state.metrics if state.epoch == self.validator.state.epoch else {}
        for measure in self.MEASURES:
            row[measure] = ran.get(measure if measure.startswith("low_") else f"denoised_{measure}", "")
        if idist.get_rank() > 0:
            return
        rate = row["learning_rate"]
        line = f"epoch {state.epoch}/{state.max_epochs}: loss {row['loss']:.5f}, lr {rate:.2e}"
        line += f", PSNR {row['psnr_db']:.2f} dB" if row["psnr_db"] != "" else ""
        print(line, flush=True)
        engine.logger.info(line)
        earlier = [one for one in read_curve(self.path) if int(one["epoch"]) < state.epoch]
        make_folder(self.path.parent)
        with staged_file(self.path) as partial, open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, list(row), extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*earlier, row])


def read_curve(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The lines of a curve by column name; none if there is no such file."""
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def _lines(summary: Mapping[str, Any]) -> list[str]:
    """A line for each patient and one for all: headline measures, before and after."""
    window = f"({summary['window']} window)"
    lines = [
        f"{patient}: {mean['slices']} slices, {_changes(mean['low'], mean['denoised'])} {window}"
        for patient, mean in summary["patients"].items()
    ]
    low, out = ({m: one["mean"] for m, one in summary["overall"][image].items()} for image in ("low", "denoised"))
    gain = summary["overall"]["difference"].get("psnr_db")
    interval = gain and gain["interval_95"]
    told = (
        f"; PSNR gain {gain['mean']:+.2f} dB, 95% interval {interval[0]:+.2f} to {interval[1]:+.2f}" if interval else ""
    )
    return [*lines, f"overall: n = {len(summary['patients'])} patients, {_changes(low, out)} {window}{told}"]


def _changes(low: Mapping[str, float], out: Mapping[str, float]) -> str:
    shown = (("PSNR", "psnr_db", ".2f", " dB"), ("SSIM", "ssim", ".4f", ""), ("RMSE", "rmse_hu", ".2f", " HU"))
    shown += (("noise", "noise_sd_hu", ".1f", " HU"),)
    return ", ".join(
        f"{title} {low[key]:{digits}} -> {out[key]:{digits}}{unit}" for title, key, digits, unit in shown if key in low
    )
