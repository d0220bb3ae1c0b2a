"""What docs/evidence/texture.md says of detectability with power."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.markdown import table

from .plots import plot_dose_response
from .tables import mean_with_interval, number

Results = dict[str, Any]
VERDICTS = ("not lower", "lower", "undecided")


def detection_section(one: Results, results: Path) -> str:
    """Both studies: in the uniform phantom, and in patients."""
    uniform, patients = one["uniform"], one["patients"]
    plot_dose_response(results / "detection.png", uniform, patients)
    return f"""## Detectability at equal dose, and the dose saved

Channelized Hotelling observer with held-out templates; each signal is seen with and without on the same noise. *Share*:
the mean d' of all tasks over that of the full dose as it is. *Equal dose*: where the share is 1, by a straight line in
the logarithms; "above 100%" means that not even the denoised full dose reaches it. Verdicts compare d' with that of the
input of the same dose: *not lower* allows no loss beyond 10%, *lower* is a loss throughout the 95% interval.

### Uniform phantom

A water cylinder of 30 cm, {uniform["repeats"]} realisations per dose, photons as in the water phantom above; discs of
4, 6 and 10 mm at 10 to 40 HU, and a nodule of which the observer must say whether it is round or spiculated
({len(uniform["tasks"])} tasks). Intervals: 95%, {uniform["draws"]} draws of realisations.

{_potential_table(uniform)}

{_verdict_table(uniform["doses"])}

At a quarter of the dose, d' by task:

{_task_table(uniform["doses"]["0.25"])}

### Patients left out

