"""Evidence on real series: noise taken away, HU kept, and edges against filters at equal noise, in tables.

Run it with `make evidence` or ``python -m scripts.judge_series DATA OUT`` (with bundle/ on the path).
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from .data import radiological_slices
from .data.orientation import RadiologicalSlices
from .data.volume import series_folders
from .dose.image_noise import TISSUES_HU, flat_soft_tissue, local_sd, noise_sd_hu, tissue_mask
from .evaluation import tissue_bias
from .evaluation.edges import EDGES_HU, edge_width, find_edge_lines
from .evaluation.figures import comparison_figure
from .hu import VALID_RANGE_HU
from .provenance import NOT_FOR_DIAGNOSIS

#: Slices of a series whose filters are tuned and whose edges are measured.
EDGE_SLICES = 4


def judge_series(source: Path, denoised: Path) -> dict[str, Any]:
    """Compare a series with its denoised one: noise and HU over all slices, edges on some.

    Returns:
        ``slices``; ``noise_sd_hu`` and ``soft_tissue_sd_hu`` as [before, after] pairs; ``bias_hu`` per tissue; and
        ``edges``: width in mm per edge for input, denoised, gaussian and nlm, the filters at the noise of denoised.
    """
    return judge_slices(radiological_slices(source), radiological_slices(denoised))


def judge_slices(before: RadiologicalSlices, after: RadiologicalSlices) -> dict[str, Any]:
    """What `judge_series` returns, of volumes that are read already."""
    noise, spread, bias = [], [], {tissue: [] for tissue in TISSUES_HU}
    for i in range(len(before)):
        low, out = (x[i].clip(*VALID_RANGE_HU) for x in (before, after))
        flat = flat_soft_tissue(low)
        soft = tissue_mask(low, "soft tissue")
        if flat.any():
            noise.append((noise_sd_hu(low, flat), noise_sd_hu(out, flat)))
            spread.append((float(np.median(local_sd(low)[soft])), float(np.median(local_sd(out)[soft]))))
        for tissue, one in tissue_bias(out, low).items():
            if one.pixels:
                bias[tissue].append(one)
    return {
        "slices": len(before),
        "noise_sd_hu": _median_pair(noise),
        "soft_tissue_sd_hu": _median_pair(spread),
        "bias_hu": {t: sum(b.mean_hu * b.pixels for b in v) / sum(b.pixels for b in v) for t, v in bias.items() if v},
        "edges": _edges(before, after),
    }


def _median_pair(pairs: list[tuple[float, float]]) -> list[float]:
    """Medians of [before, after] over slices; NaN where there was nothing to measure."""
    return np.median(pairs, axis=0).tolist() if pairs else [float("nan")] * 2


def _edges(before: RadiologicalSlices, after: RadiologicalSlices) -> dict[str, dict[str, float]]:
    """Edge widths in mm of the input, the denoised series, and two filters tuned to the same noise."""
    with_tissue = [i for i in range(len(before)) if flat_soft_tissue(before[i]).any()]
    if not with_tissue:
        return {"noise_sd_hu": {}}
    chosen = [with_tissue[int(i)] for i in np.linspace(0, len(with_tissue) - 1, EDGE_SLICES + 2)[1:-1]]
    lows = [before[i].clip(*VALID_RANGE_HU) for i in chosen]
    outs = [after[i].clip(*VALID_RANGE_HU) for i in chosen]
    flats = [flat_soft_tissue(low) for low in lows]
    target = float(np.median([noise_sd_hu(out, flat) for out, flat in zip(outs, flats, strict=True)]))
    images = {
        "input": lows,
        "denoised": outs,
        "gaussian": _tuned(lambda low, x: gaussian_filter(low, x), lows, flats, target, (0.05, 4.0)),
        "nlm": _tuned(_non_local_means, lows, flats, target, (0.05, 3.0)),
    }
    widths: dict[str, dict[str, float]] = {}
    for edge in EDGES_HU:
        lines = [find_edge_lines(low, edge) for low in lows]
        if sum(len(line.rows) for line in lines) < 50:
            continue
        widths[edge] = {
            name: edge_width(np.concatenate([x.profiles(y) for x, y in zip(lines, stack, strict=True)]).mean(0))
            * before.spacing_mm
            for name, stack in images.items()
        }
    noises = {
        name: float(np.median([noise_sd_hu(x, m) for x, m in zip(stack, flats, strict=True)]))
        for name, stack in images.items()
    }
    return {"noise_sd_hu": noises, **widths}


def _non_local_means(low: np.ndarray, strength: float) -> np.ndarray:
    """Non-local means of scikit-image with h = strength * sigma; its other settings as ECOSYSTEM's tuned ones."""
    from skimage.restoration import denoise_nl_means

    sigma = noise_sd_hu(low, flat_soft_tissue(low))
    return denoise_nl_means(low, patch_size=5, patch_distance=6, h=strength * sigma, sigma=0.7 * sigma, fast_mode=True)


