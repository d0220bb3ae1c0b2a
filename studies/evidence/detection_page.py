"""What docs/evidence/texture.md says of detectability with power."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.pages import table

from .detection import SHAPE
from .plots import plot_changes
from .tables import mean_with_interval, with_interval

Results = dict[str, Any]
#: The share of verdicts that may be undecided.
MOST_UNDECIDED = 0.1
#: A change of d' up to which discs are called detected about as well, as for the verdict `not lower`.
MOST_LOST = 0.1
VERDICTS = ("not lower", "lower", "undecided")


def detection_section(one: Results, results: Path) -> str:
    """Both studies: in the uniform phantom, and in patients."""
    uniform, patients = one["uniform"], one["patients"]
    plot_changes(results / "detection.png", uniform, patients, SHAPE)
    return f"""## Detectability at equal dose, and the dose saved

Channelized Hotelling observer with held-out templates; each signal is seen with and without on the same noise. *Share*:
the mean d' of all tasks over that of the full dose as it is. *Equal dose*, the dose-reduction potential: where the
share is 1, by a straight line in the logarithms; "above 100%" means that not even the denoised full dose reaches it.
Verdicts compare d' with that of the input of the same dose: *not lower* allows no loss beyond 10%, *lower* is a loss
throughout the 95% interval. `Gaussian, 0 mm` is the input itself.

{_in_patients(one)} {_smoothed(uniform)} {_verdicts(one)} This observer knows the spectrum of the noise
and weighs it as well as a linear observer can; a human reader does not.

