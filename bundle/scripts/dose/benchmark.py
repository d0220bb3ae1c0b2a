"""CPU seconds to simulate a slice with each projector: ``python -m scripts.dose.benchmark``, bundle/ on the path."""

from __future__ import annotations

import argparse
import time

import numpy as np

from .geometry import PROJECTORS, ParallelBeam
from .simulate import DoseSimulator


def seconds_per_slice(projector: str, pixels: int = 512, views: int = 1000, slices: int = 3) -> dict[str, float]:
    """Seconds of the processor to simulate a slice of a water cylinder of 300 mm; both projectors use one core.

    Returns:
        ``project``, ``noise``, ``reconstruct`` and all three as ``slice``: medians over `slices`; and ``first``: the
        slice before them, which builds what the projector keeps.
    """
    spacing_mm = 360.0 / pixels
    rows, columns = np.ogrid[:pixels, :pixels]
    water = np.hypot(rows - pixels // 2, columns - pixels // 2) * spacing_mm <= 150.0
    full_hu = np.where(water, 0.0, -1000.0).astype(np.float32)
    simulator = DoseSimulator(geometry=ParallelBeam(views=views, spacing_mm=spacing_mm, projector=projector))
    simulator.geometry.project(np.full((16, 16), -1000.0))  # the libraries' own loading is not part of it
    totals, parts = [], []
    for seed in range(slices + 1):
        begin = time.process_time()
        line_integrals = simulator.geometry.project(full_hu)
        projected = time.process_time()
        simulator.low_dose(full_hu, 0.25, np.random.default_rng(seed), "hann", line_integrals)
        end = time.process_time()
        simulator.geometry.reconstruct(line_integrals, "hann")
        reconstruct = time.process_time() - end
        totals.append(end - begin)
        parts.append((projected - begin, end - projected - reconstruct, reconstruct))
    project, noise, reconstruct = np.median(parts[1:], axis=0)
    return {
        "project": float(project),
        "noise": float(noise),
        "reconstruct": float(reconstruct),
        "slice": float(np.median(totals[1:])),
        "first": totals[0],
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m scripts.dose.benchmark", description=__doc__)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--views", type=int, default=1000)
    options = parser.parse_args()
    print(f"{options.pixels} x {options.pixels} pixels, {options.views} views; CPU s per slice")
    print(f"{'projector':<14}{'project':>9}{'noise':>9}{'reconstruct':>13}{'slice':>9}{'first':>9}")
    for projector in PROJECTORS:
        one = seconds_per_slice(projector, options.pixels, options.views)
        times = f"{one['project']:>9.2f}{one['noise']:>9.2f}{one['reconstruct']:>13.2f}"
        print(f"{projector:<14}{times}{one['slice']:>9.2f}{one['first']:>9.2f}")


if __name__ == "__main__":
    main()
