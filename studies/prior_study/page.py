"""The page of the study: what each arm's error against the truth is beside the baselines', patient by patient."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts import ablation
from scripts.errors import BioAttError
from scripts.evaluation.intervals import patient_interval
from scripts.pages import table
from scripts.staging import staged_file, write_json

from studies.evidence.tables import mean_with_interval

from .plot import plot_gains
from .runs import plan
from .summary import KNOWING, NONE, TARGET_DB, UNIFORM, read_records, summarise


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
    plot_gains(summary, page.with_suffix(".png"))
    with staged_file(page) as partial:
        partial.write_text(_page(summary, records, study, page.with_suffix(".png").name), encoding="utf-8")


def verdict(interval: Sequence[float] | None) -> str:
    """What the 95% interval of a gain in dB says: ``no difference`` within `TARGET_DB` of 0, else as in ablations."""
    if interval is not None and -TARGET_DB <= interval[0] and interval[1] <= TARGET_DB:
        return "no difference"
    return ablation.verdict(interval)


def headline(summary: Mapping[str, Any]) -> str:
    """The conclusion, from the intervals of the arms whose prior knows something."""
    gains = _knowing_gains(summary)
    if not gains:
        return f"{_so_far(summary)}Nothing can be said yet: no arm whose prior knows something can be compared."
    verdicts = {name: verdict(one["interval_95"]) for name, one in gains.items()}
    better = [name for name, one in verdicts.items() if one == "better"]
    if better:
        every, one = len(better) == len(gains), len(better) == 1
        who = "A prior that knows" if every else f"{len(better)} of {len(gains)} priors that know"
        start = f"{who} the anatomy {'helps' if every or one else 'help'}: {' and '.join(better)} "
        start += f"{'has' if one else 'have'} less error than the uniform prior, which knows nothing"
    elif set(verdicts.values()) == {"no difference"}:
        start = f"Priors do not help: none differs from the uniform prior by {TARGET_DB} dB"
    else:
        start = "We found no evidence that priors help: none has less error than the uniform prior"
    told = "; ".join(f"{name} {_interval(one, 2)} dB" for name, one in gains.items())
    name, one = next(iter(gains.items()))
    return (
        f"{_so_far(summary)}{start}. Gain, less error against the truth, mean over {one['n']} patients and "
        f"{_networks(summary, name)} an arm (95% interval): {told}. {_oracle(gains, verdicts)}{_scale(gains)}"
    ).strip()


def _oracle(gains: Mapping[str, Any], verdicts: Mapping[str, str]) -> str:
    """What the prior that knows most says, where another is better and it is not."""
    if "oracle" not in gains or verdicts["oracle"] == "better" or "better" not in verdicts.values():
        return ""
    return (
        "The oracle is the annotation itself and knows most; that it is not clearly better speaks against "
        "a large gain. "
    )


def _scale(gains: Mapping[str, Any]) -> str:
    """The largest mean gain as a share of the error."""
    name, most = max(gains.items(), key=lambda one: one[1]["mean"])
    share = 1.0 - 10.0 ** (-most["mean"] / 10.0)
    return f"The largest, {name}'s, is {share:.0%} of the error." if share > 0.0 else ""


def use_line(summary: Mapping[str, Any]) -> str:
    """What another prior at test time does to networks trained with the compact one; empty where it has no runs."""
    of = summary["use"].get("prior: compact", {})
    if not {"uniform", "other region"} <= of.keys():
        return ""
    uniform, other = (of[test] for test in ("uniform", "other region"))
    better = verdict(other["interval_95"]) == "better"
    return (
        f"At test time, networks trained with the compact prior gain {_interval(uniform, 2)} dB by the right prior "
        f"over "
        f"the uniform one, which they never saw, and {_interval(other, 2)} dB over that of another body region"
        + (
            ": they use what it says."
            if better
            else ", which leaves open whether they use what it says or only do best with the kind of prior they know."
        )
    )


def short(summary: Mapping[str, Any]) -> str:
    """What the compact prior does, in one sentence for README, model card and docs/priors.md."""
    compact = summary["arms"]["prior: compact"]
    gain, points = compact["gain_db"][UNIFORM], compact["contrast_gain"][UNIFORM]
    lower, upper = gain["interval_95"]
    done, planned = summary["finished_runs"], summary["planned_runs"]
    share = 1.0 - 10.0 ** (-gain["mean"] / 10.0)
    return (
        f"Networks trained and used with the compact prior have {gain['mean']:.2f} dB ({lower:.2f} to {upper:.2f}) "
        f"less error than with the uniform one, {share:.0%} of it, at {_interval(points, 1, 100)} points of contrast "
        f"({gain['n']} patients, {done} of {planned} runs)"
    )


def _knowing_gains(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Gains over the uniform prior of the arms whose prior knows something, by short name."""
    arms = summary["arms"]
    known = {arm: arms[arm]["gain_db"] for arm in KNOWING if arm in arms}
    return {arm.removeprefix("prior: "): of[UNIFORM] for arm, of in known.items() if UNIFORM in of}


