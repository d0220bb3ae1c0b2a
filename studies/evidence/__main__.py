"""Measure the weights on real and simulated data: ``python -m studies.evidence DATA OUT``, bundle/ on the path."""

from __future__ import annotations

from .command import main

if __name__ == "__main__":
    main()
