"""What docs/evidence/baselines.md says of the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.evaluation.intervals import patient_interval
from scripts.pages import table
from scripts.strengths import DEFAULT

from . import plots
from .baselines import BARE
from .plane import GAUSSIAN, above_gaussian
from .tables import limits_table, mean_with_interval, number

Results = dict[str, Any]
DIAMETERS, REGIONS = ("4", "6", "10"), ("body", "edges")
#: The training of the baseline, in bundle/.
COMMAND = (
    "python -m monai.bundle run training --dataset_dir DIR --output_dir OUT --config_file \"['configs/train.json',"
    "'configs/shipped.json','configs/network_redcnn32.json','../studies/evidence/redcnn32.json']\""
)


def baselines_section(one: Results, results: Path) -> str:
    """Networks on equal terms."""
    found = one["figures"]
    drawn = {name: found[name] for name in (*one["networks"], GAUSSIAN)}
    plots.plot_plane(results / "baselines_plane.png", drawn, {}, DIAMETERS, corner=(60.0, 55.0))
    broken = [limit for limit in one["limits"] if not limit["kept"]]
    anchors = ", ".join(f"{name} {anchor:g} mm" for name, (anchor, _) in one["settings"].items() if name != BARE)
    patients = one["patients"]
    slices = sum(len(of["slices"]) for of in patients.values())
    return f"""## What is compared

{table(_NETWORKS_HEAD, _networks(one))}

`network` is the weights named above; *first training* those that they go on from. It and RED-CNN differ in form and in
the number of patches: the same targets, low doses, loss and patients (train.json and shipped.json of bundle/configs).
`network` then had a second training (refined.json), RED-CNN had none. None was trained on the patients below; three of
them (LIDC-IDRI-0003, HCC_015, C3L-00189) gave the slices of the curves. *Time*: processor time of one core, least of
five, a slice of 512 x 512, without anchoring and files; the first two rows are one network and show how far it can be
trusted. Steps of `network` are in the model card. Each training was done once, so nothing here has an interval.
RED-CNN of the paper's 96 maps takes about nine times the arithmetic of 32; it was not trained.

RED-CNN is trained again and evaluated by `make baselines BIOATT_DATA=DIR`; by itself, in bundle/:

    {COMMAND}

{_curves(one)}

## Noise left, contrast kept and error, patients left out