def _so_far(summary: Mapping[str, Any]) -> str:
    done, planned = summary["finished_runs"], summary["planned_runs"]
    return f"Not finished: {done} of {planned} runs are in. " if done < planned else ""


def robustness_line(summary: Mapping[str, Any]) -> str:
    """How much each gain depends on single patients, of arms whose prior knows something; empty where none has any."""
    told = []
    for name, gain in _knowing_gains(summary).items():
        if gain["interval_95"] is None:
            continue
        values = {patient: value for patient, value in gain["by_patient"].items() if not math.isnan(value)}
        without = [patient_interval({p: v for p, v in values.items() if p != one})["interval_95"] for one in values]
        least = min((one[0] for one in without if one is not None), default=math.nan)
        told.append(
            f"{name} gains on {sum(value > 0 for value in values.values())} of {len(values)} (median "
            f"{statistics.median(values.values()):+.2f} dB, lower end of the interval at least {least:+.2f} without "
            "any one patient)"
        )
    return f"By patient: {'; '.join(told)}." if told else ""


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
    return (
        f"Attention that knows nothing, against no attention: {'; '.join(told)}. Less error at less contrast is what "
        "any stronger filter has."
        if told
        else ""
    )


def _interval(one: Mapping[str, Any], places: int, scale: float = 1.0) -> str:
    if one["interval_95"] is None:
        return f"{scale * one['mean']:+.{places}f}"
    lower, upper = one["interval_95"]
    return f"{scale * one['mean']:+.{places}f} ({scale * lower:+.{places}f} to {scale * upper:+.{places}f})"


def _page(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], study: Mapping[str, Any], plot: str) -> str:
    slices = {patient: one["slices"] for record in records for patient, one in record["patients"].items()}
    made = records[0]["made"]
    return f"""# Do priors help?

{headline(summary)}

{robustness_line(summary)}

{attention_line(summary)}

{use_line(summary)}

{summary["finished_runs"]} of {summary["planned_runs"]} planned runs are in: {len(study["arms"])} arms,
{study["seeds"]} seeds, {made["folds"]} folds. {len(slices)} patients with {sum(slices.values())} slices are
evaluated, each by networks that never saw them.

Made by `make study`; `make pages` writes it again from the [records](results/priors/). A gain is positive where the arm
has less error than the baseline: 10 log10 of the ratio of mean squared errors against the truth in the body, of the
same patient and seed, averaged over seeds. The error is estimated without having the truth ([how](../evaluation.md));
low doses are simulated, a quarter of the dose. Every interval is 95%, over patients unless said otherwise; `by
network` is
over networks, one a fold and seed, each the mean of its patients, since patients of a fold share their networks.
`better` and `worse` exclude 0; `no difference` lies within {TARGET_DB} dB of 0. These verdicts are not corrected for
the number of comparisons; a corrected p is [below](#how-well-the-gains-are-known).

## Error and contrast

{_gain_tables(summary)}

![Gain by patient, with mean and 95% interval]({plot})

`error left` is the error over the low dose's, the mean over patients (95% interval, wide as patients differ: gains
compare each patient with themselves); `contrast kept` is that of discs of 4 to 15 mm
and 20 or 40 HU in even soft tissue, the mean over diameters, of the {_with_discs(summary)} patients who have room for
them. `each seed` has no interval: three seeds are too few. {_not_positive(summary)}

{_precision_section(summary)}

## Does the network use its prior?

The gain of the right prior over another one at test time, with the same weights ({len(slices)} patients): over the
uniform prior, and over that of a slice of another patient and, where priors tell regions apart, of another region.
Networks were trained with the right prior alone, so any other is new to them; about 0 means that the prior is ignored
or does not matter.

{_use_table(summary)}

## Gain over the uniform prior by patient (dB)

A cell is the mean over the seeds of one patient: three values, no interval.

{_patient_table(summary)}

## What was run

The network has widths {study["settings"]["widths"]}. Each run trains {study["settings"]["steps"]} steps of
{study["settings"]["batch_size"]} patches on unbiased targets, as the shipped weights are trained but far shorter, and
with the right prior in every patch. `oracle` is the annotation itself, smoothed along z; `random` is drawn for each
slice. {_models(made)}
Phantoms are in no fold and always train. {_devices(records)}

Settings `{json.dumps(study["settings"])}`; data `{json.dumps(made)}`.
"""


