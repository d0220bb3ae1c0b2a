"""What docs/performance.md says of body boxes and of the GPU, written from measurements.

    PYTHONPATH=bundle:. python -m studies.speed_page [DATA ...]

With DATA, folders with CT, the boxes of its series are measured first; without it, both tables are written again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.pages import table
from scripts.progress import bar
from scripts.staging import staged_file, write_json

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "docs" / "evidence" / "results"
#: Slices of each series that are looked at, evenly spread.
SLICES = 4


def measure_boxes(data: Sequence[Path]) -> dict[str, Any]:
    """For each folder of slices in the folders `data`: how much of their pixels the default network is shown.

    Returns:
        ``series``: folder to ``slices``, ``air`` (how many of them are air alone) and ``share``, their mean.
    """
    from scripts.networks import BioAttUNet

    network, found = BioAttUNet(), {}
    folders = sorted({(top, file.parent) for top in data for file in top.rglob("*.dcm")})
    with bar(len(folders), "boxes", unit="series") as advance:
        for top, folder in folders:
            files = sorted(folder.glob("*.dcm"))
            chosen = files[:: max(1, len(files) // SLICES)][:SLICES]
            shares = [_share(file, network.margin, network.multiple) for file in chosen]
            found[folder.relative_to(top).as_posix()] = {
                "slices": len(shares),
                "air": shares.count(0.0),
                "share": statistics.mean(shares),
            }
            advance(1)
    return {"margin": network.margin, "series": found}


def _share(file: Path, margin: int, multiple: int) -> float:
    """Share of a slice's pixels that lie in the box of its body."""
    import pydicom
    import torch
    from scripts.hu import VALID_RANGE_HU, hu_to_network
    from scripts.inference.body import body_box, occupied_blocks

    image = pydicom.dcmread(file)
    hu = torch.from_numpy(image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept))
    shape = tuple(hu.shape)
    box = body_box(occupied_blocks(hu_to_network(hu.clamp(*VALID_RANGE_HU))[None]), shape, margin, multiple)
    if box is None:
        return 0.0
    (top, bottom), (left, right) = box
    return (bottom - top) * (right - left) / (shape[0] * shape[1])


def box_lines(measured: dict[str, Any]) -> list[str]:
    """The sentences about boxes, and the series that lose most and least."""
    series = measured["series"]
    shares = sorted(1 - one["share"] for one in series.values())
    lines = [
        f"Of {len(series)} series ({sum(one['slices'] for one in series.values())} slices looked at, "
        f"{sum(one['air'] for one in series.values())} of them air), with {measured['margin']} pixels of margin, "
        f"{statistics.mean(shares):.0%} of the pixels are left out in the mean and {statistics.median(shares):.0%} in "
        f"the median; {sum(share >= 1 / 3 for share in shares)} series lose a third or more.",
        "",
    ]
    rows = [(name, one["slices"], f"{1 - one['share']:.0%}") for name, one in series.items()]
    return [*lines, table(("series", "slices", "pixels left out"), rows)]


def gpu_lines(measured: dict[str, Any]) -> list[str]:
    """The tables about the GPU; of parts that were not measured, none."""
    side = measured.get("side", 512)
    lines = [f"{measured['device']}, PyTorch {measured['torch'].partition('+')[0]}. Slices of {side} x {side}.", ""]
    tables = (_series_lines, _training_lines, _speed_lines, _parity_lines)
    return [*lines, *(line for one in tables if (some := one(measured)) for line in [*some, ""])][:-1]


