"""Volumes in HU: formats on disk, reader, orientation, check of scope, saving."""

from .orientation import OrientSlicesd, radiological_slices
from .reader import SeriesReader
from .save import SaveSeries
from .scope import CheckScoped
from .transforms import HUToNetworkd, LoadSeriesd, NetworkToHUd, collate_one
from .volume import Volume, find_inputs, load_volume
