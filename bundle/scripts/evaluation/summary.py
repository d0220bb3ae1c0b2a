"""What a run of inference tells at its end: slices, prior, seconds, noise before and after."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import IterationEvents

from ..dose.image_noise import flat_soft_tissue, noise_sd_hu
from ..hu import network_to_hu
from ..provenance import Provenance

#: Slices of a volume whose noise is measured; measuring all would take longer than it tells.
MEASURED_SLICES = 9


class InferenceSummary:
    """Prints one summary when an evaluator has finished.

    Args:
        provenance: what made the results.
        output_dir: where they are.
    """

    def __init__(self, provenance: Provenance, output_dir: str) -> None:
        self.provenance = provenance
        self.output_dir = output_dir
        self._began = 0.0
        self._slices = 0
        self._before: dict[int, np.ndarray] = {}
        self._noise: list[tuple[float, float]] = []
        self._outside: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that runs volumes (B, 1, H, W, slices) in network range."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.look)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.measure)
        engine.add_event_handler(Events.COMPLETED, self.tell)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        self._began = time.perf_counter()
        self._slices = 0
        self._noise = []
        self._outside = []

    def look(self, engine: Engine) -> None:
        """Keep some slices as they are before the inferer, which may work in place; count them all."""
        image = engine.state.batch["image"]
        count = image.shape[-1]
        self._slices += image.shape[0] * count
        outside = image.meta.get("outside_scope", "") if isinstance(image, MetaTensor) else ""
        self._outside += [outside] if isinstance(outside, str) else outside
        chosen = np.unique(np.linspace(0, count - 1, MEASURED_SLICES + 2).round().astype(int)[1:-1])
        self._before = {int(i): _slice_hu(image, int(i)) for i in chosen}

    def measure(self, engine: Engine) -> None:
        """Measure the noise of these slices before and after."""
        for i, low in self._before.items():
            mask = flat_soft_tissue(low)
            if mask.any():
                out = _slice_hu(engine.state.output["pred"], i)
                self._noise.append((noise_sd_hu(low, mask), noise_sd_hu(out, mask)))
        self._before = {}

    def tell(self, engine: Engine) -> None:
        """Print the summary."""
        print("\n".join(f"{name:<16}{value}" for name, value in self.lines()), flush=True)

    def lines(self) -> list[tuple[str, Any]]:
        """Names and values of the summary."""
        seconds = time.perf_counter() - self._began
        noise = "no soft tissue to measure it in"
        if self._noise:
            before, after = np.median(self._noise, axis=0)
            noise = f"{before:.1f} HU before, {after:.1f} HU after ({after / before - 1:+.0%}), flat soft tissue"
        return [
            ("slices", self._slices),
            ("prior", self.provenance.prior_model),
            ("weights", f"{self.provenance.network}, sha256 {self.provenance.weights_sha256[:16]}"),
            ("strength", f"{self.provenance.strength:g}"),
            ("noise (SD)", noise),
            *(("outside scope", outside) for outside in dict.fromkeys(filter(None, self._outside))),
            ("seconds", f"{seconds:.1f} ({seconds / max(1, self._slices):.2f} per slice)"),
            ("output", self.output_dir),
        ]


def _slice_hu(volumes: MetaTensor, i: int) -> np.ndarray:
    """Slice i of the first of `volumes` (B, 1, H, W, slices), from network range to HU; a copy."""
    return network_to_hu(volumes[0, 0, ..., i].as_tensor().cpu().numpy())
