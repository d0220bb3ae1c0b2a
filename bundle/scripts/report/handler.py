"""The Ignite handler that gathers what the report shows, while a run passes by."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import IterationEvents
from torch import Tensor

from ..dicom import KnownSeries
from ..errors import KeptWarnings
from ..evaluation.measures import SliceSamples, measure_samples
from ..hu import WINDOWS_HU
from ..inference.inferers import SlicePriorInferer
from ..priors import whole_slice_priors
from ..provenance import Provenance
from ..volumes.reader import slice_keys_from_meta
from .page import Findings, page, volume_section
from .pictures import slice_attention

#: The package of the bundle's code, whose warnings belong to a run.
_PACKAGE = __name__.rsplit(".", 2)[0]


@dataclass(eq=False)
class RunReport:
    """Gathers the findings of a run; called when the results are written, it returns the page.

    Some slices are copied before the inferer, which may work in place, and after it; the rest of a volume is never
    held twice. Attach it before the handler that writes, to which it is given as ``report``.

    Args:
        file: where the page will go; empty to gather nothing.
        network: whose attention maps are shown.
        inferer: which knows the prior of each slice when it has run.
        window_hu: grey scale of the slices, lower and upper HU.
        dataset_dir, output_dir: paths that may name a person, and are left out of warnings.
        known: DICOM series that were looked at before the run; what was warned of then belongs to it.
    """

    file: str
    provenance: Provenance
    network: Callable[..., Tensor]
    inferer: SlicePriorInferer
    descriptors: Sequence[str]
    window_hu: tuple[float, float] = WINDOWS_HU["abdomen"]
    dataset_dir: str = ""
    output_dir: str = ""
    known: KnownSeries | None = None

    def __post_init__(self) -> None:
        self._names = {str(path) for path in (self.dataset_dir, self.output_dir) if str(path)}
        self._samples: SliceSamples | None = None
        self._sections: list[str] = []
        self._facts: list[dict[str, Any]] = []
        self._warnings = KeptWarnings()
        self._began = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that runs volumes (B, 1, H, W, slices) in HU."""
        if self.file:
            engine.add_event_handler(Events.STARTED, self.start)
            engine.add_event_handler(Events.ITERATION_STARTED, self.look)
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.gather)
            engine.add_event_handler(Events.COMPLETED, self.stop)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self.stop)

    def start(self, engine: Engine) -> None:
        """Start the clock, and listen to warnings."""
        self._began = time.perf_counter()
        self._sections, self._facts = [], []
        self._warnings = KeptWarnings(self.known.take_told() if self.known else ())
        logging.getLogger(_PACKAGE).addHandler(self._warnings)

    def look(self, engine: Engine) -> None:
        """Keep some slices as they are before the inferer."""
        self._samples = SliceSamples(engine.state.batch["image"])

    def gather(self, engine: Engine) -> None:
        """Measure and draw a volume that was just denoised."""
        image = engine.state.batch["image"]
        self._samples.take_after(engine.state.output["pred"])
        self._names |= _names_in(image)
        found = self.find(image, len(self._sections) + 1)
        self._facts.append({"slices": image.shape[-1], **found.measures})
        self._sections.append(volume_section(found))
        self._samples = None

    def find(self, image: MetaTensor, number: int) -> Findings:
        """What there is to show of the first volume of a batch (B, 1, H, W, slices), whose samples are complete."""
        affine = np.asarray(image.meta["affine"], dtype=np.float64).reshape(-1, 4, 4)[0]
        rows_mm, columns_mm, _ = np.linalg.norm(affine[:3, :3], axis=0)
        count, size = image.shape[-1], len(self.descriptors)
        known = self.inferer.priors
        priors = torch.full((count, size), 1 / size) if known is None else known[0]
        middle = self._samples.indices[len(self._samples.indices) // 2]
        uids = image.meta.get("series_instance_uid", "")
        uid = uids if isinstance(uids, str) else uids[0]
        return Findings(
            title=f"Series {uid}" if uid else f"NIfTI volume {number}",
            samples=self._samples,
            measures=measure_samples(self._samples, (rows_mm, columns_mm)),
            spacing_mm=(rows_mm, columns_mm),
            positions_mm=affine[2, 2] * np.arange(count) + affine[2, 3],
            priors=whole_slice_priors(priors).numpy(),
            dense_prior=priors.dim() > 2,
            descriptors=tuple(self.descriptors),
            window_hu=tuple(map(float, self.window_hu)),
            attention_slice=middle,
            **self._attention(middle, priors[middle]),
        )

    def stop(self, engine: Engine, error: BaseException | None = None) -> None:
        """Listen no longer."""
        logging.getLogger(_PACKAGE).removeHandler(self._warnings)
        if self.known:
            self.known.take_told()  # heard here already

    def __call__(self) -> str:
        """The page about everything gathered since the start."""
        told = [warning_without_names(record, self._names) for record in self._warnings.records]
        seconds = time.perf_counter() - self._began
        return page(self._sections, self._facts, self.provenance, seconds, list(dict.fromkeys(told)))

    def _attention(self, index: int, prior: torch.Tensor) -> dict[str, Any]:
        """Maps of the network's blocks for a sampled slice, and where they lie; none of a network without."""
        kind = self.network.attention
        if kind not in ("prior", "spatial"):
            return {"attention_kind": kind, "attention": {}, "grids": {}}
        before = self._samples.before_hu[self._samples.indices.index(index)]
        maps = slice_attention(self.network, before, prior)
        return {"attention_kind": kind, "attention": maps, "grids": self.network.attention_grids()}


def warning_without_names(record: logging.LogRecord, names: Iterable[str]) -> str:
    """A warning with its paths and file names, which may name a person, replaced by what they are; never within a word.

    Its own words stay, and so do its numbers. A folder may have the name of a word: only what was put into the message
    is searched for such names.
    """
    patterns = {name: rf"(?<!\w)(?:{re.escape(str(Path(name).resolve()))}|{re.escape(name)})(?!\w)" for name in names}

    def hidden(text: str, names: Iterable[str]) -> str:
        for name in sorted(names, key=len, reverse=True):
            text = re.sub(patterns[name], "(path)", text)
        return text

    words = hidden(str(record.msg), [name for name in patterns if re.search(r"[./\\]", name)])
    given = record.args if isinstance(record.args, tuple) else ()
    kept = [one if isinstance(one, Number) else hidden(str(one), patterns) for one in given]
    return re.sub(r"\(path\)[/\\]\S*", "(path)", words % tuple(kept) if kept else words)


def _names_in(image: MetaTensor) -> set[str]:
    """Paths and file names that a volume's meta data hold."""
    files = {key.file for key in slice_keys_from_meta(image.meta, image.shape[-1])}
    sources = image.meta.get("filename_or_obj", "")
    files |= {sources} if isinstance(sources, str) else set(sources)
    return {name for file in files if file for name in (file, Path(file).name)}
