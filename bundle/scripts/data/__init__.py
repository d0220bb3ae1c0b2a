"""Studies on disk to volumes in HU and back, pairs for training, and the dict transforms of the configs."""

from .orientation import OrientSlicesd, radiological_slices
from .pair_dataset import PairDataset
from .pairs import training_pairs
from .patches import EpochSampler, GridPatchd, RandPairPatchesd, SeededDataset, grid_patches
from .reader import SeriesReader
from .save import SaveSeries
from .scope import CheckScoped, scope_path, write_scope
from .splits import make_split
from .studies import find_studies
from .targets import CleanedTargets, make_targets
from .transforms import HUToNetworkd, LoadPaird, LoadSeriesd, NetworkToHUd, collate_one
from .volume import Volume, find_inputs, load_volume

__all__ = [
    "CheckScoped",
    "CleanedTargets",
    "EpochSampler",
    "GridPatchd",
    "HUToNetworkd",
    "LoadPaird",
    "LoadSeriesd",
    "NetworkToHUd",
    "OrientSlicesd",
    "PairDataset",
    "RandPairPatchesd",
    "SaveSeries",
    "SeededDataset",
    "SeriesReader",
    "Volume",
    "collate_one",
    "find_inputs",
    "find_studies",
    "grid_patches",
    "load_volume",
    "make_split",
    "make_targets",
    "radiological_slices",
    "scope_path",
    "training_pairs",
    "write_scope",
]