Discs in real slices, where the background varies: up to {patients["slices"]} slices a patient with up to
{patients["insertions"]} insertions each; the full dose is the series itself, noise of the series' own spectrum is
added. Places of a slice within one square of {patients["block_mm"]:g} mm count as one background: they are held out and
drawn together, so that neighbours do not narrow an interval. n: {_repeats(patients)}. Mean over patients (95% interval
by Student's t) of the share:

{_patient_table(patients)}

Equal dose by patient:

{_equal_table(patients)}

Verdicts by patient, over doses and tasks:

{_verdict_table(*(of["doses"] for of in patients["patients"].values()))}

Verdicts on the mean d' of the patients (of these patients: draws within each, not of patients):

{_verdict_table(patients["pooled"]["doses"])}

The mean at a quarter of the dose, with the 95% interval of the change:

{_pooled_table(patients["pooled"])}

![Share of the full dose's d' against dose](results/detection.png)"""


def conclusion(one: Results) -> str:
    """The plain finding, in numbers."""
    potential = one["uniform"]["potential"]
    plain, standard = (_named(potential, name) for name in ("0 mm", "standard"))
    mean = one["patients"]["mean"]
    in_patients = {name: mean[_name(potential, name)]["0.25"]["mean"] for name in ("0 mm", "standard")}
    before, after = (f"{_at(one['uniform'], of, 0.25):.0%}" for of in (plain, standard))
    return (
        f"At a quarter of the dose, the mean d' in the phantom is {before} of the full dose's before and {after} after "
        f"`network` at standard; in patients {in_patients['0 mm']:.0%} and {in_patients['standard']:.0%}. "
        f"{_reached(standard)} {_verdicts(one)} "
        "This observer knows the spectrum of the noise and weighs it as well as a linear observer can. A human reader "
        "does not; what denoising gives one is not measured here."
    )


def _reached(potential: Results) -> str:
    if potential["dose"] is None:
        return (
            "Not even the denoised full dose reaches the d' of the full dose as it is in the phantom: no dose is saved."
        )
    return f"Denoised, the phantom reaches the d' of the full dose at this share of it: {_equal(potential)}."


def _verdicts(one: Results) -> str:
    """How the verdicts on `network` at standard fall, by patient and on their mean."""
    name = _name(one["uniform"]["potential"], "standard")
    by_patient = _counted(*(of["doses"] for of in one["patients"]["patients"].values()))[name]
    mean = _counted(one["patients"]["pooled"]["doses"])[name]
    told = [
        ", ".join(f"{of[verdict]} {verdict}" for verdict in VERDICTS) + f" of {of.total()}" for of in (by_patient, mean)
    ]
    return f"Of the verdicts on single patients {told[0]}; on the mean of the patients {told[1]}."


def _repeats(patients: Results) -> str:
    """How often a task is seen, and on how many backgrounds, from the least to the most."""
    told = []
    for key, what in (("repeats", "places"), ("backgrounds", "backgrounds")):
        counts = [n for of in patients["patients"].values() for n in of[key].values()]
        told.append(f"{min(counts)} to {max(counts)} {what}")
    return f"{' on '.join(told)} a patient and task"


def _at(uniform: Results, potential: Results, dose: float) -> float:
    return potential["share"][[float(d) for d in uniform["doses"]].index(dose)]


def _name(potential: Mapping[str, Any], ending: str) -> str:
    return next(name for name in potential if name.endswith(f", {ending}"))


def _named(potential: Mapping[str, Any], ending: str) -> Results:
    return potential[_name(potential, ending)]


def _potential_table(one: Results) -> str:
    doses = [f"{float(dose):.0%}" for dose in one["doses"]]
    rows = [(name, *(f"{share:.0%}" for share in of["share"]), _equal(of)) for name, of in one["potential"].items()]
    return table(("image", *(f"share at {dose}" for dose in doses), "equal dose"), rows)


def _patient_table(patients: Results) -> str:
    mean = patients["mean"]
    doses = list(next(iter(mean.values())))
    rows = [(name, *(mean_with_interval(of[dose], ".0%") for dose in doses)) for name, of in mean.items()]
    return table(("image", *(f"share at {float(dose):.0%}" for dose in doses)), rows)


def _equal_table(patients: Results) -> str:
    names = list(next(iter(patients["patients"].values()))["potential"])
    rows = [
        (
            patient,
            *(_dose(of["potential"][n]["dose"]) + f" ({_interval(of['potential'][n]['dose_95'])})" for n in names),
        )
        for patient, of in patients["patients"].items()
    ]
    return table(("patient", *names), rows)


def _verdict_table(*by_dose: Mapping[str, Any]) -> str:
    """How many verdicts of each kind."""
    rows = [
        (name, *(of[verdict] for verdict in VERDICTS), f"{of['undecided'] / of.total():.0%}")
        for name, of in _counted(*by_dose).items()
    ]
    return table(("image", *VERDICTS, "share undecided"), rows)


def _counted(*by_dose: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Verdicts by setting, over doses and tasks; the input is not set beside itself."""
    counts: dict[str, Counter[str]] = {}
    for doses in by_dose:
        for settings in doses.values():
            for name, tasks in list(settings.items())[1:]:
                counts.setdefault(name, Counter()).update(d["verdict"] for d in tasks.values())
    return counts


def _pooled_table(pooled: Results) -> str:
    settings = pooled["doses"]["0.25"]
    names = list(settings)
    rows = []
    for task, one in settings[names[0]].items():
        changes = [settings[name][task]["change_95"] for name in names[1:]]
        cells = [
            f"{settings[name][task]['after']:.2f}" + (f" ({low:+.0%} to {high:+.0%})" if interval else "")
            for name, interval in zip(names[1:], changes, strict=True)
            for low, high in [interval or (0.0, 0.0)]
        ]
        rows.append((task, pooled["patients"][task], number(one["after"]), *cells))
    return table(("task", "patients", *names), rows)


def _task_table(settings: Mapping[str, Any]) -> str:
    names = list(settings)
    rows = []
    for task in settings[names[0]]:
        of = [settings[name][task] for name in names[1:]]
        cells = [f"{d['after']:.2f} ({'-' if d['change'] is None else format(d['change'], '+.0%')})" for d in of]
        rows.append((task, number(settings[names[0]][task]["after"]), *cells))
    return table(("task", *names), rows)


def _equal(potential: Results) -> str:
    return f"{_dose(potential['dose'])} ({_interval(potential['dose_95'])})"


def _dose(value: float | None) -> str:
    return "above 100%" if value is None else f"{value:.0%}"


def _interval(pair: Iterable[float | None]) -> str:
    return " to ".join(_dose(one) for one in pair)
