"""Loads a cached pair: one low dose of a slice, drawn anew each time, with its full dose and its prior."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform


class LoadPaird(RandomizableTransform, MapTransform):
    """One low-dose realisation of a cached pair, drawn anew each time, with its full dose and its prior.

    Takes ``{"pair": CachedPair}`` (see `training_pairs`) and gives ``image`` and ``label`` (1, H, W) in HU, and
    ``prior`` (K,) or (K, h, w), all of one slice, with its ``spacing_mm`` (2,), of rows and columns, NaN where it is
    not known, its ``patient`` (pseudonym), ``region`` and ``uid``; other keys are kept.

    Args:
        keys: where the pair stands, usually ``pair``.
        realisation: take this one always, as validation does; None draws.
    """

    def __init__(self, keys: KeysCollection = "pair", realisation: int | None = None) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.realisation = realisation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the pair."""
        pair = data[self.keys[0]]
        full, lows, priors = pair.load()
        spacing_mm = pair.facts.pixel_spacing_mm
        chosen = self.realisation if self.realisation is not None else int(self.R.randint(len(lows)))
        return {key: value for key, value in data.items() if key != self.keys[0]} | {
            "image": torch.from_numpy(lows[chosen].astype(np.float32))[None],
            "label": torch.from_numpy(full.astype(np.float32))[None],
            "prior": torch.from_numpy(priors[chosen]),
            "spacing_mm": torch.full((2,), math.nan if spacing_mm is None else spacing_mm),
            "patient": pair.patient,
            "region": pair.region,
            "uid": pair.uid,
        }
