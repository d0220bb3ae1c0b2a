"""CT series in DICOM: find and check them, read them as HU, write a derived series.

What is not a series of CT images in HU, single-frame or Enhanced, is refused with one line that says what to do.
Nothing here logs or shows a value of the Patient or Study modules; UIDs of series and instances and paths are shown.
"""

from .find import KnownSeries, find_series, select_series
from .padding import padding_mask
from .pixels import read_frames
from .processes import FileProcesses
from .read import MAX_VOXELS, read_volume
from .rules import DerivedRules
from .series import Series
from .write import check_stable_uids, write_derived_series