def _series_lines(measured: dict[str, Any]) -> list[str]:
    """A series from DICOM to DICOM."""
    if "whole series" not in measured:
        return []
    names = ("loading_seconds", "read_seconds", "prior_seconds", "network_seconds", "write_seconds", "seconds")
    rows = [(f"{what} run", *(f"{run[name]:.2f}" for name in names)) for what, run in measured["whole series"].items()]
    slices = measured["whole series"]["first"]["slices"]
    return [
        f"A synthetic series of {slices} slices from DICOM to DICOM, in seconds after the imports. The first run "
        "starts the GPU and loads its kernels, as every command does. *Network* is with copies to the device and "
        "anchoring; loading the weights is not in the sum.",
        "",
        table(("", "loading the weights", "read", "prior", "network", "write", "sum"), rows),
    ]


def _training_lines(measured: dict[str, Any]) -> list[str]:
    if "training" not in measured:
        return []
    told = measured["training"]
    return [
        f"Training with batches of 16 patches: {told['steps_per_second']:.0f} steps a second; "
        f"{told['waiting_for_data']:.0%} of a step waits for data ({told['steps']} steps)."
    ]


def _speed_lines(measured: dict[str, Any]) -> list[str]:
    """Networks by batch and precision, and the inferer around the default one."""
    product, gflop = measured["matrix_product_tflops"], measured.get("gflop_per_slice")
    speeds = []
    for what, name in (("default network", "default network"), ("default network, compiled", "compiled")):
        for row in measured.get(name, []):
            # GFLOP/ms are TFLOP/s
            share = gflop and f"{gflop / row['ms_per_slice'] / product[row['dtype']]:.0%}"
            speeds.append((what, row, share or ""))
    speeds += [("stock RED-CNN", row, "") for row in measured.get("stock RED-CNN", [])]
    rows = [
        (
            name,
            row["dtype"],
            row["batch"],
            f"{row['ms_per_slice']:.2f}",
            share,
            "" if row["memory_mib"] is None else f"{row['memory_mib']:.0f}",
        )
        for name, row, share in speeds
    ]
    lines = [table(("network", "precision", "batch", "ms a slice", "of the matrix product", "memory, MiB"), rows)]
    if "inferer" in measured:
        told = ", ".join(f"{row['ms_per_slice']:.2f} ({row['batch']})" for row in measured["inferer"])
        lines += ["", f"With body box and anchoring on the device, ms a slice (batch): {told}."]
    return lines


def _parity_lines(measured: dict[str, Any]) -> list[str]:
    """Matrix product, and differences from a CPU."""
    product = measured["matrix_product_tflops"]
    rows = {"matrix product, TFLOP/s": [f"{product[one]:.0f}" for one in ("fp32", "bf16")]}
    kinds = (
        ("parity", "bare, white noise"),
        ("anchored parity", "anchored at standard, noise with the spectrum of CT"),
    )
    for name, words in kinds:
        if name in measured:
            parity = measured[name]
            rows |= {
                f"against fp32 on a CPU, RMS in HU ({words})": [
                    f"{parity[one]['rms_hu']:.2f}" for one in ("fp32", "bf16")
                ],
                f"largest difference in HU ({words})": [f"{parity[one]['largest_hu']:.1f}" for one in ("fp32", "bf16")],
            }
    return [table(("", "fp32", "bf16"), [(name, *cells) for name, cells in rows.items()])]


def put(page: str, mark: str, lines: Sequence[str]) -> str:
    """`page` with `lines` between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    before, begin, rest = page.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not begin or not end:
        raise ValueError(f"the page has no place for {mark}: expected <!-- {mark} --> and <!-- /{mark} -->")
    return "".join([before, begin, "\n".join(lines), "\n", end, after])


def written(page: str) -> str:
    """`page` with both tables from their JSON files."""
    for mark, file, lines in (("boxes", "body_boxes.json", box_lines), ("gpu", "gpu.json", gpu_lines)):
        page = put(page, mark, lines(json.loads((RESULTS / file).read_text(encoding="utf-8"))))
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, if there is data, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m studies.speed_page", description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    if options.data:
        write_json(RESULTS / "body_boxes.json", measure_boxes(options.data))
    with staged_file(PAGE) as file:
        file.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