def _tuned(
    smooth: Callable[[np.ndarray, float], np.ndarray],
    lows: list[np.ndarray],
    flats: list[np.ndarray],
    target_sd_hu: float,
    limits: tuple[float, float],
) -> list[np.ndarray]:
    """Images smoothed just so much that their median noise is the target's, by bisection."""
    lower, upper = limits
    for _ in range(9):
        strength = (lower + upper) / 2
        images = [smooth(low, strength) for low in lows]
        noise = np.median([noise_sd_hu(image, flat) for image, flat in zip(images, flats, strict=True)])
        lower, upper = (strength, upper) if noise > target_sd_hu else (lower, strength)
    return images


def markdown(results: dict[str, Any]) -> str:
    """The tables of a result file."""
    lines = [
        "| series | slices | noise SD before (HU) | after | change | all soft tissue, change "
        "| bias fat (HU) | bias soft tissue | bias bone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in results["series"].items():
        before, after = one["noise_sd_hu"]
        biases = " | ".join(f"{one['bias_hu'][t]:+.2f}" if t in one["bias_hu"] else "-" for t in _BIASES)
        every = one["soft_tissue_sd_hu"][1] / one["soft_tissue_sd_hu"][0] - 1
        noise = f"{before:.1f} | {after:.1f} | {after / before - 1:+.0%} | {every:+.0%}"
        lines.append(f"| {name} | {one['slices']} | {noise} | {biases} |")
    names = ("input", "denoised", "gaussian", "nlm")
    lines += [
        "",
        "| series | edge | " + " | ".join(f"{name} (mm)" for name in names) + " | noise of the last three (HU) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in results["series"].items():
        noise = " / ".join(f"{one['edges']['noise_sd_hu'][x]:.1f}" for x in names[1:])
        for edge in EDGES_HU:
            if edge in one["edges"]:
                widths = " | ".join(f"{one['edges'][edge][x]:.2f}" for x in names)
                lines.append(f"| {name} | {edge} | {widths} | {noise} |")
    return "\n".join(lines)


def page(results: dict[str, Any]) -> str:
    """The evidence page of a result file, with its pictures."""
    pictures = "\n".join(f"![{name}: input, denoised, difference]({name}.png)\n" for name in results["series"])
    return f"""# What the shipped weights do to real series

Made by `{results["command"]}`; weights sha256 `{results["weights_sha256"]}`, Python {results["python"]}. The series are
routine-dose CT from The Cancer Imaging Archive, denoised as they are; those marked `held out` in the model card were
not trained on. {NOT_FOR_DIAGNOSIS}

Noise is the median SD over 9x9 pixels in the flattest quarter of the soft tissue; "all soft tissue" is the same median
without that choice, so it holds the edges of organs and vessels, which must stay. Bias is the mean of output minus
input over all pixels of a tissue in all slices, in HU; tissues are masked by the 9x9 in-plane mean of the input.
Edge width is the 10-90% distance of the mean profile across the boundary, on {EDGE_SLICES} slices of each series; the
Gaussian filter and non-local means (scikit-image, patch 5, distance 6) are tuned by bisection to the noise of the
denoised slices.

{markdown(results)}

## Pictures

Window -160 to 240 HU; the difference is shown from -60 to 60 HU.

{pictures}"""


_BIASES = ("fat", "soft tissue", "bone")


def main() -> None:
    """Denoise every series of a folder, judge it, and write results.json, README.md and pictures."""
    from .commands import run_workflow
    from .networks import weights_sha256
    from .workflow import quiet_libraries

    parser = argparse.ArgumentParser(prog="python -m scripts.judge_series", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with one folder of DICOM files per patient")
    parser.add_argument("output", type=Path, help="folder for the result file, tables and pictures")
    parser.add_argument("--work", type=Path, required=True, help="folder for the denoised series; those there are kept")
    parser.add_argument("--weights", type=Path, default=Path(__file__).parents[1] / "models" / "model.pt")
    options = parser.parse_args()
    quiet_libraries()
    results: dict[str, Any] = {
        "command": "make evidence BIOATT_DATA=DATA",
        "weights_sha256": weights_sha256(options.weights),
        "python": platform.python_version(),
        "series": {},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    for name, folder in series_folders(options.data).items():
        target = options.work / results["weights_sha256"][:16] / name
        if not target.exists():
            overrides = {"dataset_dir": str(folder), "output_dir": str(target), "weights": str(options.weights)}
            run_workflow("inference", ["inference.json"], overrides)
        before, after = radiological_slices(folder), radiological_slices(target)
        results["series"][name] = judge_slices(before, after)
        _picture(before, after, options.output / f"{name}.png")
        print(json.dumps({name: results["series"][name]}), flush=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "README.md").write_text(page(results))
    print(markdown(results))


def _picture(before: RadiologicalSlices, after: RadiologicalSlices, path: Path) -> None:
    middle = len(before) // 2 if len(before) > 20 else 0
    comparison_figure(path, {"input": before[middle], "denoised": after[middle]}, ("input", "denoised"))


if __name__ == "__main__":
    main()