def _devices(records: Sequence[Mapping[str, Any]]) -> str:
    """What ran the runs; on more than one device, what that changes."""
    counts = Counter(record["device"] for record in records)
    told = " and ".join(f"{count} on {name}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))
    few = [one for one in records if one["device"] != counts.most_common(1)[0][0]]
    names = ", ".join(f"{one['arm']} of fold {one['fold']} and seed {one['seed']}" for one in few)
    mixed = f" The latter: {names}; same seeds and batches, but in float32 and not bfloat16." if few else ""
    return f"Runs: {told}.{mixed}"


def _precision_section(summary: Mapping[str, Any]) -> str:
    """The intervals and the power that docs/priors.md set down, of all arms."""
    found = summary.get("precision", {})
    if not found:
        return "## How well the gains are known\n\nToo few patients to say."
    rows = []
    for arm, one in found.items():
        n = summary["arms"][arm]["gain_db"][UNIFORM]["n"]
        random = one["random"]
        alone = random["half_width_of_patients"]
        p = "-" if one["p_holm"] is None else f"{one['p_holm']:.3f}"
        rows.append(
            (arm, n, _interval(summary["arms"][arm]["gain_db"][UNIFORM], 3), p)
            + (f"{_interval(one['adjusted'], 3)}", f"{one['adjusted']['r2']:.0%}", _interval(random, 3))
            + (one["patients_needed"], "-" if alone is None else f"{alone:.3f}")
        )
    head = ("arm", "patients", "gain over the uniform prior (dB)", "p (Holm)", "adjusted for noise", "explained")
    head += ("patients and trainings at random", f"patients needed for +-{TARGET_DB}", "half-width with endless seeds")
    return f"""## How well the gains are known

The study was to know each gain to +-{TARGET_DB} dB. {_reached(summary)} Four ways, [set
down](../priors.md#how-the-records-are-analysed) before they were computed; verdicts follow the first alone. *Adjusted
for noise*: from a straight line of the gain on the logarithm of the low dose's error, which explains so much of the
variance between patients. *Patients and trainings at random*: holds for new trainings too.{_no_random(found)} *Patients
needed*: for an interval of that half-width by Student's t, if the SD stays. *With endless seeds*: the half-width that
the patients alone would leave. p is of Student's test, corrected for the three arms whose prior knows something. What
is explained, needed and left describes these patients and has no interval.

{table(head, rows)}"""


def _no_random(found: Mapping[str, Any]) -> str:
    """Why the way with trainings at random has no interval, where it has none."""
    missing = any(one["random"]["interval_95"] is None for one in found.values())
    return " Where a run is missing it has no interval: each patient must have each seed." if missing else ""


def _reached(summary: Mapping[str, Any]) -> str:
    """Which arms came to the wanted half-width, and what the others would need."""
    told = []
    for arm in KNOWING:
        if arm not in summary["precision"]:
            continue
        one, gain = summary["precision"][arm], summary["arms"][arm]["gain_db"][UNIFORM]
        widths = [(upper - lower) / 2 for lower, upper in (gain["interval_95"], one["adjusted"]["interval_95"])]
        needs = f"{one['patients_needed']} patients would be needed" if widths[0] > TARGET_DB else "reached"
        told.append(f"{arm.removeprefix('prior: ')} +-{widths[0]:.3f} ({needs}), adjusted +-{widths[1]:.3f}")
    return f"Half-widths: {'; '.join(told)}." if told else ""


def _gain_tables(summary: Mapping[str, Any]) -> str:
    parts = []
    for baseline in summary["baselines"]:
        rows = []
        for arm, one in summary["arms"].items():
            gain = one["gain_db"].get(baseline)
            cells = [arm, str(one["patients"]), str(one["seeds"]), mean_with_interval(one["error_left"], ".1%")]
            cells += [_interval(gain, 3), verdict(gain["interval_95"])] if gain else ["-", "-"]
            cells += [_interval(one["gain_db_by_network"][baseline], 3)] if gain else ["-"]
            cells += [" / ".join(f"{value:+.3f}" for value in gain["by_seed"].values())] if gain else ["-"]
            cells += [mean_with_interval(one["contrast_kept"], ".1%")]
            cells += [_interval(one["contrast_gain"][baseline], 2, 100)] if gain else ["-"]
            rows.append(cells)
        heads = ("arm", "patients", "seeds", "error left", "gain (dB)", "verdict", "by network", "each seed")
        heads += ("contrast kept", "points more")
        parts.append(f"Against `{baseline}`:\n\n{table(heads, rows)}")
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