{len(patients)} patients, {slices} slices, dose {one["dose_fraction"]:g}, as in [quality](quality.md), which defines
the columns. Anchors: {anchors}; *{BARE}* has none. Means over patients (95% interval by Student's t); *error left* is
the error of the body against the noise-free image over the low dose's own.

{table(_PLANE_HEAD, _plane_rows(one))}

![Contrast kept against noise left, a panel for each diameter](results/baselines_plane.png)

Points of the picture are the means of the table, which has their intervals; small dots are the single patients of
`network`.

Error against the noise-free image by patient, in HU²; a row is one patient's slices, and has no interval:

{table(("patient", "region", "low dose", *_columns(one)), _error_rows(one))}

Limits are on the figures of single patients, which have no interval. Of {len(one["limits"])}
{len(one["limits"]) - len(broken)} are kept: on every patient, bare and at every anchor,
`network` has less error in body and edges than a network of another form, and at least its contrast of 4 mm above a
Gaussian of equal noise.{" Not kept:" if broken else ""}

{limits_table(broken) if broken else ""}""".rstrip()


_NETWORKS_HEAD = ("name", "network", "parameters", "steps", "patches", "time (s)", "weights sha256")
_PLANE_HEAD = (
    *("network", "setting", "noise left", *(f"{d} mm kept" for d in DIAMETERS)),
    *("above a Gaussian, 4 mm (points)", "6 mm", "10 mm", "error left, body", "error left, edges"),
)


def conclusion(one: Results) -> str:
    """The plain finding, in numbers: ours beside each network of another form, anchored alike and bare."""
    ours, *others = one["networks"]
    told = [_beside(one, ours, other) for other in others if form(one, other) != form(one, ours)]
    return "\n\n".join(told)


def _beside(one: Results, ours: str, other: str) -> str:
    """`network` beside one other."""
    found = one["figures"]
    ratio, bare = (patient_interval(_ratios(one, ours, other, setting, "body")) for setting in (DEFAULT, BARE))
    figures = [
        (_cell({p: x["noise_left"] for p, x in of.items()}), _cell({p: x["contrast"]["4"] for p, x in of.items()}))
        for of in (found[ours][DEFAULT], found[other][DEFAULT])
    ]
    above, theirs = (_above(one, name, DEFAULT, "4") for name in (ours, other))
    behind = sum(above[patient] < theirs[patient] for patient in above)
    time = one["networks"][other]["seconds_a_slice"] / one["networks"][ours]["seconds_a_slice"]
    return (
        f"Anchored alike at {DEFAULT}, `network` has {mean_with_interval(ratio, '.2f')} times the error of {other} "
        f"in the "
        f"body against the noise-free image, and {mean_with_interval(bare, '.2f')} times without an anchor (mean of "
        f"{ratio['n']} patients, 95% interval). It leaves {figures[0][0]} of the noise and {figures[0][1]} of the "
        f"contrast of 4 mm discs; {other} {figures[1][0]} and {figures[1][1]}. On {behind} of {ratio['n']} patients "
        f"{other} keeps more contrast of 4 mm discs at equal noise. It takes {time:.1f} times as long. "
        f"{_unequal(one, ours, other)}"
    )


def _unequal(one: Results, ours: str, other: str) -> str:
    """How many patches the other saw, and a training of ours whose number is known."""
    alike = [name for name in one["curves"] if form(one, name) == form(one, ours)]
    told = "".join(f", {name} {_patches(one, name):,}" for name in alike)
    return f"Their trainings differ: {other} saw {_patches(one, other):,} patches{told}."


def summary(one: Results) -> str:
    """One line for README and model card."""
    ours, *others = one["networks"]
    other = next(name for name in others if form(one, name) != form(one, ours))
    ratio = patient_interval(_ratios(one, ours, other, DEFAULT, "body"))
    above = [patient_interval(_above(one, name, DEFAULT, "4"))["mean"] for name in (ours, other)]
    return (
        f"At {DEFAULT} our error of the body is {mean_with_interval(ratio, '.2f')} times that of {other}, trained on "
        f"the same targets with fewer patches and anchored alike; 4 mm discs keep {above[0]:+.1f} against "
        f"{above[1]:+.1f} points of contrast above a Gaussian of equal noise"
    )


def form(one: Results, name: str) -> str:
    """The class of a network."""
    return one["networks"][name]["network"].partition("(")[0]


def _ratios(one: Results, ours: str, theirs: str, setting: str, region: str) -> dict[str, float]:
    found = one["figures"]
    return {
        patient: of["error_hu2"][region] / found[theirs][setting][patient]["error_hu2"][region]
        for patient, of in found[ours][setting].items()
    }


def _above(one: Results, name: str, setting: str, diameter: str) -> dict[str, float]:
    found = one["figures"]
    return {patient: above_gaussian(found, of, patient, diameter) for patient, of in found[name][setting].items()}


def _networks(one: Results) -> list[tuple[Any, ...]]:
    return [
        (name, record["network"], f"{record['parameters']:,}")
        + (
            (f"{one['curves'][name][-1]['steps']:,}", f"{_patches(one, name):,}")
            if name in one["curves"]
            else ("-", "-")
        )
        + (number(record["seconds_a_slice"]), f"`{record['weights_sha256'][:16]}`")
        for name, record in one["networks"].items()
    ]


def _patches(one: Results, name: str) -> int:
    return one["curves"][name][-1]["steps"] * one["patches_a_step"][name]


def _curves(one: Results) -> str:
    """Whether the trainings had come to their end."""
    lines = []
    for name, curve in one["curves"].items():
        last = curve[-1]
        before = [point for point in curve[:-1] if point["steps"] <= 0.8 * last["steps"]][-1:]
        gained = f"{last['psnr_db'] - before[0]['psnr_db']:+.2f} dB since step {before[0]['steps']:,}" if before else ""
        lines.append(f"{name}, {last['psnr_db']:.2f} dB at the end ({gained}, low dose {last['low_psnr_db']:.2f} dB)")
    return (
        f"PSNR of the validation patients against the noisy full dose, bare: {'; '.join(lines)}. The learning rate "
        "falls to 0, so a curve ends flat by itself: a longer schedule may still give more."
    )


def _plane_rows(one: Results) -> Iterable[tuple[Any, ...]]:
    found = one["figures"]
    low = next(iter(found[GAUSSIAN].values()))
    for name in one["networks"]:
        for setting, of in found[name].items():
            yield (
                *(name, setting, _cell({p: x["noise_left"] for p, x in of.items()})),
                *(_cell({p: x["contrast"][d] for p, x in of.items() if d in x["contrast"]}) for d in DIAMETERS),
                *(_cell(_above(one, name, setting, d), "+.1f") for d in DIAMETERS),
                *(
                    _cell({p: x["error_hu2"][region] / low[p]["error_hu2"][region] for p, x in of.items()})
                    for region in REGIONS
                ),
            )


def _cell(values: Mapping[str, float], form: str = ".0%") -> str:
    return mean_with_interval(patient_interval(values), form)


def _columns(one: Results) -> list[str]:
    return [f"{name}, {setting}" for name in one["networks"] for setting in (BARE, DEFAULT)]


def _error_rows(one: Results) -> Iterable[tuple[Any, ...]]:
    found = one["figures"]
    low = next(iter(found[GAUSSIAN].values()))
    for patient in one["patients"]:
        for region in REGIONS:
            errors = [found[n][s][patient]["error_hu2"][region] for n in one["networks"] for s in (BARE, DEFAULT)]
            yield (patient, region, *(number(value, ".1f") for value in (low[patient]["error_hu2"][region], *errors)))
