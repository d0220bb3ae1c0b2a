"""What docs/evidence/texture.md says of the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.pages import table

from studies.measures.transfer import DRAWS

from . import plots
from .phantom import BANDS_PER_MM, noise_passed, ttf50_share
from .quality import NETWORK
from .tables import limits_table, number, with_interval

Results = dict[str, Any]


def conclusion(one: Results) -> str:
    """What the phantom says of texture and resolution."""
    ours = one["denoisers"][NETWORK]
    weakest, strongest = (list(ours["ttf"])[i] for i in (0, -1))
    return (
        f"{coarser(one)} Weak contrasts are blurred: resolution (TTF50) is "
        f"{_ttf50(ours, weakest)} of the full dose's at "
        f"{weakest} HU and {_ttf50(ours, strongest)} at {strongest} HU ({ours['realisations']} realisations, 95% "
        f"intervals)."
    )


def coarser(one: Results) -> str:
    """What becomes of the noise's grain, for README too."""
    ours = one["denoisers"][NETWORK]
    full = with_interval(ours["nps"]["full"][_MEAN], _drawn(ours, "nps", "full", _MEAN), ".3f")
    told = "coarser than the scanner's" if ours["nps"]["denoised"][_MEAN] < ours["nps"]["full"][_MEAN] else "no coarser"
    return (
        f"The noise that is left is {told}: in a water phantom at {ours['dose_fraction']:.0%} of the dose its mean "
        f"frequency is {_grain(ours)} per mm instead of {full}."
    )


def coarse_noise(one: Results) -> str:
    """What becomes of noise of long periods, which anchoring leaves and restoring may raise, for README too."""
    denoisers, (_, highest), told = one["denoisers"], BANDS_PER_MM[0], []
    for ours in (denoisers[NETWORK], _equal_gaussian(denoisers)):
        passed = noise_passed(ours["nps"]["denoised"], ours["nps"]["low"])[0]
        told.append(with_interval(passed, _drawn(ours, "bands", 0), ".0%"))
    return (
        f"Of the noise of periods above {1 / highest:g} mm {told[0]} is left, {told[1]} by a Gaussian of equal noise: "
        "anchoring leaves it, and restoring detail can raise it a little."
    )


def _equal_gaussian(denoisers: Results) -> Results:
    """The Gaussian that leaves as much noise as the network."""
    return next(of for name, of in denoisers.items() if name.endswith(f", as {NETWORK}"))


def _beside_a_gaussian(one: Results) -> str:
    """The same of the Gaussian that leaves as much noise, and how much that is."""
    ours, smooth = one[NETWORK], _equal_gaussian(one)
    low, out = (ours["nps"][image]["sd_hu"] for image in ("low", "denoised"))
    left = with_interval(out / low, [end / low for end in _drawn(ours, "nps", "denoised", "sd_hu")], ".0%")
    weakest, strongest = (list(ours["ttf"])[i] for i in (0, -1))
    return (
        f"At standard {left} of the noise is left. The Gaussian that leaves as much has a mean frequency of "
        f"{_grain(smooth)} per mm and a TTF50 of {_ttf50(smooth, weakest)} at {weakest} HU and "
        f"{_ttf50(smooth, strongest)} at {strongest} HU."
    )


def _grain(one: Results) -> str:
    """Mean frequency of the noise, with its interval."""
    return with_interval(one["nps"]["denoised"][_MEAN], _drawn(one, "nps", "denoised", _MEAN), ".3f")


_MEAN = "mean_frequency_per_mm"


def _ttf50(one: Results, contrast: str) -> str:
    """TTF50 over that of the full dose, with its interval."""
    scanner, out = (one["ttf"][contrast][name]["ttf50_per_mm"] for name in ("low", "denoised"))
    drawn = _drawn(one, "ttf50_per_mm", contrast)
    share = None if out is None else ttf50_share(one, contrast)
    return with_interval(share, drawn and [end / scanner for end in drawn], ".0%")


def _drawn(one: Results, *keys: Any) -> Any:
    """An interval of `measure_texture`."""
    found = one["intervals_95"]
    for key in keys:
        found = found[key]
    return found


