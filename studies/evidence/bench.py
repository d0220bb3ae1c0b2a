"""The patients left out, and the figures of whatever is evaluated on them, kept in files so that a run can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.errors import BioAttError
from scripts.staging import write_json

from .evaluating import (
    NOISE,
    EvaluatedPatient,
    Method,
    edge_figures,
    evaluate,
    kept_patient,
    patient_figures,
    real_patient,
)

#: Patients that no weights were trained on.
HELD_OUT = ("CRLM-CT-1004", "CRLM-CT-1006", "LIDC-IDRI-0003", "HCC_015", "C3L-00189", "ACRIN-NSCLC-FDG-PET-042")
#: Folders of the data that hold folders of patients.
COLLECTIONS = ("ct", "ct_patients")
#: Changes when what is measured does, so that figures which were kept before are not read.
MEASURES = "2"

Figures = Mapping[str, Mapping[str, Any]]  # of one setting: patient to figures


def patient_folder(data: Path, name: str) -> Path:
    """The folder of a patient's series.

    Raises:
        BioAttError: there is none.
    """
    for collection in COLLECTIONS:
        if (data / collection / name).is_dir():
            return data / collection / name
    raise BioAttError(f"no {name} in {' or '.join(COLLECTIONS)} under {data.name}; name patients with --held-out")


class Bench:
    """Evaluates methods on all patients.

    Args:
        data: with the `COLLECTIONS`.
        work: where simulated slices and figures are kept.
        held_out: names of the patients.
        slices: of a patient.
        seed: of noise and places.
        window: see `simulated_patient`.
        pairs: folders of real low and full doses, in place of the patients.
        dose_fraction: of the simulated low doses.
    """

    def __init__(
        self,
        data: Path,
        work: Path,
        held_out: Sequence[str] = HELD_OUT,
        slices: int = 4,
        seed: int = 0,
        window: int = 0,
        pairs: Sequence[tuple[Path, Path]] = (),
        dose_fraction: float = 0.25,
    ) -> None:
        self.data, self.work, self.slices, self.seed = data, work, slices, seed
        self.window, self.pairs, self.dose_fraction = window, pairs, dose_fraction
        self.held_out = tuple(f"{low}={full}" for low, full in pairs) or tuple(held_out)

    @cached_property
    def patients(self) -> list[EvaluatedPatient]:
        """Read when first asked for."""
        if self.pairs:
            return [real_patient(low, full, self.slices, seed=self.seed) for low, full in self.pairs]
        return [
            kept_patient(
                patient_folder(self.data, name),
                self.slices,
                self.work,
                dose_fraction=self.dose_fraction,
                seed=self.seed,
                window=self.window,
            )
            for name in self.held_out
        ]

    def figures(self, key: str, settings: Sequence[str], make: Callable[[], Method]) -> dict[str, Figures]:
        """Setting to patient to `patient_figures`; read where they were kept under this key.

        Args:
            key: all that decides the figures besides patients and the names of the settings.
            settings: their names.
            make: the method, made only if it has to be evaluated.
        """
        found: dict[str, dict[str, Any]] = {name: {} for name in settings}
        method: Method | None = None
        for number, name in enumerate(self.held_out):
            numbers = (self.slices, self.seed, self.window, self.dose_fraction)
            decides = [MEASURES, NOISE, key, *settings, name, *map(str, numbers)]
            path = self.work / f"figures-{hashlib.sha256(chr(0).join(decides).encode()).hexdigest()[:16]}.json"
            if not path.is_file():
                method = method or make()
                patient = self.patients[number]
                evaluated = evaluate(method, patient.slices)
                edges = method.edges and not self.window
                write_json(
                    path,
                    {
                        setting: patient_figures(of) | {"edges_mm": edge_figures(patient.slices, of) if edges else {}}
                        for setting, of in evaluated.items()
                    },
                )
            for setting, of in json.loads(path.read_text(encoding="utf-8")).items():
                found[setting][name] = of
        return found
