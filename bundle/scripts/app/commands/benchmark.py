"""Measure how fast this machine denoises.

Measure, in turn: the rate of matrix products, RED-CNN in plain PyTorch, the same network by our fastest path, the
default network, and a whole series from reading to writing. Do not use the machine meanwhile. docs/performance.md
explains the figures.
"""

from __future__ import annotations

import argparse

from ..arguments import given


def add(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--output", default="benchmark", metavar="DIR", help="folder for benchmark.json and .md")
    option("--repeats", type=int, default=5, metavar="N", help="runs of each, for the median (default: 5)")
    option("--size", type=int, default=512, metavar="N", help="images are N x N (default: 512)")
    option("--slices", type=int, default=100, metavar="N", help="of the simulated series (default: 100)")
    option("--threads", type=int, metavar="N", help="of PyTorch on the CPU (default: its own choice)")
    option("--series", metavar="PATH", help="a series to denoise instead of a simulated one")
    option("--compile", action="store_true", help="also measure the default network with torch.compile")


def run(options: argparse.Namespace) -> None:
    from ...benchmark.run import run_benchmark, to_markdown

    chosen = given(options, "repeats", "slices", "series", "threads")
    figures = run_benchmark(options.output, shape=(options.size, options.size), compiled=options.compile, **chosen)
    print(to_markdown(figures), end="")
