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

from scripts.markdown import table
from scripts.progress import bar
from scripts.staging import staged_file

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
    """The tables about the GPU."""
    parity, product = measured["parity"], measured["matrix_product_tflops"]
    lines = [f"{measured['device']}, PyTorch {measured['torch'].partition('+')[0]}. Slices of 512 x 512.", ""]
    speeds = [
        (
            name,
            row["dtype"],
            row["batch"],
            f"{row['ms_per_slice']:.2f}",
            "" if row["memory_mib"] is None else f"{row['memory_mib']:.0f}",
        )
        for name in ("default network", "stock RED-CNN")
        for row in measured[name]
    ]
    lines += [table(("network", "precision", "batch", "ms a slice", "memory, MiB"), speeds), ""]
    rows = {
        "matrix product, TFLOP/s": [f"{product[one]:.0f}" for one in ("fp32", "bf16")],
        "against fp32 on a CPU, RMS in HU": [f"{parity[one]['rms_hu']:.2f}" for one in ("fp32", "bf16")],
        "largest difference in HU": [f"{parity[one]['largest_hu']:.1f}" for one in ("fp32", "bf16")],
    }
    return [*lines, table(("", "fp32", "bf16"), [(name, *cells) for name, cells in rows.items()])]


def put(page: str, mark: str, lines: Sequence[str]) -> str:
    """`page` with `lines` between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    before, begin, rest = page.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not begin or not end:
        raise ValueError(f"the page has no place for {mark}: wanted <!-- {mark} --> and <!-- /{mark} -->")
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
        with staged_file(RESULTS / "body_boxes.json") as file:
            file.write_text(json.dumps(measure_boxes(options.data), indent=2) + "\n", encoding="utf-8")
    with staged_file(PAGE) as file:
        file.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
