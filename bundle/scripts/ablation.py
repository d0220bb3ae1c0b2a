"""The comparison of networks, priors, seeds and patients left out: run by run, resumable, one table and one plot."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .commands import CONFIGS, run_workflow
from .data import find_studies
from .data.pairs import CachedPair
from .errors import BioAttError
from .evaluation import paired_interval
from .evaluation.results import write_json
from .staging import staged_file

logger = logging.getLogger(__name__)

#: Networks by the names of the paper's tables: the attention in the slot.
NETWORKS = {"redcnn": "none", "channel": "channel", "spatial": "spatial", "bioatt": "prior"}
#: Which priors a trained prior-attention network is tested with.
TEST_PRIORS = ("right", "uniform", "other patient")
#: Measures of the table.
MEASURES = ("psnr_db", "ssim", "rmse_hu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One training: a network with a prior, from a seed, with one patient left out to test on."""

    network: str
    prior: str
    seed: int
    left_out: str

    @property
    def name(self) -> str:
        """Network and, where it has one, prior, e.g. ``bioatt / uniform``."""
        return f"{self.network} / {self.prior}" if NETWORKS[self.network] == "prior" else self.network


def plan(networks: Sequence[str], priors: Sequence[str], seeds: int, left_out: Sequence[str]) -> list[Arm]:
    """All trainings of the matrix; a network without prior attention is trained once, whatever the priors.

    Raises:
        BioAttError: a network is unknown, or nothing is asked for.
    """
    unknown = [name for name in networks if name not in NETWORKS]
    if unknown:
        raise BioAttError(f"networks: {', '.join(unknown)} is unknown; name some of {', '.join(NETWORKS)}")
    if not networks or not priors or seeds < 1 or not left_out:
        raise BioAttError("an ablation needs networks, priors, at least one seed and a patient to leave out")
    return [
        Arm(network=network, prior=prior, seed=seed, left_out=patient)
        for seed in range(seeds)
        for patient in left_out
        for network in networks
        for prior in (priors if NETWORKS[network] == "prior" else ["uniform"])
    ]


