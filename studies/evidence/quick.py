"""Compare weights and strengths in minutes: ``python -m studies.evidence.quick DATA --weights A.pt B.pt``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scripts.pages import table
from scripts.workflow import quiet_libraries

from .bench import HELD_OUT, Bench, Figures
from .methods import blends, gaussians, network_method, parse_settings
from .plane import contrast_at_noise, network_key
from .tables import number, ratio


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; figures that were measured before are read."""
    options = parser().parse_args(arguments)
    quiet_libraries()
    bench = Bench(options.data, options.work, options.held_out, options.slices, options.seed, pairs=options.pairs)
    plain = gaussians()
    baseline = bench.figures("Gaussian", list(plain.settings), lambda: plain)
    rows, old = [], None
    for text, prior, settings in (
        *((text, options.old_prior, blends()) for text in options.old),
        *((text, options.prior, parse_settings(options.settings)) for text in options.weights),
    ):
        weights, _, config = text.partition(":")
        found = bench.figures(
            network_key(Path(weights), config, prior),
            list(settings),
            lambda w=weights, c=config, s=settings, p=prior: network_method(w, Path(w), s, network_config=c, prior=p),
        )
        old = old or next(iter(found.values()))
        rows += [row(Path(weights).name, name, of, baseline, old) for name, of in found.items()]
        if options.by_patient:
            rows += [row(f"  {one}", name, {one: of[one]}, baseline, old) for name, of in found.items() for one in of]
    print(table(HEAD, rows))
    return 0


HEAD = (
    *("weights", "setting", "noise left", "frequency", "4 mm", "6 mm", "10 mm", "15 mm"),
    *("4 mm - Gaussian (least)", "6 mm", "10 mm", "error, body (most)", "edges (most)", "flat (most)", "PSNR"),
)


def row(name: str, setting: str, of: Figures, baseline: Mapping[str, Figures], old: Figures) -> tuple[str, ...]:
    """A line of the table: medians over patients of noise and frequency left, means of the rest.

    Contrast is set against the Gaussian's at the same noise, in points; errors are shares of those of `old`.
    """
    contrast = {d: [one["contrast"][d] for one in of.values() if d in one["contrast"]] for d in ("4", "6", "10", "15")}
    above = {
        d: [
            100.0 * (one["contrast"][d] - contrast_at_noise([b[p] for b in baseline.values()], one["noise_left"], d))
            for p, one in of.items()
        ]
        for d in ("4", "6", "10")
    }
    errors = {
        region: [ratio(one["error_hu2"].get(region), old[p]["error_hu2"].get(region)) for p, one in of.items()]
        for region in ("body", "edges", "flat")
    }
    return (
        *(name, setting),
        f"{np.median([one['noise_left'] for one in of.values()]):.0%}",
        f"{np.nanmedian([one['frequency_left'] or math.nan for one in of.values()]):.0%}",
        *(_cell(shares, ".0%", min) for shares in contrast.values()),
        *(_cell(points, "+.1f", min) for points in above.values()),
        *(_cell(ratios, ".3f", max) for ratios in errors.values()),
        number(np.mean([one["psnr_db"] for one in of.values()])),
    )


def _cell(values: Sequence[float], form: str, worst: Callable[[Sequence[float]], float]) -> str:
    """Mean over patients and the worst of them."""
    known = [value for value in values if not math.isnan(value)]
    return f"{np.mean(known):{form}} ({worst(known):{form}})" if known else "-"


def _pair(text: str) -> tuple[Path, Path]:
    low, equals, full = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: expected LOW=FULL, two folders")
    return Path(low), Path(full)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(prog="python -m studies.evidence.quick", description=__doc__)
    made.add_argument("data", type=Path, help="folder with ct/ and ct_patients/")
    made.add_argument("--weights", nargs="*", default=[], metavar="WEIGHTS.pt[:NETWORK.json]")
    made.add_argument(
        "--settings", nargs="+", default=["0", "0.7", "1.0", "1.6"], metavar="ANCHOR_MM[:GRAIN[:RESTORE]]"
    )
    made.add_argument(
        "--old",
        nargs="*",
        default=[],
        help="weights whose strength was a blend; errors are given as shares of the first's",
    )
    made.add_argument("--prior", default="uniform")
    made.add_argument("--old-prior", default="compact")
    made.add_argument(
        "--work", type=Path, default=Path("runs/evidence/bench"), help="where slices and figures are kept"
    )
    made.add_argument("--held-out", nargs="+", default=HELD_OUT)
    made.add_argument("--pairs", nargs="+", type=_pair, default=[], metavar="LOW=FULL", help="folders of real doses")
    made.add_argument("--slices", type=int, default=4, help="of a patient")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--by-patient", action="store_true", help="a line for each patient too")
    return made


if __name__ == "__main__":
    main()