![Change of d' by denoising at five doses, with 95% intervals](results/detection.png)

### Uniform phantom

A water cylinder of 30 cm, {uniform["repeats"]} realisations per dose, photons as in the water phantom above; discs of
4, 6 and 10 mm at 10 to 40 HU, and a nodule of which the observer must say whether it is round or spiculated
({len(uniform["tasks"])} tasks). Intervals: 95%, {uniform["draws"]} draws of realisations. That of a share is the mean
of the ends of its tasks' intervals, so at most too wide, for the full dose's d' as it is:

{_potential_table(uniform)}

Verdicts, over doses and tasks:

{_verdict_table(uniform["doses"])}

At a quarter of the dose, d' by task, and its change with the 95% interval:

{_task_table(uniform["doses"]["0.25"])}

### Patients left out

Discs in real slices, where the background varies: up to {patients["slices"]} slices a patient, each seen
{patients["seen"]} times, with other noise and other places of up to {patients["insertions"]} insertions; the full dose
is the series itself, noise of the series' own spectrum is added. Places of a slice within one square of
{patients["block_mm"]:g} mm count as one background: they are held out and drawn together, so that neighbours do not
narrow an interval. n: {_repeats(patients)}. Mean over
{len(patients["patients"])} patients (95% interval by Student's t) of the share:

{_patient_table(patients)}

Equal dose by patient (95% interval, {patients["draws"]} draws of backgrounds):

{_equal_table(patients)}

Verdicts by patient, over doses and tasks:

{_verdict_table(*(of["doses"] for of in patients["patients"].values()))}

{undecided_line(patients)}

Verdicts on the mean d' of the patients (of these patients: draws within each, not of patients):

{_verdict_table(patients["pooled"]["doses"])}

At a quarter of the dose, mean d' of the patients by task, and its change with the 95% interval:

{_pooled_table(patients["pooled"])}"""


def conclusion(one: Results) -> str:
    """The plain finding, in numbers."""
    uniform = one["uniform"]
    standard = _name(uniform["potential"], "standard")
    return (
        f"{_detected(uniform, standard)} {_shapes(uniform, standard)} {_saved(one, standard)} "
        "Human readers are not measured here."
    )


def _in_patients(one: Results) -> str:
    """The mean d' of the patients at a quarter of the dose, before and after."""
    potential, mean = one["uniform"]["potential"], one["patients"]["mean"]
    images = [mean[_name(potential, ending)]["0.25"] for ending in ("0 mm", "standard")]
    before, after = (mean_with_interval(of, ".0%") for of in images)
    return (
        f"In patients, mean d' at a quarter of the dose is {before} of the full dose's before and {after} after "
        f"(n = {images[0]['n']})."
    )


def _smoothed(uniform: Results) -> str:
    """What a Gaussian does to the round and the spiculated nodule."""
    of = uniform["doses"]["0.25"][_name(uniform["potential"], "1 mm")][SHAPE]
    return (
        f"A Gaussian of 1 mm changes d' of round against spiculated by "
        f"{with_interval(of['change'], of['change_95'], '+.0%')} at a quarter of the dose."
    )


def _detected(uniform: Results, name: str) -> str:
    """How far d' of discs changes, over all doses."""
    changes = [of["change"] for of in _discs(uniform, name)]
    alike = all(abs(change) <= MOST_LOST for change in changes)
    told = (
        "about as well with denoising as without" if alike else "some discs worse or better with denoising than without"
    )
    return (
        f"A model observer detects {'discs ' if alike else ''}{told}: d' in the phantom changes by "
        f"{min(changes):+.0%} to {max(changes):+.0%} ({len(changes)} pairs of disc and dose, {uniform['repeats']} "
        "realisations each)."
    )


def _discs(uniform: Results, name: str) -> list[Results]:
    """Every disc at every dose."""
    return [of for dose in uniform["doses"].values() for task, of in dose[name].items() if task != SHAPE]


def _shapes(uniform: Results, name: str) -> str:
    """What becomes of telling a round nodule from a spiculated one."""
    ours = uniform["doses"]["0.25"][name][SHAPE]
    told = "less well" if ours["verdict"] == "lower" else "about as well"
    change = with_interval(ours["change"], ours["change_95"], "+.0%")
    return f"It tells a spiculated nodule from a round one {told}: {change} of d' at a quarter of the dose."


def _saved(one: Results, name: str) -> str:
    """The dose that is saved, over all tasks: in the phantom and by patient."""
    uniform = one["uniform"]["potential"][name]
    reached = {
        patient: of["potential"][name]
        for patient, of in one["patients"]["patients"].items()
        if of["potential"][name]["dose"] is not None and of["potential"][name]["dose"] < 1.0
    }
    count = len(one["patients"]["patients"])
    short, told = count - len(reached), "; ".join(f"in {one} {_equal(of)} of the dose" for one, of in reached.items())
    never = "not even the denoised full dose reaches the d' of the full dose as it is"
    others = f" ({told} {'does' if len(reached) == 1 else 'do'})" if told else ""
    if uniform["dose"] is None:
        none = "Denoising saves no dose: " if short > count / 2 else ""
        text = f"{none}{never} over all tasks, in the phantom or in {short} of {count} patients{others}."
    else:
        text = (
            f"In the phantom {_equal(uniform)} of the dose reach the d' of the full dose as it is over all tasks; in "
            f"{short} of {count} patients {never}{others}."
        )
    return text[0].upper() + text[1:]


def _verdicts(one: Results) -> str:
    """How the verdicts on `network` at standard fall: in the phantom, by patient and on the patients' mean."""
    name = _name(one["uniform"]["potential"], "standard")
    groups = {
        "in the phantom": counted(one["uniform"]["doses"]),
        "by patient": counted(*(of["doses"] for of in one["patients"]["patients"].values())),
        "on the patients' mean": counted(one["patients"]["pooled"]["doses"]),
    }
    told = [
        f"{where} {', '.join(f'{of[name][verdict]} {verdict}' for verdict in VERDICTS)}" for where, of in groups.items()
    ]
    return f"Verdicts: {'; '.join(told)}."


def undecided_line(patients: Results) -> str:
    """Which settings leave more than `MOST_UNDECIDED` of the verdicts by patient open."""
    counts = counted(*(of["doses"] for of in patients["patients"].values()))
    beyond = {name: of["undecided"] / of.total() for name, of in counts.items()}
    told = ", ".join(f"{name} ({share:.0%})" for name, share in beyond.items() if share > MOST_UNDECIDED)
    return (
        f"At most {MOST_UNDECIDED:.0%} were to be undecided; not reached by {told}."
        if told
        else f"At most {MOST_UNDECIDED:.0%} were to be undecided; all settings reach that."
    )


def no_help(one: Results) -> str:
    """For README: what the observer finds, in one sentence without its full stop."""
    uniform, standard = one["uniform"], _name(one["uniform"]["potential"], "standard")
    changes = [of["change"] for of in _discs(uniform, standard)]
    shape = uniform["doses"]["0.25"][standard][SHAPE]
    return (
        f"Denoising changes how well a model observer detects discs in a phantom by {min(changes):+.0%} to "
        f"{max(changes):+.0%} of d', and how well it tells a spiculated nodule from a round one by "
        f"{with_interval(shape['change'], shape['change_95'], '+.0%')} at a quarter of the dose; human readers were "
        "not measured"
    )


def no_dose(one: Results) -> str:
    """For README: the dose that is saved, and what a plain blur does to the same tasks."""
    uniform = one["uniform"]
    return f"{_saved(one, _name(uniform['potential'], 'standard'))} {_smoothed(uniform)}"


def summary(one: Results) -> str:
    """For the model card: what the observer finds."""
    uniform, standard = one["uniform"], _name(one["uniform"]["potential"], "standard")
    return " ".join([_detected(uniform, standard), _shapes(uniform, standard), no_dose(one), _verdicts(one)])


def _repeats(patients: Results) -> str:
    """How often a task is seen, and on how many backgrounds, from the least to the most."""
    told = []
    for key, what in (("repeats", "places"), ("backgrounds", "backgrounds")):
        counts = [n for of in patients["patients"].values() for n in of[key].values()]
        told.append(f"{min(counts)} to {max(counts)} {what}")
    return f"{' on '.join(told)} a patient and task"


def _name(potential: Mapping[str, Any], ending: str) -> str:
    return next(name for name in potential if name.endswith(f", {ending}"))


def _potential_table(one: Results) -> str:
    doses = [f"{float(dose):.0%}" for dose in one["doses"]]
    rows = [
        (
            name,
            *(
                with_interval(share, _ends(one, name, dose), ".0%")
                for share, dose in zip(of["share"], one["doses"], strict=True)
            ),
            _equal(of),
        )
        for name, of in one["potential"].items()
    ]
    return table(("image", *(f"share at {dose}" for dose in doses), "equal dose"), rows)


def _ends(one: Results, name: str, dose: str) -> list[float]:
    """Means of the ends of the tasks' intervals, over the mean d' of the full dose."""
    full = next(iter(one["doses"]["1"].values()))
    wanted = sum(task["after"] for task in full.values())
    tasks = one["doses"][dose][name].values()
    return [sum(task["after_95"][end] for task in tasks) / wanted for end in (0, 1)]


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
        for name, of in counted(*by_dose).items()
    ]
    return table(("image", *VERDICTS, "share undecided"), rows)


def counted(*by_dose: Mapping[str, Any]) -> dict[str, Counter[str]]:
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
        of = [settings[name][task] for name in names[1:]]
        cells = [f"{d['after']:.2f}, {with_interval(d['change'], d['change_95'], '+.0%')}" for d in of]
        rows.append((task, pooled["patients"][task], with_interval(one["after"], one["after_95"]), *cells))
    return table(("task", "patients", *names), rows)


def _task_table(settings: Mapping[str, Any]) -> str:
    names = list(settings)
    rows = []
    for task, plain in settings[names[0]].items():
        of = [settings[name][task] for name in names[1:]]
        cells = [f"{d['after']:.2f}, {with_interval(d['change'], d['change_95'], '+.0%')}" for d in of]
        rows.append((task, with_interval(plain["after"], plain["after_95"]), *cells))
    return table(("task", *names), rows)


def _equal(potential: Results) -> str:
    return f"{_dose(potential['dose'])} ({_interval(potential['dose_95'])})"


def _dose(value: float | None) -> str:
    return "above 100%" if value is None else f"{value:.0%}"


def _interval(pair: Iterable[float | None]) -> str:
    return " to ".join(_dose(one) for one in pair)
