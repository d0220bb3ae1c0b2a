"""The comparison of networks, priors, seeds and patients left out: run by run, resumable, one table and one plot."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BioAttError
from ..priors import DESCRIPTORS
from ..staging import write_json
from ..training import find_studies
from ..training.pairs import CachedPair
from ..training.studies import Collection
from ..volumes.regions import UNKNOWN, region_of_prior
from ..workflow import CONFIGS, run_workflow
from .report import read_records, write_report

logger = logging.getLogger(__name__)

#: Which priors a trained prior-attention network is tested with, and what of its config each of them changes.
TEST_PRIORS: dict[str, dict[str, Any]] = {
    "right": {},
    "uniform": {"prior": "uniform", "prior_form": "vector", "prior_temperature": 1.0},
    "other region": {
        "validate#dataset#data": "$scripts.ablation.swap_priors(@validate#data, @train#data, @prior_descriptors)"
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrix:
    """What is compared.

    Args:
        arms: name -> config overrides; ``{out}`` and ``{left_out}`` in one stand for the folder OUT and the pseudonym
            of the patient left out, so that a prior model may be one that never saw that patient.
        baselines: names of arms that the others are compared with.
        settings: config overrides of all arms, their equal budget.
        configs: names of configs that all arms are trained with, over train.json.
    """

    arms: Mapping[str, Mapping[str, Any]]
    baselines: Sequence[str]
    settings: Mapping[str, Any]
    configs: Sequence[str] = ()

    @property
    def files(self) -> list[str]:
        """The configs of a training, those behind override those before."""
        return ["train.json", *self.configs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training: an arm, from a seed, with one patient left out to test on."""

    arm: str
    settings: Mapping[str, Any]
    seed: int
    left_out: str

    @property
    def has_prior(self) -> bool:
        """Whether the network looks at its prior."""
        return self.settings.get("network_def#attention", "prior") == "prior"


def read_matrix(study: str, settings: Mapping[str, Any]) -> Matrix:
    """The matrix of a study, configs/study_NAME.json of the bundle or a file of one's own; `settings` override its own.

    Raises:
        BioAttError: there is no such file, or it is no study.
    """
    path = Path(study) if study.endswith(".json") else CONFIGS / f"study_{study}.json"
    if not path.is_file():
        known = ", ".join(sorted(one.stem.removeprefix("study_") for one in CONFIGS.glob("study_*.json")))
        raise BioAttError(f"no study {study}; the bundle has {known}, or name a JSON file of your own")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        matrix = Matrix(**known | {"settings": known["settings"] | settings})
        if not all(isinstance(one, dict) for one in (matrix.arms, *dict(matrix.arms).values())):
            raise ValueError("each of arms needs its settings by name")
        if missing := [name for name in matrix.configs if not (CONFIGS / name).is_file()]:
            raise ValueError(f"the bundle has no config {', '.join(missing)}")
        return matrix
    except (ValueError, TypeError, KeyError) as error:
        raise BioAttError(
            f"{path} is not a study ({error}); it has arms, baselines, settings and perhaps configs"
        ) from error


def plan(matrix: Matrix, seeds: int, left_out: Sequence[str]) -> list[Run]:
    """All trainings of a matrix: all arms of one seed and patient before the next, so a part of it can be compared.

    Raises:
        BioAttError: there are none.
    """
    if seeds < 1 or not left_out or not matrix.arms:
        raise BioAttError("an ablation needs arms, at least one seed and a patient to leave out")
    return [
        Run(arm=arm, settings=settings, seed=seed, left_out=patient)
        for seed in range(seeds)
        for patient in left_out
        for arm, settings in matrix.arms.items()
    ]


def run_ablation(
    dataset_dir: str, output_dir: Path, matrix: Matrix, *, seeds: int, left_out: Sequence[str] = ()
) -> None:
    """Run the remaining parts of the matrix, and write the table and the plot of what is there.

    ::

        OUT/runs/*.json       one finished run each: arm, prior, settings, versions, figures per patient, test prior
        OUT/work/RUN/         its training: checkpoint, curve, weights
        OUT/cache/            pairs and priors, shared by all
        OUT/README.md         the page with its plot (README.png) beside it, and OUT/summary.json

    Each patient left out is tested on and, so that nothing of the test chooses anything, never validates: the next
    of the other patients does. The final weights count, not the best. Where all runs are in, only the page is made.

    Args:
        left_out: patients to leave out in turn; all if empty.

    Raises:
        BioAttError: the records are of another matrix, or a run fails.
    """
    studies = find_studies(dataset_dir)
    everyone = sorted(studies.patients)
    chosen = studies.pseudonyms(left_out) if left_out else everyone
    if len(everyone) < 3:
        raise BioAttError(
            f"{dataset_dir} has {len(everyone)} patients; an ablation needs one each to train, validate and test on"
        )
    runs = plan(matrix, seeds, chosen)
    shared = _shared(everyone, matrix)
    records_dir = output_dir / "runs"
    files = {_file(records_dir, run, shared): run for run in runs}
    missing = [file for file in files if not file.exists()]
    _check_shared(records_dir, shared, ("patients", "settings", *(("configs",) if missing else ())))
    for number, (file, run) in enumerate(files.items(), 1):
        if file in missing:
            print(f"run {number} of {len(runs)}: {run.arm}, seed {run.seed}, without {run.left_out}", flush=True)
            _run(run, studies, output_dir, file, matrix, shared)
    write_report(list(files), matrix.baselines, output_dir)


