"""The page of an ablation: tables, plot and summary of the runs that are finished, with paired differences."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BioAttError
from ..evaluation.intervals import patient_interval
from ..pages import render, table
from ..staging import staged_file, write_json

#: Measures of the tables, with their number of decimals.
MEASURES = {"psnr_db": 2, "ssim": 4, "rmse_hu": 2}
LOW = "low dose"
#: What every record holds.
RECORDED = set("arm settings seed left_out prior patients shared_settings configs versions figures".split())
#: Values of an arm under a test prior: measure -> (patient, seed) -> value.
Values = dict[str, dict[tuple[str, int], float]]


def read_records(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Records of finished runs.

    Raises:
        BioAttError: one is damaged.
    """
    records = []
    for file in files:
        try:
            record = json.loads(file.read_text())
            missing = RECORDED - record.keys()
            if missing:
                raise ValueError(f"no {', '.join(sorted(missing))}")
        except (ValueError, AttributeError) as error:
            raise BioAttError(f"run {file} cannot be read ({error}); delete it, and it is done again") from error
        records.append(record)
    return records


def write_report(planned: Sequence[Path], baselines: Sequence[str], folder: Path) -> None:
    """Write README.md with its plot and summary.json of those of the planned runs whose records are there."""
    records = read_records([file for file in planned if file.exists()])
    summary = {"planned_runs": len(planned), "finished_runs": len(records), **summarise(records, baselines)}
    write_json(folder / "summary.json", summary)
    plot = folder / "README.png"
    has_plot = any(row["differences"] or row["to_right"] for row in summary["rows"])
    if has_plot:
        _plot(summary, plot)
    with staged_file(folder / "README.md") as partial:
        partial.write_text(_page(summary, records, plot.name if has_plot else ""))
    print(_quality_table(summary))


def summarise(records: Sequence[Mapping[str, Any]], baselines: Sequence[str]) -> dict[str, Any]:
    """Rows of the tables: an arm under a test prior, with differences paired by patient and seed.

    A difference is taken of the same patient and seed on both sides, averaged over the seeds, and its interval is
    over patients: a patient with two seeds is still one patient.

    Returns:
        ``baselines`` that have runs, and ``rows``: ``arm``, ``test_prior``, ``seeds``, per measure ``mean`` and
        ``patients``; ``differences`` to each baseline tested with its right prior, and ``to_right``, to the same arm
        with its right prior, each per measure as `patient_interval` with ``patients``.
    """
    values = _values(records)
    known = [name for name in baselines if (name, "right") in values]
    rows = []
    for (arm, test_prior), own in values.items():
        references = {name: values[(name, "right")] for name in known if name != arm and test_prior == "right"}
        row: dict[str, Any] = {"arm": arm, "test_prior": test_prior}
        row["seeds"] = len({seed for _, seed in own["psnr_db"]})
        for measure in MEASURES:
            patients = _by_patient(own[measure])
            row[measure] = {"mean": sum(patients.values()) / len(patients), "patients": patients}
        row["differences"] = {name: _difference(own, other) for name, other in references.items()} if arm != LOW else {}
        right = values.get((arm, "right"))
        row["to_right"] = _difference(own, right) if right and test_prior != "right" else {}
        rows.append(row)
    return {"baselines": known, "rows": rows}


