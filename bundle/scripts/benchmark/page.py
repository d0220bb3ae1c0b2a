"""The benchmark's figures as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..markdown import table


def to_markdown(figures: dict[str, Any]) -> list[str]:
    """The figures of `run_benchmark` as a page."""
    machine, series = figures["machine"], figures["series"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = ("read", "prior", "network", "write")
    times = series["times_as_fast_as_stock"]
    path = "which with anchoring and the box of the body is"
    against = "" if times is None else f", {path} {times:.1f} times stock RED-CNN"
    lines = [
        "# Speed",
        "",
        f"A whole {series['source']} series of {series['slices']} slices on {series['device']}: "
        f"{series['seconds']:.1f} s, {series['seconds_per_slice']:.3f} s a slice; "
        f"{series['around_the_network']:.0%} on top of the network{against}.",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['instructions']}{gpu}; {machine['system']}; {versions}.",
        f"One slice of {figures['shape'][0]} x {figures['shape'][1]}, medians of {figures['repeats']}, candidates in "
        "turn; a series, a product and a training are timed once, on one machine, so no figure here has an interval. "
        "Made by `bioatt benchmark`; docs/performance.md explains the columns.",
        "",
        _networks_table(figures["networks"]),
    ]
    lines += ["", *(f"- {note}" for note in figures["notes"])]
    for one in figures["rooflines"]:
        lines.append(
            f"- Roofline of {one['device']} in {one['precision']}: {one['gflop_per_second']:.0f} GFLOP/s, {one['name']}"
        )
    lines += [
        "",
        table(
            ("dense product", "device", "precision", "GFLOP/s"),
            [
                (row["name"], row["device"], row["precision"], f"{row['gflop_per_second']:.0f}")
                for row in figures["products"]
            ],
        ),
        "",
        table(parts, [[f"{series[f'{part}_seconds']:.2f} s" for part in parts]]),
    ]
    return lines


def _networks_table(networks: Sequence[dict[str, Any]]) -> str:
    columns = ("network", "device", "precision", "s/slice", "GFLOP", "GFLOP/s", "of the roofline", "peak memory")
    rows = [
        (
            row["name"],
            row["device"],
            row["precision"],
            f"{row['seconds_per_slice']:.4f}",
            f"{row['gflop_per_slice']:.1f}",
            f"{row['gflop_per_second']:.0f}",
            f"{row['share_of_roofline']:.0%}",
            "not known" if row["peak_memory_mib"] is None else f"{row['peak_memory_mib']:.0f} MiB",
            f"{row['times_as_fast_as_stock']:.2f} x",
        )
        for row in networks
    ]
    return table((*columns, "against stock"), rows)
