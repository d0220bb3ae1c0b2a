"""Dict transforms that the configs name besides MONAI's own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor, list_data_collate
from monai.transforms import LoadImaged, MapTransform

from ..errors import BioAttError
from ..hu import hu_to_network, network_to_hu
from .reader import SeriesReader


class LoadSeriesd(LoadImaged):
    """LoadImaged with `SeriesReader` as its one reader, so that its errors are shown and no other reader tries.

    Args:
        keys: where the paths stand.
    """

    def __init__(self, keys: KeysCollection, reader: SeriesReader) -> None:
        super().__init__(keys, reader=reader, image_only=True)
        self._reader = reader

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Load the volumes under `keys` as MetaTensor (X, Y, Z) in HU, in the order of memory that the reader chose."""
        source = reader or self._reader
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            hu, meta = source.get_data(source.read(loaded[key]))  # LoadImaged would copy it into another order
            loaded[key] = MetaTensor(torch.from_numpy(hu), meta=meta)
        return loaded


#: The message for a config of 0.5.0 or older.
HU_UNTIL_THE_INFERER = (
    "the inferer takes HU and gives HU; leave HUToNetworkd out of preprocessing and NetworkToHUd out of postprocessing"
)
#: In the meta of a volume: whether `HUToNetworkd` converted it.
IN_NETWORK_RANGE = "in_network_range"


class HUToNetworkd(MapTransform):
    """HU to network range, (HU + 500) / 500, for pairs in training; `NetworkToHUd` is the way back.

    Nothing is clipped here: the way back gives the HU within float32's rounding (module `hu`). Inference needs neither:
    its inferer takes HU.

    Args:
        keys: where the arrays stand.
        in_place: of inference.json until 0.5.0, refused.
    """

    convert = staticmethod(hu_to_network)
    to_network = True

    def __init__(self, keys: KeysCollection, *, in_place: bool = False) -> None:
        super().__init__(keys)
        if in_place:
            raise BioAttError(f"{type(self).__name__}: {HU_UNTIL_THE_INFERER}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert the arrays under `keys`."""
        converted = {key: self.convert(data[key]) for key in self.key_iterator(data)}
        for volume in converted.values():
            if isinstance(volume, MetaTensor):
                volume.meta[IN_NETWORK_RANGE] = self.to_network
        return dict(data) | converted


class NetworkToHUd(HUToNetworkd):
    """Network range to HU, value * 500 - 500; the inverse of `HUToNetworkd`."""

    convert = staticmethod(network_to_hu)
    to_network = False


def collate_one(batch: Sequence[Mapping[Hashable, Any]]) -> dict[Hashable, Any]:
    """A batch of one volume, in the volume's own memory; for a DataLoader with ``batch_size=1``.

    MONAI's own collating copies: it stacks even a single tensor.

    Raises:
        ValueError: several volumes.
    """
    if len(batch) != 1:
        raise ValueError(f"collate_one makes a batch of one volume, got {len(batch)}; set batch_size to 1")
    (item,) = batch
    # Everything but the pixels as MONAI does it, with an empty array in their place.
    pixels = {key: value for key, value in item.items() if isinstance(value, MetaTensor)}
    hollow = {
        key: MetaTensor(value.as_tensor().new_empty(1), meta=value.meta, applied_operations=value.applied_operations)
        for key, value in pixels.items()
    }
    collated = list_data_collate([{**item, **hollow}])
    for key, value in pixels.items():
        collated[key].data = value.as_tensor()[None]
        collated[key].spatial_ndim = value.ndim - 1
    return collated
