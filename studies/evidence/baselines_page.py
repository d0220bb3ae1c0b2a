"""What docs/evidence/baselines.md says of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.markdown import table

from . import plots
from .tables import limits_table, number

Results = dict[str, Any]


def baselines_section(one: Results, results: Path) -> str:
    """Networks on equal terms."""
    plots.plot_curves(results / "baselines_curves.png", one["curves"])
    recipe = one["recipe"]
    patch = "x".join(map(str, recipe["patch_shape"]))
    quality = one["quality"]
    return f"""## What is compared

{table(("name", "network", "parameters", "weights sha256"), _networks(one))}

All are trained by {" and ".join(f"`{name}`" for name in recipe["configs"])} of bundle/configs: the same targets and
low doses, {recipe["patches_a_step"]} patches of {patch} a step, from scratch. `network` is the weights named above; the
networks differ in nothing else but form and number of steps, which the curves show (`make baselines`). No network of
the comparison saw the patients below.

## Quarter dose, patients left out

Simulated at {quality["dose_fraction"]:g}, against the full dose in the window -160 to 240 HU, as in
[quality](quality.md).

{limits_table(one["limits"])}

{table(("patient", "image", "PSNR (dB)", "gain (dB)", "SSIM", "RMSE (HU)", "noise (HU)"), _quality(quality))}

## Have they learned all they can?

PSNR of quarter doses of the validation patient during the training; its last fifth tells whether it was still rising.
The learning rate falls to 0, so a curve ends flat by itself: it shows that more of this schedule gives nothing, not
that no longer one would.

{table(("name", "steps", "patches", "PSNR at the end (dB)", "highest", "gained in the last fifth"), _curves(one))}

![PSNR of the validation patient against steps](results/baselines_curves.png)

## Texture

The water phantom of [texture](texture.md).

{table(("name", "noise left (HU)", "peak moved", *_contrasts(one)), _texture(one))}"""


def _networks(one: Results) -> list[tuple[Any, ...]]:
    return [
        (name, record["network"], f"{record['parameters']:,}", f"`{record['weights_sha256'][:16]}`")
        for name, record in one["networks"].items()
    ]


def _quality(quality: Results) -> list[tuple[Any, ...]]:
    rows = []
    for patient, mean in quality["patients"].items():
        for image in (name for name in mean if name != "slices"):
            gain = quality["gain"][patient].get(image)
            measures = mean[image]
            rows.append(
                (patient, image, number(measures["psnr_db"]), f"{gain['psnr_db']:+.2f}" if gain else "")
                + (number(measures["ssim"], ".4f"), number(measures["rmse_hu"]), number(measures["noise_sd_hu"], ".1f"))
            )
    return rows


def _curves(one: Results) -> list[tuple[Any, ...]]:
    rows = []
    for name, curve in one["curves"].items():
        last = curve[-1]
        before = [point for point in curve if point["steps"] <= 0.8 * last["steps"]][-1]
        highest = max(point["psnr_db"] for point in curve)
        rows.append(
            (name, last["steps"], f"{last['steps'] * one['recipe']['patches_a_step']:,}", number(last["psnr_db"]))
            + (number(highest), f"{last['psnr_db'] - before['psnr_db']:+.2f}")
        )
    return rows


def _contrasts(one: Results) -> list[str]:
    return [f"TTF50 at {contrast} HU" for contrast in next(iter(one["texture"].values()))["ttf50_share"]]


def _texture(one: Results) -> list[tuple[Any, ...]]:
    return [
        (name, number(texture["sd_hu"], ".1f"), number(texture["peak_moved"], ".0%"))
        + tuple(number(share, ".0%") for share in texture["ttf50_share"].values())
        for name, texture in one["texture"].items()
    ]
