"""The command: which parts to measure, of which weights, on which data; each part becomes one JSON file."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.staging import write_json
from scripts.strengths import DEFAULT, STRENGTHS
from scripts.workflow import BUNDLE_ROOT, CONFIGS, quiet_libraries

from .alpha import measure_alpha
from .baselines import Contestant, baseline, measure_baselines
from .bench import HELD_OUT, Bench, patient_folder
from .denoisers import RETUNED, Denoiser, bundle_denoiser, nlm_denoiser
from .detection import measure_patients, measure_uniform, methods_of
from .downstream import measure_downstream
from .evaluating import Method
from .lcd import measure_lcd
from .matrix import measure_matrix
from .methods import anchored, gaussians, network_method, non_local, total_variation
from .operating_point import measure_operating_point
from .pages import write_pages
from .patients import Patient
from .phantom import measure_phantom
from .pictures import measure_pictures
from .plane import WRONG_PRIOR, measure_plane
from .quality import NETWORK, measure_doses, measure_quality
from .series import measure_series
from .volumes import measure_volumes

#: Of the patients left out, those whose slices touch, so that whole volumes can be looked at.
WHOLE = ("CRLM-CT-1004", "CRLM-CT-1006")
#: Slices of a patient for the plane; and for BM3D, which is slow, with the side of the window that it gets.
PLANE_SLICES, FEW_SLICES, FEW_WINDOW = 4, 2, 256
#: Priors that the same weights are asked with besides their own.
OTHER_PRIORS = ("compact", WRONG_PRIOR)


class Evidence:
    """What all parts share: patients and networks, made when a part first asks for them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    @cached_property
    def network(self) -> Denoiser:
        """The weights that are evaluated."""
        return self._bundle(NETWORK, self.options.prior)

    @cached_property
    def patients(self) -> list[Patient]:
        """Those left out of the training."""
        options = self.options
        return [Patient.read(patient_folder(options.data, name), options.seed) for name in options.patients]

    @cached_property
    def methods(self) -> list[Method]:
        """Input, Gaussian and the network at its strengths, see `methods_of`."""
        options = self.options
        return methods_of(options.weights, STRENGTHS, options.prior, options.network)

    def quality(self) -> dict[str, Any]:
        """Quarter dose against full dose, beside the baselines."""
        others = [self._bundle(f"{NETWORK}, {prior} prior", prior) for prior in OTHER_PRIORS]
        return measure_quality(
            self.patients,
            [self.network, nlm_denoiser(), nlm_denoiser("nlm, retuned", **RETUNED), *others],
            slices=self.options.slices,
        )

    def doses(self) -> dict[str, Any]:
        """Full dose to a tenth, at each strength."""
        return measure_doses(
            self.patients, {name: self._bundle(NETWORK, self.options.prior, name) for name in STRENGTHS}
        )

    def phantom(self) -> dict[str, Any]:
        """Texture and resolution in the water phantom."""
        others = [
            self._bundle(f"{NETWORK}, strength {name}", self.options.prior, name)
            for name in STRENGTHS
            if name != DEFAULT
        ]
        ours = [self.network, *others]
        return measure_phantom(
            [*ours, nlm_denoiser()],
            beside=[one.name for one in ours],
            realisations=self.options.realisations,
            seed=self.options.seed,
        )

    def baselines(self) -> dict[str, Any]:
        """Networks of another form, trained on equal terms."""
        options = self.options
        ours = Contestant(name=NETWORK, weights=options.weights, network_config=options.network)
        others = [baseline(text) for text in options.baseline]
        return measure_baselines(self._bench(PLANE_SLICES), [ours, *others], STRENGTHS, options.prior)

    def detectability(self) -> dict[str, Any]:
        """The model observer on the LCD phantom."""
        return measure_lcd(self.options.data / "lcd_ct" / "fbp", [self.network, nlm_denoiser()])

    def detection(self) -> dict[str, Any]:
        """The same observer with many realisations, in a uniform phantom and in patients, at five doses."""
        options = self.options
        return {
            "uniform": measure_uniform(self.methods, realisations=options.detection_realisations, seed=options.seed),
            "patients": measure_patients(options.data, self.methods, names=options.patients, seed=options.seed),
        }

    def plane(self) -> dict[str, Any]:
        """Noise left against contrast kept, and the error against the truth, on all patients left out."""
        options = self.options
        bench, few = self._bench(PLANE_SLICES), self._bench(FEW_SLICES, FEW_WINDOW)
        return measure_plane(
            bench,
            few if options.bm3d else None,
            weights=options.weights,
            network_config=options.network,
            prior=options.prior,
            strengths=STRENGTHS,
            old=(options.old, options.old_prior) if options.old else None,
        )

    def alpha(self) -> dict[str, Any]:
        """The error against the truth by the nominal and by the measured ratio of noises."""
        options, high = self.options, {"high": anchored(*STRENGTHS["high"])}
        network = network_method(NETWORK, options.weights, high, network_config=options.network, prior=options.prior)
        filters = [gaussians(), *non_local(), *total_variation()]
        return measure_alpha(self._bench(PLANE_SLICES).patients, [network, *filters])

    @property
    def work(self) -> Path:
        """Where what takes long is kept for the next time."""
        return self.options.work or self.options.output / "work"

    def matrix(self) -> dict[str, Any]:
        """The default strength at several doses, by what sets the series apart."""
        options = self.options
        return measure_matrix(
            options.data,
            self.work / "bench",
            weights=options.weights,
            network_config=options.network,
            prior=options.prior,
            strength=(DEFAULT, STRENGTHS[DEFAULT]),
            names=options.patients,
            slices=PLANE_SLICES,
            seed=options.seed,
        )

    def downstream(self) -> dict[str, Any]:
        """Features and masks at quarter dose against the full dose."""
        return measure_downstream(self._bench(PLANE_SLICES), self.methods[-1])

    def operating_point(self) -> dict[str, Any]:
        """An anchor for the lungs and one for the rest, against one for all."""
        options = self.options
        return measure_operating_point(
            options.data, options.weights, network_config=options.network, names=options.patients, seed=options.seed
        )

    def pictures(self) -> dict[str, Any]:
        """Slices at full resolution, chosen by rule."""
        return measure_pictures(self._bench(PLANE_SLICES), self.methods[-1], self.options.output)

    def volumes(self) -> dict[str, Any]:
        """Steps between slices; reformats."""
        whole = [patient for patient in self.patients if patient.name in self.options.held_out]
        return measure_volumes(whole, self.network, self.options.output)

    def series(self) -> dict[str, Any]:
        """The routine-dose series themselves."""
        options = self.options
        return measure_series(options.data / "ct", options.weights, self.work, options.output, options.network)

    def _bench(self, slices: int, window: int = 0) -> Bench:
        """The patients left out, with so many slices each."""
        options = self.options
        return Bench(options.data, self.work / "bench", options.patients, slices, options.seed, window)

    def _bundle(self, name: str, prior: str, strength: str = DEFAULT) -> Denoiser:
        options = self.options
        config, device = options.network, options.device
        return bundle_denoiser(
            name, options.weights, network_config=config, prior=prior, strength=strength, device=device
        )


