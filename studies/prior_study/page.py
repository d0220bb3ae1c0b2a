"""The page of the study: what each arm's error against the truth is beside the baselines', patient by patient."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts import ablation
from scripts.errors import BioAttError
from scripts.evaluation.intervals import patient_interval
from scripts.evaluation.results import write_json
from scripts.markdown import table
from scripts.staging import staged_file

from .runs import plan

#: The interval that the study was made to reach, in dB: so small a difference does not matter.
TARGET_DB = 0.05
#: The baselines: attention with a prior that knows nothing, and no attention.
UNIFORM, NONE = "prior: uniform", "no attention"
#: Arms whose prior knows something of the slice.
KNOWING = ("prior: compact", "prior: dense", "prior: oracle")
RIGHT = "right"
#: Values by (patient, seed).
Values = dict[tuple[str, int], float]
#: The plot's colours: patients, and mean with interval.
GREY, BLUE = "#888888", "#0072b2"


def write_page(results: Path, study: Mapping[str, Any], page: Path) -> None:
    """Write the page, its plot beside it (.png), and a summary (.json), of the runs that are in.

    Raises:
        BioAttError: a record cannot be read or is of another study, or no two arms can be compared yet.
    """
    records = read_records(results, study)
    planned = len(plan(study, records[0]["made"]["folds"])) if records else 0
    summary = {"planned_runs": planned, "finished_runs": len(records), **summarise(records, study["baselines"])}
    if not any(row["gain_db"] for row in summary["arms"].values()):
        raise BioAttError(f"{results} holds {len(records)} runs of these settings, too few to compare; do more runs")
    write_json(page.with_suffix(".json"), summary)
    _plot(summary, page.with_suffix(".png"))
    with staged_file(page) as partial:
        partial.write_text(_page(summary, records, study, page.with_suffix(".png").name), encoding="utf-8")


def read_records(results: Path, study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of the runs that are in, in the order of the plan.

    Raises:
        BioAttError: one cannot be read, or is of other settings or another pack.
    """
    order = {name: number for number, name in enumerate(study["arms"])}
    records = []
    for file in sorted(results.glob("*_fold*_seed*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            where = (record["seed"], record["fold"], order[record["arm"]])
            told = record["settings"], record["made"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BioAttError(f"run {file} cannot be read ({error}); delete it, and it is done again") from error
        if told != (study["settings"], records[0][1]["made"] if records else record["made"]):
            raise BioAttError(f"run {file} is of other settings or another pack; keep each study in its own folder")
        records.append((where, record))
    return [record for _, record in sorted(records, key=lambda one: one[0])]


def summarise(records: Sequence[Mapping[str, Any]], baselines: Sequence[str]) -> dict[str, Any]:
    """Figures of each arm.

    A gain is ``10 log10(error of the baseline / error of the arm)`` of the same patient and seed, averaged over seeds;
    its interval is over patients. The same over networks, one a fold and seed, each the mean of its patients, tells
    what hangs on the training's chance.

    Returns:
        ``arms``: by name ``patients``, ``seeds``; ``error_left``, the mean over patients of the error over the low
        dose's; ``contrast_kept``; and by baseline ``gain_db``, ``gain_db_by_network``, ``contrast_gain``, each as
        `patient_interval`, the first with ``by_patient`` and ``by_seed``. ``use``: by arm and prior at test the gain of
        the right prior over it. ``not_positive``: estimates of an error that are 0 or less, which have no dB.
    """
    errors: dict[tuple[str, str], Values] = defaultdict(dict)
    contrast: dict[str, Values] = defaultdict(dict)
    fold_of: dict[str, int] = {}
    for record in records:
        for patient, figures in record["patients"].items():
            fold_of[patient] = record["fold"]
            key = (patient, record["seed"])
            if figures["contrast"]:
                contrast[record["arm"]][key] = sum(figures["contrast"].values()) / len(figures["contrast"])
            for test, value in figures.items():
                if isinstance(value, float):
                    errors[record["arm"], test][key] = value
    arms = list(dict.fromkeys(record["arm"] for record in records))
    summary: dict[str, Any] = {"arms": {}, "use": {}, "baselines": list(baselines)}
    for arm in arms:
        own = errors[arm, RIGHT]
        left = {key: value / errors[arm, "low"][key] for key, value in own.items()}
        others = [name for name in baselines if name != arm and name in arms]
        gains = {name: _gains(own, errors[name, RIGHT]) for name in others}
        summary["arms"][arm] = {
            "patients": len({patient for patient, _ in own}),
            "seeds": len({seed for _, seed in own}),
            "error_left": patient_interval(_over_seeds(left)),
            "contrast_kept": patient_interval(_over_seeds(contrast[arm])),
            "gain_db": {
                name: patient_interval(_over_seeds(one)) | {"by_patient": _over_seeds(one), "by_seed": _by_seed(one)}
                for name, one in gains.items()
                if one
            },
            "gain_db_by_network": {
                name: patient_interval(_means((f"{fold_of[p]} {seed}", v) for (p, seed), v in one.items()))
                for name, one in gains.items()
                if one
            },
            "contrast_gain": {
                name: patient_interval(_over_seeds(_paired(contrast[arm], contrast[name], lambda a, b: a - b)))
                for name in others
            },
        }
        tests = [test for name, test in errors if name == arm and test not in (RIGHT, "low")]
        if tests:
            used = {test: _over_seeds(_gains(own, errors[arm, test])) for test in tests}
            summary["use"][arm] = {test: patient_interval(one) for test, one in used.items()}
    summary["not_positive"] = sum(
        value <= 0 for (_, test), values in errors.items() for value in values.values() if test == RIGHT
    )
    return summary


def verdict(interval: Sequence[float] | None) -> str:
    """What the 95% interval of a gain in dB says: ``no difference`` within `TARGET_DB` of 0, else as in ablations."""
    if interval is not None and -TARGET_DB <= interval[0] and interval[1] <= TARGET_DB:
        return "no difference"
    return ablation.verdict(interval)


def headline(summary: Mapping[str, Any]) -> str:
    """The conclusion in one sentence, from the intervals of the arms whose prior knows something."""
    done, planned = summary["finished_runs"], summary["planned_runs"]
    so_far = f"Not finished, {done} of {planned} runs are in: " if done < planned else ""
    gains = {
        arm.removeprefix("prior: "): summary["arms"][arm]["gain_db"][UNIFORM]
        for arm in KNOWING
        if UNIFORM in summary["arms"].get(arm, {}).get("gain_db", {})
    }
    if not gains:
        return f"{so_far}nothing can be said yet, no prior that knows something has a run beside the uniform prior."
    verdicts = {name: verdict(one["interval_95"]) for name, one in gains.items()}
    told = "; ".join(
        f"{name} {_interval(one, 2)} dB, {one['n']} patients, {_networks(summary, name)}" for name, one in gains.items()
    )
    better = [name for name, one in verdicts.items() if one == "better"]
    if better:
        start = f"a prior that knows the anatomy helps, {' and '.join(better)} beat the uniform prior"
    elif set(verdicts.values()) == {"no difference"}:
        start = f"priors do not help, none differs from the uniform prior by {TARGET_DB} dB"
    else:
        start = "we found no evidence that priors help, none is better than the uniform prior"
    start = start if so_far else start[0].upper() + start[1:]
    return f"{so_far}{start} in error against the truth (gain: {told})."


def robustness_line(summary: Mapping[str, Any]) -> str:
    """How far each gain hangs on single patients, of the arms whose prior knows something; empty where none has any."""
    told = []
    for arm in KNOWING:
        gain = summary["arms"].get(arm, {}).get("gain_db", {}).get(UNIFORM)
        if gain is None or gain["interval_95"] is None:
            continue
        values = {patient: value for patient, value in gain["by_patient"].items() if not math.isnan(value)}
        without = [patient_interval({p: v for p, v in values.items() if p != one})["interval_95"] for one in values]
        least = min((one[0] for one in without if one is not None), default=math.nan)
        told.append(
            f"{arm.removeprefix('prior: ')} gains on {sum(value > 0 for value in values.values())} of {len(values)} "
            f"patients, median {statistics.median(values.values()):+.2f} dB, and without any one patient the interval "
            f"begins at {least:+.2f} or above"
        )
    return f"Patient by patient: {'; '.join(told)}." if told else ""


def _networks(summary: Mapping[str, Any], name: str) -> str:
    count = summary["arms"][f"prior: {name}"]["gain_db_by_network"][UNIFORM]["n"]
    return "1 network" if count == 1 else f"{count} networks"


def attention_line(summary: Mapping[str, Any]) -> str:
    """What attention without anatomy does, beside none, in a sentence; empty where it has no runs."""
    told = []
    for name in ("channel", "spatial", UNIFORM):
        arm = summary["arms"].get(name, {})
        if NONE in arm.get("gain_db", {}):
            points = _interval(arm["contrast_gain"][NONE], 1, 100)
            told.append(f"{name} {_interval(arm['gain_db'][NONE], 2)} dB and {points} points of contrast")
    return f"Attention that knows nothing, beside none: {'; '.join(told)}." if told else ""


def _gains(own: Values, other: Values) -> Values:
    return _paired(own, other, lambda a, b: 10 * math.log10(b / a) if a > 0 and b > 0 else math.nan)


def _paired(own: Values, other: Values, difference: Any) -> Values:
    return {key: difference(value, other[key]) for key, value in own.items() if key in other}


def _over_seeds(values: Values) -> dict[str, float]:
    return _means((patient, value) for (patient, _), value in sorted(values.items()))


def _by_seed(values: Values) -> dict[str, float]:
    return _means((str(seed), value) for (_, seed), value in sorted(values.items()))


def _means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Means by name, of what is a number."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        if not math.isnan(value):
            found[name].append(value)
    return {name: math.fsum(several) / len(several) for name, several in found.items()}


def _interval(one: Mapping[str, Any], places: int, scale: float = 1.0) -> str:
    if one["interval_95"] is None:
        return f"{scale * one['mean']:+.{places}f}"
    lower, upper = one["interval_95"]
    return f"{scale * one['mean']:+.{places}f} ({scale * lower:+.{places}f} to {scale * upper:+.{places}f})"


def _page(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], study: Mapping[str, Any], plot: str) -> str:
    devices = " and ".join(sorted({record["device"] for record in records}))
    slices = {patient: one["slices"] for record in records for patient, one in record["patients"].items()}
    made = records[0]["made"]
    return f"""# Do priors help?

{headline(summary)}

{robustness_line(summary)}

{attention_line(summary)}

{summary["finished_runs"]} of {summary["planned_runs"]} planned runs are in: of {len(study["arms"])} arms,
{study["seeds"]} seeds and {made["folds"]} folds. {len(slices)} patients with {sum(slices.values())} slices are
evaluated, each by networks that never saw them.

Made by `make study`. A gain is positive where the arm has less error than the baseline: 10 log10 of the ratio of mean
squared errors against the truth in the body, of the same patient and seed, averaged over seeds. The error is estimated
without having the truth ([how](../evaluation.md)); low doses are simulated, a quarter of the dose. The 95% interval is
over patients; `by network` is the same over the networks, one a fold and seed, each the mean of its patients: patients
of a fold are evaluated by the same networks. `better` and `worse` leave out 0, `no difference` lies within {TARGET_DB}
dB of 0. No correction is made for the number of comparisons. Arms with different patients cannot be compared but by
their gains.

## Error and contrast

{_gain_tables(summary)}

![gain by patient]({plot})

`error left` is the error over the low dose's, the mean over patients; `contrast kept` is that of discs of 4 to 15 mm
and 20 or 40 HU in even soft tissue, the mean over diameters, of {_with_discs(summary)} patients who have room for them.
A stronger filter has less error and keeps less contrast. {_not_positive(summary)}

## Is the prior looked at?

The gain of the right prior over another one at test time, with the same weights: the uniform one, or that of a slice of
another patient and, where priors tell regions, of another region. Networks were trained with the right prior alone, so
another one is new to them; about 0 means that the prior is not looked at, or does not matter.

{_use_table(summary)}

## Gain over the uniform prior by patient (dB)

{_patient_table(summary)}

## What was run

The network has widths {study["settings"]["widths"]}. Each run trains {study["settings"]["steps"]} steps of
{study["settings"]["batch_size"]} patches on unbiased targets, as the shipped weights are trained, but far shorter, and
with the right prior in every patch. `oracle` is the annotation itself, smoothed along z; `random` is drawn by slice.
{_models(made)}
Phantoms are in no fold and always train. Run on {devices}.

Settings `{json.dumps(study["settings"])}`; data `{json.dumps(made)}`.
"""


def _gain_tables(summary: Mapping[str, Any]) -> str:
    parts = []
    for baseline in summary["baselines"]:
        rows = []
        for arm, one in summary["arms"].items():
            gain = one["gain_db"].get(baseline)
            cells = [arm, str(one["patients"]), str(one["seeds"]), f"{100 * one['error_left']['mean']:.1f}%"]
            cells += [_interval(gain, 3), verdict(gain["interval_95"])] if gain else ["-", "-"]
            cells += [_interval(one["gain_db_by_network"][baseline], 3)] if gain else ["-"]
            cells += [" / ".join(f"{value:+.3f}" for value in gain["by_seed"].values())] if gain else ["-"]
            cells += [f"{100 * one['contrast_kept']['mean']:.1f}%"]
            cells += [_interval(one["contrast_gain"][baseline], 2, 100)] if gain else ["-"]
            rows.append(cells)
        heads = ("arm", "patients", "seeds", "error left", "gain (dB)", "verdict", "by network", "each seed")
        heads += ("contrast kept", "points more")
        parts.append(f"Against {baseline}:\n\n{table(heads, rows)}")
    return "\n\n".join(parts)


def _not_positive(summary: Mapping[str, Any]) -> str:
    count = summary["not_positive"]
    return f"{count} estimates of an error are not above 0 and are left out." if count else ""


def _models(made: Mapping[str, Any]) -> str:
    if "prior_steps" not in made:
        return "`compact` and `dense` wait for the prior model of each fold, and are not in."
    if made["prior_steps"]:
        return "`compact` and `dense` come from [a model of each fold](prior_models.md) that saw none of its patients."
    return (
        "`compact` and `dense` come from the shipped prior model, which was trained on all of these patients\n"
        "but the six that are left out of all training, so it knows them better than it would know a new patient."
    )


def _with_discs(summary: Mapping[str, Any]) -> int:
    return max(one["contrast_kept"]["n"] for one in summary["arms"].values())


def _use_table(summary: Mapping[str, Any]) -> str:
    tests = list(dict.fromkeys(test for one in summary["use"].values() for test in one))
    rows = [
        (arm, *(f"{_interval(one[test], 3)} {verdict(one[test]['interval_95'])}" for test in tests))
        for arm, one in summary["use"].items()
    ]
    return table(("arm", *(f"over {test} (dB)" for test in tests)), rows)


def _patient_table(summary: Mapping[str, Any]) -> str:
    baseline = summary["baselines"][0]
    gains = {
        arm: one["gain_db"][baseline]["by_patient"]
        for arm, one in summary["arms"].items()
        if baseline in one["gain_db"]
    }
    patients = sorted({patient for one in gains.values() for patient in one})
    rows = [
        (patient, *(f"{one[patient]:+.3f}" if patient in one else "-" for one in gains.values()))
        for patient in patients
    ]
    return table(("patient", *gains), rows)


def _plot(summary: Mapping[str, Any], path: Path) -> None:
    """Gain over each baseline: a dot per patient, the mean, its interval, and the band that does not matter."""
    from matplotlib.figure import Figure

    panels = {
        name: [(arm, one["gain_db"][name]) for arm, one in summary["arms"].items() if name in one["gain_db"]]
        for name in summary["baselines"]
    }
    panels = {name: rows for name, rows in panels.items() if rows}
    figure = Figure(figsize=(9, 0.8 + 0.4 * sum(1 + len(rows) for rows in panels.values())), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        axes.axvspan(-TARGET_DB, TARGET_DB, color="#dddddd", zorder=0)
        axes.axvline(0.0, color="black", linewidth=0.8)
        for height, (_, one) in enumerate(reversed(rows)):
            dots = list(one["by_patient"].values())
            axes.plot(dots, [height] * len(dots), "o", color=GREY, markersize=4, zorder=4)
            axes.plot([one["mean"]], [height], "D", color=BLUE, zorder=3)
            if one["interval_95"]:
                axes.plot(one["interval_95"], [height, height], "-", color=BLUE, linewidth=3, zorder=3)
        axes.set_yticks(range(len(rows)), [arm for arm, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"gain over {name} (dB): patients grey, mean and 95% interval blue, band {TARGET_DB} dB")
    with staged_file(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
