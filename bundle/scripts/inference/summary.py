"""What a run of inference reports at its end: slices, prior, seconds, noise before and after."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import IterationEvents

from ..dose.image_noise import has_noise
from ..evaluation.measures import SliceSamples
from ..provenance import Provenance


@dataclass(eq=False)
class InferenceSummary:
    """Prints one summary when an evaluator has finished.

    Args:
        report_file: where the report is; empty for none.
        shown: print it; else it is there for programs alone.
    """

    provenance: Provenance
    output_dir: str
    report_file: str = ""
    shown: bool = True

    def __post_init__(self) -> None:
        self._began, self._slices = 0.0, 0
        self._samples: SliceSamples | None = None
        self._measuring: list[Future[list[tuple[float, float]]]] = []
        self._beside = ThreadPoolExecutor(1)  # measures while results are written
        self._outside: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that runs volumes (B, 1, H, W, slices) in HU."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.look)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.measure)
        engine.add_event_handler(Events.COMPLETED, self.tell)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        self._began, self._slices = time.perf_counter(), 0
        self._measuring, self._outside = [], []

    def look(self, engine: Engine) -> None:
        """Keep some slices as they are before the inferer, which may work in place; count them all."""
        image = engine.state.batch["image"]
        self._slices += image.shape[0] * image.shape[-1]
        outside = image.meta.get("outside_scope", "") if isinstance(image, MetaTensor) else ""
        self._outside += [outside] if isinstance(outside, str) else outside
        self._samples = SliceSamples(image)

    def measure(self, engine: Engine) -> None:
        """Measure the noise of these slices before and after."""
        self._samples.take_after(engine.state.output["pred"])
        self._measuring.append(self._beside.submit(self._samples.noise_sd_hu))
        self._samples = None

    def tell(self, engine: Engine) -> None:
        """Print the summary, if it is to be shown."""
        if self.shown:
            print("\n".join(f"{name:<16}{value}" for name, value in self.lines()), flush=True)

    def figures(self) -> dict[str, Any]:
        """The same for programs: slices, noise in HU before and after (None where it cannot be measured), scope."""
        noise = self._noise()
        told = None if noise is None else {"before": round(noise[0], 2), "after": round(noise[1], 2)}
        return {"slices": self._slices, "noise_sd_hu": told, "outside_scope": self._told_of_scope()}

    def _noise(self) -> tuple[float, float] | None:
        """Median before and after of the slices that were measured."""
        measured = [pair for part in self._measuring for pair in part.result()]
        return tuple(np.median(measured, axis=0).tolist()) if measured else None

    def _told_of_scope(self) -> list[str]:
        return list(dict.fromkeys(filter(None, self._outside)))

    def lines(self) -> list[tuple[str, Any]]:
        """Names and values of the summary."""
        seconds = time.perf_counter() - self._began
        noise = "no soft tissue to measure it in"
        if (measured := self._noise()) is not None:
            before, after = measured
            change = f" ({after / before - 1:+.0%})" if has_noise(before) else ""
            noise = f"{before:.1f} HU before, {after:.1f} HU after{change}, flat soft tissue"
        return [
            ("slices", self._slices),
            ("prior", self.provenance.prior_model),
            ("weights", f"{self.provenance.network}, sha256 {self.provenance.weights_sha256[:16]}"),
            ("strength", str(self.provenance.strength)),
            ("precision", self.provenance.precision),
            ("noise (SD)", noise),
            *(("outside scope", outside) for outside in self._told_of_scope()),
            ("seconds", f"{seconds:.1f} ({seconds / max(1, self._slices):.2f} per slice)"),
            ("output", self.output_dir),
            *([("report", self.report_file)] if self.report_file else []),
        ]