PARTS: dict[str, Callable[[Evidence], dict[str, Any]]] = {
    "plane": Evidence.plane,
    "alpha": Evidence.alpha,
    "matrix": Evidence.matrix,
    "operating_point": Evidence.operating_point,
    "downstream": Evidence.downstream,
    "pictures": Evidence.pictures,
    "quality": Evidence.quality,
    "doses": Evidence.doses,
    "phantom": Evidence.phantom,
    "detection": Evidence.detection,
    "detectability": Evidence.detectability,
    "volumes": Evidence.volumes,
    "series": Evidence.series,
    "baselines": Evidence.baselines,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write a JSON file per part."""
    options = parser().parse_args(arguments)
    quiet_libraries()
    options.output.mkdir(parents=True, exist_ok=True)
    evidence = Evidence(options)
    for part in chosen_parts(options):
        began = time.perf_counter()
        result = PARTS[part](evidence)
        command = f"make {'baselines' if part == 'baselines' else 'evidence'} BIOATT_DATA=DIR"
        write_json(options.output / f"{part}.json", {"command": command, **record(evidence), **result})
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
    if options.pages:
        print(*write_pages(options.output), sep="\n")
    return 0


def chosen_parts(options: argparse.Namespace) -> Sequence[str]:
    """Those asked for; all by default, but baselines only where there are some."""
    return (
        [part for part in PARTS if part != "baselines" or options.baseline] if options.parts is None else options.parts
    )


def record(evidence: Evidence) -> dict[str, Any]:
    """What made a result: seed, weights, prior and versions."""
    options = evidence.options
    packages = ("torch", "monai", "numpy", "scipy", "scikit-image")
    return {
        "seed": options.seed,
        "network": evidence.network.record,
        "versions": {
            "bundle": json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["version"],
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
    }


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(prog="python -m studies.evidence", description=__doc__)
    made.add_argument("data", type=Path, help="folder with ct/PATIENT/*.dcm, ct_patients/ and lcd_ct/")
    made.add_argument("output", type=Path, help="folder for the JSON files and pictures")
    made.add_argument("--parts", nargs="*", choices=PARTS, help="some of them; all by default")
    made.add_argument(
        "--pages", action="store_true", help="write the pages beside OUT, from the results that are there"
    )
    made.add_argument("--work", type=Path, help="folder where whole denoised series are kept for the next time")
    made.add_argument("--weights", type=Path, default=BUNDLE_ROOT / "models" / "model.pt")
    made.add_argument("--network", default="", help="config whose network_def fits the weights")
    made.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME=WEIGHTS.pt:NETWORK.json",
        help="another network, with curve.csv beside its weights",
    )
    made.add_argument("--patients", nargs="+", default=HELD_OUT, help="patients that the weights were not trained on")
    made.add_argument("--held-out", nargs="+", default=WHOLE, help="of them, those whose slices touch, for volumes")
    made.add_argument("--old", type=Path, help="weights of 0.3.2, to be evaluated beside")
    made.add_argument("--old-prior", default="compact", help="the prior that they had")
    made.add_argument("--bm3d", action="store_true", help="evaluate BM3D too")
    made.add_argument("--prior", default="uniform")
    made.add_argument("--slices", type=int, default=10, help="about so many of a patient")
    made.add_argument("--realisations", type=int, default=50, help="of the phantom's noise")
    made.add_argument(
        "--detection-realisations", type=int, default=200, help="of the phantom's noise, at each dose, for the observer"
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="", help="e.g. cuda; the workflow's own choice by default")
    return made