def swap_priors(
    pairs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], descriptors: Sequence[str] = DESCRIPTORS
) -> list[dict[str, Any]]:
    """`pairs` with the priors of another patient's slices: of another region where there is one.

    Which slice gives its prior is drawn by the UID of the slice that gets it, so every network gets the same. The
    region is the one that the prior votes for, else that of the study.

    Args:
        others: items whose priors are taken; those of the same patient are passed over.

    Raises:
        BioAttError: there is no other patient.
    """
    return [dict(item) | {"pair": _with_prior_of_another(item["pair"], others, descriptors)} for item in pairs]


def _with_prior_of_another(
    pair: CachedPair, others: Sequence[Mapping[str, Any]], descriptors: Sequence[str]
) -> CachedPair:
    candidates = [item["pair"] for item in others if item["patient"] != pair.patient]
    if not candidates:
        raise BioAttError("there is no other patient whose priors could be taken; add a patient")
    here = _region(pair, descriptors)
    elsewhere = [one for one in candidates if _region(one, descriptors) not in (here, UNKNOWN)] or candidates
    chosen = elsewhere[int(hashlib.sha256(pair.uid.encode()).hexdigest(), 16) % len(elsewhere)]
    return dataclasses.replace(pair, priors=chosen.priors[np.arange(len(pair.priors)) % len(chosen.priors)])


def _region(pair: CachedPair, descriptors: Sequence[str]) -> str:
    """What the prior votes for (a study of the chest may reach into the abdomen), else the study's region."""
    voted = region_of_prior(pair.priors.mean(axis=(0, *range(2, pair.priors.ndim))), descriptors)
    return pair.region if voted == UNKNOWN else voted


def _run(
    run: Run, studies: Collection, output_dir: Path, file: Path, matrix: Matrix, shared: Mapping[str, Any]
) -> None:
    """Train one run, going on where it stopped, evaluate it, and write its record."""
    work, everyone = output_dir / "work" / file.stem, shared["patients"]
    others = [patient for patient in everyone if patient != run.left_out]
    validating = others[everyone.index(run.left_out) % len(others)]
    configs = matrix.files
    overrides = {
        "studies": studies,  # found once for all runs
        "publish": "",  # nothing of a comparison may become the bundle's own weights
        "output_dir": str(work),
        "cache_dir": str(output_dir / "cache"),
        "seed": run.seed,
        "train_patients": [patient for patient in others if patient != validating],
        "validation_patients": [validating],
        "test_patients": [run.left_out],
        "resume": True,
        **matrix.settings,
        **{key: _filled(value, output_dir, run.left_out) for key, value in run.settings.items()},
    }
    if not (work / "model.pt").exists():
        run_workflow("training", configs, overrides)
    figures, prior = {}, {}
    for test_prior, changes in TEST_PRIORS.items() if run.has_prior else [("right", {})]:
        summary = work / f"test_{test_prior.replace(' ', '_')}.json"
        more = {"weights": str(work / "model.pt"), "summary_path": str(summary), "slices_path": "", **changes}
        done = run_workflow(
            "evaluation", [configs[0], "evaluate.json", "ablation.json", *configs[1:]], overrides | more
        )
        figures[test_prior] = json.loads(summary.read_text())["patients"]
        if test_prior == "right":
            source = done.parser.get_parsed_content("prior_source")
            prior = {"name": source.name, "model": source.model, "digest": source.digest}
    write_json(file, dataclasses.asdict(run) | {"prior": prior, **shared, "figures": figures})


def _filled(value: Any, output_dir: Path, left_out: str) -> Any:
    return value.replace("{out}", str(output_dir)).replace("{left_out}", left_out) if isinstance(value, str) else value


def _shared(everyone: Sequence[str], matrix: Matrix) -> dict[str, Any]:
    """What all runs of a matrix share and each record holds: patients, settings, configs and versions."""
    import monai
    import torch

    names = ["evaluate.json", *matrix.files]
    return {
        "patients": list(everyone),
        "shared_settings": dict(matrix.settings),
        "configs": {name: hashlib.sha256((CONFIGS / name).read_bytes()).hexdigest() for name in names},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "monai": monai.__version__},
    }


def _file(records_dir: Path, run: Run, shared: Mapping[str, Any]) -> Path:
    """Where the record of a run is."""
    decides = [dataclasses.asdict(run), shared["patients"], shared["shared_settings"]]
    return records_dir / record_name(run.arm, run.left_out, run.seed, decides)


def record_name(arm: str, left_out: str, seed: int, decides: Sequence[Any]) -> str:
    """Name of the record of a run, with a digest of all that `decides` its figures, as JSON has it."""
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    words = re.sub(r"[^a-z0-9]+", "_", arm.lower()).strip("_")
    return f"{words}_{left_out}_seed{seed}_{digest[:8]}.json"


def _check_shared(records_dir: Path, shared: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse to mix runs of two matrices in one folder."""
    for record in read_records(sorted(records_dir.glob("*.json"))):
        for key in keys:
            name = "shared_settings" if key == "settings" else key
            if record[name] != shared[name]:
                raise BioAttError(
                    f"{records_dir} holds runs with other {key}: {record[name]} there, {shared[name]} now; name "
                    "another output folder, or go on with the same"
                )
        if record["versions"] != shared["versions"]:
            logger.warning("%s has runs with %s, now it is %s", records_dir, record["versions"], shared["versions"])
            return
