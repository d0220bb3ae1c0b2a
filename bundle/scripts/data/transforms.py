"""Dict transforms that the configs name besides MONAI's own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader
from monai.transforms import LoadImaged, MapTransform, RandomizableTransform

from ..hu import hu_to_network, network_to_hu
from .reader import SeriesReader


class LoadSeriesd(LoadImaged):
    """LoadImaged with `SeriesReader` as its one reader, so that its errors are told and no other reader tries.

    Args:
        keys: where the paths stand.
        reader: the reader.
    """

    def __init__(self, keys: KeysCollection, reader: SeriesReader) -> None:
        super().__init__(keys, reader=reader, image_only=True)
        self._reader = reader

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Load the volumes under `keys` as MetaTensor (X, Y, Z) in HU."""
        return super().__call__(data, reader=reader or self._reader)


class HUToNetworkd(MapTransform):
    """HU to network range, (HU + 500) / 500; `NetworkToHUd` is the way back.

    Nothing is clipped here, so the way back is exact; the inferer keeps padding and metal from the network.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert the arrays under `keys`."""
        return dict(data) | {key: hu_to_network(data[key]) for key in self.key_iterator(data)}


class NetworkToHUd(MapTransform):
    """Network range to HU, value * 500 - 500; the inverse of `HUToNetworkd`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert the arrays under `keys`."""
        return dict(data) | {key: network_to_hu(data[key]) for key in self.key_iterator(data)}


class LoadPaird(RandomizableTransform, MapTransform):
    """One low-dose realisation of a cached pair, drawn anew each time, with its full dose and its prior.

    Takes ``{"pair": CachedPair}`` (see `simulated_pairs`) and gives ``image`` and ``label`` (1, H, W) in HU, and
    ``prior`` (K,), all of one slice, and whose ``patient`` it is.

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
        chosen = self.realisation if self.realisation is not None else int(self.R.randint(len(lows)))
        return {
            "image": torch.from_numpy(lows[chosen].astype(np.float32))[None],
            "label": torch.from_numpy(full.astype(np.float32))[None],
            "prior": torch.from_numpy(priors[chosen]),
            "patient": pair.patient,
        }


def denser_than_air(hu: torch.Tensor) -> torch.Tensor:
    """Where the body and its couch are: above -500 HU."""
    return hu > -500.0