def phantom_section(one: Results, results: Path) -> str:
    """Noise texture and resolution."""
    denoisers, how = one["denoisers"], one["simulation"]
    plots.plot_spectra(results / "noise_power_spectrum.png", denoisers)
    plots.plot_transfer(results / "task_transfer_function.png", denoisers)
    first = denoisers[NETWORK]
    spectra = {f"{name} dose": (first, name) for name in ("full", "low")}
    spectra |= {name: (d, "denoised") for name, d in denoisers.items()}
    nps_rows = [
        (
            title,
            *(
                with_interval(d["nps"][name][key], _drawn(d, "nps", name, key), form)
                for key, (_, form) in _SPECTRUM.items()
            ),
        )
        for title, (d, name) in spectra.items()
    ]
    low, full = first["nps"]["low"], first["nps"]["full"]
    passed_rows = [
        (
            name,
            *(
                f"{with_interval(of_low, _drawn(one, 'bands', band), '.0%')}; {of_full:.0%}"
                for band, (of_low, of_full) in enumerate(
                    zip(*(noise_passed(one["nps"]["denoised"], of) for of in (low, full)), strict=True)
                )
            ),
        )
        for name, one in denoisers.items()
    ]
    passed_head = ("image", *(f"{lowest:g} to {highest:g} per mm" for lowest, highest in BANDS_PER_MM))
    rods = [contrast for contrast in first["bias_hu"] if contrast != "0"]
    ttf_rows = []
    for contrast, pair in first["ttf"].items():
        scanner = pair["low"]["ttf50_per_mm"]
        for name, d in denoisers.items():
            out, drawn = d["ttf"][contrast]["denoised"], _drawn(d, "ttf50_per_mm", contrast)
            row = (f"{contrast} HU", name, number(scanner, ".3f"), with_interval(out["ttf50_per_mm"], drawn, ".3f"))
            ttf_rows.append((*row, _ttf50(d, contrast), number(out["contrast_hu"], ".1f")))
    bias_rows = [
        (name, *(with_interval(value, _drawn(d, "bias_hu", c), "+.2f") for c, value in d["bias_hu"].items()))
        for name, d in denoisers.items()
    ]
    ttf_head = ("rods", "image", "TTF50 full dose (1/mm)", "denoised", "share", "contrast (HU)")
    bias_head = ("image", *("water" if c == "0" else f"rods of {c} HU" for c in first["bias_hu"]))
    return f"""## Water phantom

A cylinder of 30 cm with rods of {", ".join(rods[:-1])} and {rods[-1]} HU, {how["pixels"]} pixels of
{first["spacing_mm"]:g} mm, dose {first["dose_fraction"]:g}, {first["realisations"]} realisations;
{how["photons"]:.3g} photons per ray, which give the full dose {how["full_noise_hu"]:g} HU of noise. Limits are those of
`network`. Beside each strength stands the Gaussian that leaves as much noise: what a blur does at equal noise.
`nlm` is non-local means. In brackets the 95% interval over {DRAWS} draws of the {first["realisations"]} realisations:
it is that of the noise; there is one phantom. The full dose's transfer function is the phantom's own and has no noise.
What the limits measure has its interval in the tables below, and the curves of the pictures are of the same means.

{_beside_a_gaussian(denoisers)} {coarse_noise(one)}

{limits_table(one["limits"])}

Noise power spectrum in the water:

{table(("image", *(title for title, _ in _SPECTRUM.values())), nps_rows)}

Noise passed per band of frequencies: SD as a share of the low dose's, with its interval; after the semicolon as a share
of the full dose's, which is the same SD over another reference and so has no interval of its own:

{table(passed_head, passed_rows)}

![Noise power spectra](results/noise_power_spectrum.png)

Task transfer function at the rods; the full dose has that of the phantom. *Contrast* has its interval in the table of
HU below:

{table(ttf_head, ttf_rows)}

![Task transfer functions](results/task_transfer_function.png)

HU of output minus input:

{table(bias_head, bias_rows)}"""


_SPECTRUM = {
    "sd_hu": ("SD (HU)", ".1f"),
    "peak_frequency_per_mm": ("peak (1/mm)", ".3f"),
    "mean_frequency_per_mm": ("mean frequency (1/mm)", ".3f"),
}


def detectability_section(one: Results, results: Path) -> str:
    """The model observer."""
    plots.plot_detectability(results / "detectability.png", one["doses"])
    rows = []
    for dose, denoisers in one["doses"].items():
        for name, tasks in denoisers.items():
            for task, d in tasks.items():
                change = "-"
                if d["change_95"]:
                    change = f"{d['change']:+.0%} ({d['change_95'][0]:+.0%} to {d['change_95'][1]:+.0%})"
                before, after = (f"{d[w]:.2f} ({_interval(d[f'{w}_95'])})" for w in ("before", "after"))
                rows.append((f"{float(dose):.0%}", name, task, before, after, change))
    return f"""## Outside check: the LCD phantom

The simulated phantom of DIDSR/LCD_CT (CC0): FBP images, {one["repeats"]} repeats with and without four discs, at
{len(one["doses"])} doses. Channelized Hotelling observer, {one["channels"]} Laguerre-Gauss channels; each repeat
is scored by a template of the others (docs/evaluation.md). In brackets the 95% interval over {one["draws"]} draws of
repeats; a change is given where d' before differs from 0. {one["repeats"]} repeats are all that the data set has, too
few for a verdict on a single disc: the verdicts are those of the study above, and this table only shows whether data
and noise of others agree with it. {_agreement(one)}

{table(("dose", "image", "disc", "d' before", "d' after", "change"), rows)}

![d' by disc and dose](results/detectability.png)"""


def _agreement(one: Results) -> str:
    """Whether any disc, or the mean of the discs of a dose, loses throughout its interval."""
    changes = [d["change_95"] for of in one["doses"].values() for d in of[NETWORK].values() if d["change_95"]]
    lower, higher = sum(high < 0.0 for _, high in changes), sum(low > 0.0 for low, _ in changes)
    return (
        f"Of {len(changes)} changes by `network`, {lower} are losses and {higher} gains throughout their interval, the "
        f"others include no change."
    )


def _interval(pair: Sequence[float]) -> str:
    return f"{pair[0]:.2f} to {pair[1]:.2f}"