def run_ablation(
    dataset_dir: str,
    output_dir: Path,
    *,
    networks: Sequence[str],
    priors: Sequence[str],
    seeds: int,
    left_out: Sequence[str] = (),
    network_config: str = "",
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Train and evaluate what is missing of the matrix, and write the table and the plot of what is there.

    ::

        OUT/matrix.json       what is the same in all runs: data, settings, versions
        OUT/runs/*.json       one finished run each: digest of its config, figures per patient and test prior
        OUT/work/RUN/         its training: checkpoint, curve, weights
        OUT/cache/            pairs and priors, shared by all
        OUT/README.md, OUT/differences.png, OUT/summary.json

    Each patient left out is tested on and, so that nothing of the test chooses anything, never validates: the next
    of the other patients does. The final weights count, not the best.

    Args:
        dataset_dir, output_dir: DATA and OUT.
        networks, priors, seeds: the matrix; priors only for prior attention.
        left_out: patients to leave out in turn; all if empty.
        network_config: name of a configs/network_NAME.json as the common backbone; train.json's own if empty.
        settings: config overrides for all runs.

    Raises:
        BioAttError: the folder holds runs of another matrix, or a run fails.
    """
    studies = find_studies(dataset_dir)
    everyone = sorted(studies.patients)
    chosen = studies.pseudonyms(left_out) if left_out else everyone
    if len(everyone) < 3:
        raise BioAttError(
            f"{dataset_dir} has {len(everyone)} patients; an ablation needs one each to train, validate and test on"
        )
    arms = plan(networks, priors, seeds, chosen)
    matrix = _matrix(everyone, network_config, settings or {})
    _check_matrix(output_dir / "matrix.json", matrix)
    for number, arm in enumerate(arms, 1):
        record = output_dir / "runs" / f"{_digest(dataclasses.asdict(arm), matrix)[:16]}.json"
        if record.exists():
            continue
        print(f"run {number} of {len(arms)}: {arm.name}, seed {arm.seed}, without {arm.left_out}", flush=True)
        _run(arm, everyone, dataset_dir, output_dir, record, network_config, settings or {}, matrix)
    write_summary(output_dir, arms)


def swap_priors(pairs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`pairs` with the priors of another patient's slices: of another region where there is one.

    Which slice gives its prior is drawn by the UID of the slice that gets it, so every network gets the same.

    Args:
        pairs: items of `training_pairs` to test on.
        others: items whose priors are taken; those of the same patient are passed over.

    Raises:
        BioAttError: there is no other patient.
    """
    return [dict(item) | {"pair": _with_prior_of_another(item["pair"], others)} for item in pairs]


def _with_prior_of_another(pair: CachedPair, others: Sequence[Mapping[str, Any]]) -> CachedPair:
    candidates = [item["pair"] for item in others if item["patient"] != pair.patient]
    if not candidates:
        raise BioAttError("there is no other patient whose priors could be taken; add a patient")
    elsewhere = [one for one in candidates if one.region != pair.region] or candidates
    chosen = elsewhere[int(hashlib.sha256(pair.uid.encode()).hexdigest(), 16) % len(elsewhere)]
    return dataclasses.replace(pair, priors=np.resize(chosen.priors, pair.priors.shape))


def _run(
    arm: Arm,
    everyone: Sequence[str],
    dataset_dir: str,
    output_dir: Path,
    record: Path,
    network_config: str,
    settings: Mapping[str, Any],
    matrix: Mapping[str, Any],
) -> None:
    """Train one arm, going on where it stopped, evaluate it, and write its record."""
    work = output_dir / "work" / record.stem
    others = [patient for patient in everyone if patient != arm.left_out]
    validating = others[everyone.index(arm.left_out) % len(others)]
    configs = ["train.json", *([f"network_{network_config}.json"] if network_config else [])]
    overrides = {
        "dataset_dir": dataset_dir,
        "output_dir": str(work),
        "cache_dir": str(output_dir / "cache"),
        "seed": arm.seed,
        "prior": arm.prior,
        "network_def#attention": NETWORKS[arm.network],
        "train_patients": [patient for patient in others if patient != validating],
        "validate_patients": [validating],
        "test_patients": [arm.left_out],
        "resume": True,
        **settings,
    }
    if not (work / "model.pt").exists():
        run_workflow("training", configs, overrides)
    figures = {}
    for test_prior in TEST_PRIORS if NETWORKS[arm.network] == "prior" else TEST_PRIORS[:1]:
        changes: dict[str, Any] = {"weights": str(work / "model.pt")}
        if test_prior == "uniform":
            changes["prior"] = "uniform"
        elif test_prior == "other patient":
            changes["validate#dataset#data"] = "$scripts.ablation.swap_priors(@validate#data, @train#data)"
        changes["summary_path"] = str(work / f"test_{test_prior.replace(' ', '_')}.json")
        changes["slices_path"] = ""
        run_workflow("evaluation", [configs[0], "evaluate.json", "ablation.json", *configs[1:]], overrides | changes)
        figures[test_prior] = json.loads(Path(changes["summary_path"]).read_text())["patients"]
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, dataclasses.asdict(arm) | {"matrix": _digest({}, matrix), "figures": figures})


def _matrix(everyone: Sequence[str], network_config: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What all runs of a matrix share: patients, settings, the configs themselves and the versions."""
    import monai
    import torch

    names = ["train.json", "evaluate.json", *([f"network_{network_config}.json"] if network_config else [])]
    return {
        "patients": list(everyone),
        "settings": dict(settings),
        "configs": {name: hashlib.sha256((CONFIGS / name).read_bytes()).hexdigest() for name in names},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "monai": monai.__version__},
    }


def _check_matrix(path: Path, matrix: Mapping[str, Any]) -> None:
    """Keep the matrix with its runs; refuse to mix runs of two."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(matrix))
        return
    try:
        known = json.loads(path.read_text())
    except ValueError as error:
        raise BioAttError(f"{path} cannot be read ({error}); restore it, or name another output folder") from error
    for key in matrix:
        if key != "versions" and known.get(key) != matrix[key]:
            raise BioAttError(
                f"{path.parent} holds runs with other {key}: {known.get(key)} there, {matrix[key]} now; name another "
                "output folder, or go on with the same"
            )
    if known.get("versions") != matrix["versions"]:
        logger.warning("%s was begun with %s, now it is %s", path.parent, known.get("versions"), matrix["versions"])


def _digest(*parts: Mapping[str, Any]) -> str:
    shared = [{key: value for key, value in part.items() if key != "versions"} for part in parts]
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def write_summary(output_dir: Path, arms: Sequence[Arm]) -> None:
    """Write README.md, summary.json and differences.png from the records of finished runs of `arms`."""
    records = list(_records(output_dir, arms))
    rows = _rows(records)
    baseline = rows.get(("redcnn", "right"))
    summary = {"planned_runs": len(arms), "finished_runs": len(records), "rows": []}
    for (name, test_prior), values in rows.items():
        row: dict[str, Any] = {"arm": name, "test_prior": test_prior}
        for measure in MEASURES:
            means = {patient: float(np.mean(seeds)) for patient, seeds in values[measure].items()}
            row[measure] = {"mean": float(np.mean(list(means.values()))), "patients": means}
            if baseline is not None and values is not baseline:
                reference = {p: float(np.mean(s)) for p, s in baseline[measure].items() if p in means}
                shared = {p: v for p, v in means.items() if p in reference}
                row[measure]["difference"] = paired_interval(shared, reference)
        row["seeds"] = max(len(seeds) for seeds in values["psnr_db"].values())
        summary["rows"].append(row)
    matrix = json.loads((output_dir / "matrix.json").read_text())
    write_json(output_dir / "summary.json", summary)
    with staged_file(output_dir / "README.md") as partial:
        partial.write_text(_page(summary, matrix))
    if any("difference" in row["psnr_db"] for row in summary["rows"]):
        _plot(summary, output_dir / "differences.png")
    print(_table(summary))


def _records(output_dir: Path, arms: Sequence[Arm]) -> Iterator[dict[str, Any]]:
    """Finished runs that belong to `arms`."""
    wanted = {json.dumps(dataclasses.asdict(arm), sort_keys=True) for arm in arms}
    for path in sorted((output_dir / "runs").glob("*.json")):
        try:
            record = json.loads(path.read_text())
            arm = {field.name: record[field.name] for field in dataclasses.fields(Arm)}
        except (ValueError, KeyError) as error:
            raise BioAttError(f"run {path} cannot be read ({error}); delete it, and it is done again") from error
        if json.dumps(arm, sort_keys=True) in wanted:
            yield record


def _rows(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, dict[str, list[float]]]]:
    """Values by (arm, test prior), measure, patient: one per seed. The low dose is a row of its own."""
    rows: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for record in records:
        arm = Arm(**{field.name: record[field.name] for field in dataclasses.fields(Arm)})
        for test_prior, patients in record["figures"].items():
            for patient, figures in patients.items():
                for name, image in (((arm.name, test_prior), "denoised"), (("low dose", ""), "low")):
                    row = rows.setdefault(name, {measure: {} for measure in MEASURES})
                    for measure in MEASURES:
                        row[measure].setdefault(patient, []).append(figures[image][measure])
    return dict(sorted(rows.items(), key=lambda item: (item[0][0] != "low dose", item[0])))


def _table(summary: Mapping[str, Any]) -> str:
    lines = [
        "| network / prior trained with | prior at test | n patients | seeds | PSNR (dB) | SSIM | RMSE (HU) "
        "| PSNR - RED-CNN (dB) | 95% interval |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in summary["rows"]:
        difference = row["psnr_db"].get("difference")
        interval = difference and difference["interval_95"]
        cells = [
            row["arm"],
            row["test_prior"] or "-",
            str(len(row["psnr_db"]["patients"])),
            str(row["seeds"]) if row["test_prior"] else "-",
            *(f"{row[measure]['mean']:{form}}" for measure, form in zip(MEASURES, (".2f", ".4f", ".2f"), strict=True)),
            f"{difference['mean']:+.2f}" if difference else "-",
            f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _page(summary: Mapping[str, Any], matrix: Mapping[str, Any]) -> str:
    return f"""# Networks and priors on the same data

{summary["finished_runs"]} of {summary["planned_runs"]} planned runs are in. All have the same data, budget and seeds;
the patient left out is only tested on. Differences are paired by patient against plain RED-CNN's attention slot left
empty; the unit of the interval is the patient, and below three patients there is none. "other patient" gives the
trained network the priors of another patient's slices, of another region where there is one.

{_table(summary)}

Made by `bioatt ablate` with settings `{json.dumps(matrix["settings"])}`, versions {json.dumps(matrix["versions"])},
configs {json.dumps({name: digest[:12] for name, digest in matrix["configs"].items()})}.
"""


def _plot(summary: Mapping[str, Any], path: Path) -> None:
    """Difference in PSNR to RED-CNN: a dot per patient, the mean, and its interval where there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in summary["rows"] if "difference" in row["psnr_db"] and row["arm"] != "low dose"]
    reference = next(row for row in summary["rows"] if row["arm"] == "redcnn")["psnr_db"]["patients"]
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for height, row in enumerate(reversed(rows)):
        patients = row["psnr_db"]["patients"]
        dots = [value - reference[patient] for patient, value in patients.items() if patient in reference]
        axes.plot(dots, [height] * len(dots), "o", color="#888888", markersize=4)
        difference = row["psnr_db"]["difference"]
        axes.plot([difference["mean"]], [height], "D", color="#0072b2")
        if difference["interval_95"]:
            axes.plot(difference["interval_95"], [height, height], "-", color="#0072b2", linewidth=2)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row['arm']} (test: {row['test_prior']})" for row in reversed(rows)])
    axes.set_xlabel("PSNR minus RED-CNN's (dB): patients (grey), mean (blue), 95% interval from 3 patients on")
    with staged_file(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
