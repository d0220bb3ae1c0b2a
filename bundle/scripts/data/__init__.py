"""Studies on disk to volumes in HU and back, pairs for training, and the dict transforms of the configs."""

from .orientation import radiological_slices
from .reader import SeriesReader
from .save import SaveSeries
from .simulated import simulated_pairs
from .transforms import HUToNetworkd, LoadPaird, LoadSeriesd, NetworkToHUd, denser_than_air
from .volume import Volume, find_inputs, load_volume

__all__ = [
    "HUToNetworkd",
    "LoadPaird",
    "LoadSeriesd",
    "NetworkToHUd",
    "SaveSeries",
    "SeriesReader",
    "Volume",
    "denser_than_air",
    "find_inputs",
    "load_volume",
    "radiological_slices",
    "simulated_pairs",
]
