"""Comparison of networks, priors, seeds and patients left out: what `bioatt ablate` does."""

from .report import verdict
from .run import record_name, swap_priors