def verdict(interval: Sequence[float] | None) -> str:
    """``better``, ``worse`` or ``undecided``: whether the 95% interval of a gain leaves out 0."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "undecided"
    return "better" if interval[0] > 0 else "worse"


def _values(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Values]:
    """Values by (arm, test prior), the low dose first as an arm of its own, the others in the order of the plan."""
    found: dict[tuple[str, str], Values] = {(LOW, "right"): defaultdict(dict)} if records else {}
    for record in records:
        for test_prior, patients in record["figures"].items():
            own = found.setdefault((record["arm"], test_prior), defaultdict(dict))
            for patient, figures in patients.items():
                for measure in MEASURES:
                    own[measure][(patient, record["seed"])] = figures["denoised"][measure]
                    found[(LOW, "right")][measure][(patient, record["seed"])] = figures["low"][measure]
    return found


def _by_patient(values: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """Means over seeds."""
    patients: dict[str, list[float]] = defaultdict(list)
    for (patient, _), value in sorted(values.items()):
        patients[patient].append(value)
    return {patient: sum(several) / len(several) for patient, several in patients.items()}


def _difference(own: Values, other: Values) -> dict[str, Any]:
    """Of each measure, own - other by patient; empty where they share no run."""
    differences = {}
    for measure in MEASURES:
        shared = {key: value - other[measure][key] for key, value in own[measure].items() if key in other[measure]}
        if shared:
            patients = _by_patient(shared)
            differences[measure] = patient_interval(patients) | {"patients": patients}
    return differences


def _quality_table(summary: Mapping[str, Any]) -> str:
    heads = [f"{what} minus {name}" for name in summary["baselines"] for what in ("PSNR (dB)", "SSIM")]
    rows = []
    for row in summary["rows"]:
        if row["test_prior"] != "right":
            continue
        cells = [row["arm"], str(len(row["psnr_db"]["patients"])), str(row["seeds"])]
        cells += [f"{row[measure]['mean']:.{places}f}" for measure, places in MEASURES.items()]
        for name in summary["baselines"]:
            cells += [_cell(row["differences"].get(name, {}), measure) for measure in ("psnr_db", "ssim")]
        rows.append(cells)
    return table(("arm", "patients", "seeds", "PSNR (dB)", "SSIM", "RMSE (HU)", *heads), rows)


def _cell(difference: Mapping[str, Any], measure: str) -> str:
    """Mean, interval and verdict of one difference."""
    if measure not in difference:
        return "-"
    places, one = MEASURES[measure] + 1, difference[measure]
    if one["interval_95"] is None:
        return f"{one['mean']:+.{places}f}"
    lower, upper = one["interval_95"]
    told = f"{one['mean']:+.{places}f} ({lower:+.{places}f} to {upper:+.{places}f})"
    return f"{told} {verdict(one['interval_95'])}"


def _page(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], plot: str) -> str:
    return render(
        Path(__file__).with_name("page.md.jinja"),
        summary=summary,
        plot=plot,
        quality=_quality_table(summary),
        patients=sorted({name for row in summary["rows"] for name in row["psnr_db"]["patients"]}),
        cell=_cell,
        settings=json.dumps(records[0]["shared_settings"]) if records else "{}",
        versions=sorted({json.dumps(record["versions"], sort_keys=True) for record in records}),
        configs=sorted({f"{name} {digest[:12]}" for record in records for name, digest in record["configs"].items()}),
        arms={record["arm"]: json.dumps(record["settings"]) for record in records},
    )


def _plot(summary: Mapping[str, Any], path: Path) -> None:
    """PSNR against each baseline, and against the right prior: a dot per patient, the mean, its interval."""
    from matplotlib.figure import Figure

    panels = {
        f"PSNR minus {name} (dB)": [
            (row["arm"], row["differences"][name]["psnr_db"]) for row in summary["rows"] if row["differences"].get(name)
        ]
        for name in summary["baselines"]
    }
    panels["PSNR minus right prior's (dB)"] = [
        (f"{row['arm']}, test: {row['test_prior']}", row["to_right"]["psnr_db"])
        for row in summary["rows"]
        if row["to_right"]
    ]
    panels = {title: rows for title, rows in panels.items() if rows}
    heights = [1 + len(rows) for rows in panels.values()]
    figure = Figure(figsize=(9, 0.9 + 0.36 * sum(heights)), layout="constrained")
    drawn = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (title, rows) in zip(drawn, panels.items(), strict=True):
        for height, (_, one) in enumerate(reversed(rows)):
            dots = list(one["patients"].values())
            axes.plot(dots, [height] * len(dots), "o", color="#888888", markersize=4, zorder=3)
            axes.plot([one["mean"]], [height], "D", color="#0072b2")
            if one["interval_95"]:
                axes.plot(one["interval_95"], [height, height], "-", color="#0072b2", linewidth=2)
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"{title}: patients grey, mean and 95% interval blue")
    with staged_file(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
