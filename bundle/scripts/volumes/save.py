"""The Ignite handler that writes results: a derived DICOM series, or a file as the source is stored."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from ..dicom import DerivedRules, FileProcesses, KnownSeries, write_derived_series
from ..errors import BioAttError
from ..ownership import check_replaceable, check_replaceable_report
from ..progress import bar
from ..provenance import Derivation
from ..staging import check_output_file, check_output_folder, staged_file, staged_folder
from .formats import format_of

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class SaveSeries:
    """Writes each result of an evaluator in the form of its source, all or nothing.

    A DICOM series becomes a derived series, alone in the output folder; other files become files of the same names,
    each with a .json beside it that tells what made it. The folder appears when the run is complete.

    Args:
        output_dir: a folder that does not exist yet, or is replaced whole with `overwrite`.
        rules: how a derived series is named and what it keeps; None for the defaults.
        processes: write a DICOM series by these, see `write_derived_series`; they are kept running while the evaluator
            runs.
        report: gives a page of HTML about the results when all of them are written.
        report_file: where it goes, at the same time as the folder; empty for no page.
        known: DICOM series whose headers were looked at before.

    Raises:
        BioAttError: the folder cannot be used, or writing fails.
    """

    output_dir: str | os.PathLike[str]
    provenance: Derivation
    rules: DerivedRules | None = None
    overwrite: bool = False
    processes: FileProcesses = field(default_factory=FileProcesses)
    progress: bool = False
    report: Callable[[], str] | None = None
    report_file: str | os.PathLike[str] = ""
    known: KnownSeries | None = None

    def __post_init__(self) -> None:
        self.output_dir = Path(self.output_dir)
        self.report = self.report if str(self.report_file) else None
        self.report_file = Path(self.report_file)
        self._staging = ExitStack()
        self._page: Path | None = None
        self._folder: Path | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator whose output has ``image`` and ``pred`` in HU."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.abandon)

    def start(self, engine: Engine) -> None:
        """Refuse a folder that cannot be used before the work begins."""
        check_output_folder(self.output_dir, self.overwrite)
        check_replaceable(self.output_dir)
        if self.report is not None:
            check_replaceable_report(self.report_file)
            if self.report_file.absolute().parent.is_dir():  # else it is made, as the result's is
                check_output_file(self.report_file, self.overwrite)
        self._staging.enter_context(self.processes)  # what has read goes on to write

    def write(self, engine: Engine) -> None:
        """Write the results of one iteration."""
        if self.report is not None and self._page is None:  # what is entered first is moved last
            self.report_file.absolute().parent.mkdir(parents=True, exist_ok=True)
            self._page = self._staging.enter_context(staged_file(self.report_file))
        for item in engine.state.output:
            meta = item["image"].meta
            source, hu = Path(meta["filename_or_obj"]), item["pred"].cpu().numpy()[0]
            provenance = self.provenance.outside(meta.get("outside_scope", ""))
            if meta["kind"] == "dicom":
                write_dicom_result(
                    source,
                    json.loads(meta["selection"]),
                    hu,
                    self.output_dir,
                    provenance,
                    rules=self.rules,
                    overwrite=self.overwrite,
                    processes=self.processes,
                    progress=self.progress,
                    complete=self._write_report,
                    known=self.known,
                )
            else:
                if self._folder is None:
                    self._folder = self._staging.enter_context(staged_folder(self.output_dir, self.overwrite))
                write_file_result(source, hu, self._folder, provenance)

    def finish(self, engine: Engine) -> None:
        """Move the finished folder to its place, and then the report to its own."""
        if self._folder is not None:
            self._write_report()
        self._staging.close()
        self._folder = self._page = None

    def abandon(self, engine: Engine, error: BaseException) -> None:
        """Drop what was written so far and let the error go on."""
        self._staging.__exit__(type(error), error, error.__traceback__)
        raise error

    def _write_report(self) -> None:
        if self.report is not None and self._page is not None:
            self._page.write_text(self.report(), encoding="utf-8")


def write_dicom_result(
    source: Path,
    selection: Mapping[str, Any],
    hu: np.ndarray,
    folder: Path,
    provenance: Derivation,
    *,
    progress: bool = False,
    known: KnownSeries | None = None,
    **writing: Any,
) -> None:
    """Write `hu` (columns, rows, slices) as a series derived from one in `source`, to `folder`, which appears whole.

    Args:
        selection: the arguments of `select_series` that find it again, or find it among what is `known`.
        writing: rules, overwrite, processes and complete of `write_derived_series`.
    """
    # What is unusual about the series was logged and allowed when it was read.
    series = (known or KnownSeries()).select(source, **selection, tell=False, allow_gaps=True, assume_hu=True)
    with bar(len(series.files), "writing", progress) as advance:
        write_derived_series(series, hu.transpose(2, 1, 0), folder, provenance, progress=advance, **writing)


def write_file_result(source: Path, hu: np.ndarray, folder: Path, provenance: Derivation) -> None:
    """Write `hu` into `folder` as `source` is stored and named, with a .json beside it that tells what made it."""
    clipped = format_of(source).write(source, hu, folder / source.name)
    if clipped:
        logger.warning("%s: %d voxels were clipped to the range of its data type", source.name, clipped)
    record: dict[str, Any] = {"source": source.name, **provenance.as_dict()}
    (folder / f"{source.name}.json").write_text(json.dumps(record, indent=2) + "\n")


def check_places(dataset_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuse an output folder that exists, holds what BioAtt did not write, or would mingle with the input.

    Raises:
        BioAttError: say which, and the remedy.
    """
    check_apart(dataset_dir, output_dir)
    check_output_folder(output_dir, overwrite)
    check_replaceable(output_dir)


def check_apart(dataset_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> None:
    """Refuse an output folder that would mingle with the input.

    Raises:
        BioAttError: say which, and the remedy.
    """
    if not str(output_dir):
        raise BioAttError("no output folder given; name one that does not exist yet (--output_dir PATH)")
    source, target = Path(dataset_dir).resolve(), Path(output_dir).resolve()
    if target == source or target in source.parents or (source.is_dir() and source in target.parents):
        raise BioAttError(f"output folder {output_dir} and input {dataset_dir} lie inside one another; choose another")
