"""What docs/evidence/texture.md says of the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.markdown import table

from . import plots
from .phantom import BANDS_PER_MM, noise_passed, ttf50_share
from .quality import NETWORK
from .tables import limits_table, number

Results = dict[str, Any]


def conclusion(one: Results) -> str:
    """What the phantom says of texture and resolution, at equal noise beside a Gaussian."""
    denoisers = one["denoisers"]
    ours, smooth = denoisers[NETWORK], next(of for name, of in denoisers.items() if name.endswith(f", as {NETWORK}"))
    low, full, out = (ours["nps"][image] for image in ("low", "full", "denoised"))
    shares = {c: [ttf50_share(of, c) for of in (ours, smooth)] for c in ours["ttf"]}
    weakest, strongest = (list(shares)[i] for i in (0, -1))
    return (
        f"What is left is coarser than the scanner's grain: in water at {ours['dose_fraction']:.0%} of the dose "
        f"{out['sd_hu']:.1f} of {low['sd_hu']:.1f} HU of noise are left at standard, with a mean frequency of "
        f"{out['mean_frequency_per_mm']:.2f} in place of {full['mean_frequency_per_mm']:.2f} per mm "
        f"({smooth['nps']['denoised']['mean_frequency_per_mm']:.2f} after the Gaussian of equal noise). Resolution is "
        f"lost where contrast is low: TTF50 is {shares[weakest][0]:.0%} of the full dose's at {weakest} HU and "
        f"{shares[strongest][0]:.0%} at {strongest} HU; the Gaussian's is {shares[weakest][1]:.0%} and "
        f"{shares[strongest][1]:.0%}."
    )


def phantom_section(one: Results, results: Path) -> str:
    """Noise texture and resolution."""
    denoisers, how = one["denoisers"], one["simulation"]
    plots.plot_spectra(results / "noise_power_spectrum.png", denoisers)
    plots.plot_transfer(results / "task_transfer_function.png", denoisers)
    first = denoisers[NETWORK]
    spectra = {"full dose": first["nps"]["full"], "low dose": first["nps"]["low"]}
    spectra |= {name: d["nps"]["denoised"] for name, d in denoisers.items()}
    nps_rows = [
        (name, number(s["sd_hu"], ".1f"), number(s["peak_frequency_per_mm"], ".3f"))
        + (number(s["mean_frequency_per_mm"], ".3f"), number(max(s["nps_hu2_mm2"]), ".0f"))
        for name, s in spectra.items()
    ]
    low, full = first["nps"]["low"], first["nps"]["full"]
    passed_rows = [
        (name, *(f"{of_low:.0%} ({of_full:.0%})" for of_low, of_full in shares))
        for name, one in denoisers.items()
        for shares in [zip(*(noise_passed(one["nps"]["denoised"], of) for of in (low, full)), strict=True)]
    ]
    passed_head = ("image", *(f"{lowest:g} to {highest:g} per mm" for lowest, highest in BANDS_PER_MM))
    rods = [contrast for contrast in first["bias_hu"] if contrast != "0"]
    ttf_rows = []
    for contrast, pair in first["ttf"].items():
        scanner = pair["low"]["ttf50_per_mm"]
        for name, d in denoisers.items():
            out = d["ttf"][contrast]["denoised"]
            share = "-" if out["ttf50_per_mm"] is None else f"{out['ttf50_per_mm'] / scanner:.0%}"
            row = (f"{contrast} HU", name, number(scanner, ".3f"), number(out["ttf50_per_mm"], ".3f"), share)
            ttf_rows.append((*row, number(out["contrast_hu"], ".1f")))
    bias_rows = [(name, *(number(value, "+.2f") for value in d["bias_hu"].values())) for name, d in denoisers.items()]
    ttf_head = ("rods", "image", "TTF50 full dose (1/mm)", "denoised", "share", "contrast (HU)")
    bias_head = ("image", *("water" if c == "0" else f"rods of {c} HU" for c in first["bias_hu"]))
    return f"""## Water phantom

A cylinder of 30 cm with rods of {", ".join(rods[:-1])} and {rods[-1]} HU, {how["pixels"]} pixels of
{first["spacing_mm"]:g} mm, dose {first["dose_fraction"]:g}, {first["realisations"]} realisations;
{how["photons"]:.3g} photons per ray, which give the full dose {how["full_noise_hu"]:g} HU of noise. Limits are those of
`network`. Beside each strength stands the Gaussian that leaves as much noise: what a blur does at the same price.
`nlm` is non-local means. One phantom, all realisations pooled: no interval was measured.

{limits_table(one["limits"])}

Noise power spectrum in the water:

{table(("image", "SD (HU)", "peak (1/mm)", "mean frequency (1/mm)", "highest (HU² mm²)"), nps_rows)}

Noise passed per band of frequencies, SD as a share of the low dose's (of the full dose's):

{table(passed_head, passed_rows)}

![Noise power spectra](results/noise_power_spectrum.png)

Task transfer function at the rods; the full dose has that of the phantom:

{table(ttf_head, ttf_rows)}

![Task transfer functions](results/task_transfer_function.png)

HU of output minus input:

{table(bias_head, bias_rows)}"""


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
                verdict = f"**{d['verdict']}**" if name == NETWORK else d["verdict"]
                before, after = (f"{d[w]:.2f} ({_interval(d[f'{w}_95'])})" for w in ("before", "after"))
                rows.append((f"{float(dose):.0%}", name, task, before, after, change, verdict))
    return f"""## Low-contrast detectability

The simulated phantom of DIDSR/LCD_CT (CC0): FBP images, {one["repeats"]} repeats with and without four discs, at
{len(one["doses"])} doses. Channelized Hotelling observer, {one["channels"]} Laguerre-Gauss channels; each repeat
is scored by a template of the others (docs/evaluation.md). In brackets the 95% interval over {one["draws"]} draws of
repeats. Not lower: the interval of the change allows no loss beyond 10%. Lower: it lies below 0. Undecided: all
else, also a disc that is not seen before. The prior is that of each phantom slice itself:
{one["network"]["prior_model"]}.

{table(("dose", "image", "disc", "d' before", "d' after", "change", "verdict"), rows)}

![d' by disc and dose](results/detectability.png)"""


def _interval(pair: Sequence[float]) -> str:
    return f"{pair[0]:.2f} to {pair[1]:.2f}"
