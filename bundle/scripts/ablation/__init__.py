"""Comparison of networks, priors, seeds and patients left out: what `bioatt ablate` does."""

from .run import swap_priors

__all__ = ["swap_priors"]
