"""The body on disk: the demo's series is the plain one of the tests."""

from __future__ import annotations

import numpy as np
import phantom
from scripts.dicom import read_volume, select_series
from scripts.dicom.phantom import write_ct_series


def test_the_series_of_the_demo_is_the_plain_one_of_the_tests(tmp_path):
    kwargs = {"shape": (40, 32), "slices": 3, "spacing": (1.0, 2.0), "seed": 5}
    ours = select_series(write_ct_series(tmp_path / "ours", **kwargs))
    theirs = select_series(phantom.write_ct_series(tmp_path / "theirs", **kwargs))
    np.testing.assert_array_equal(read_volume(ours), read_volume(theirs))
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    for name in ("series_instance_uid", "sop_instance_uids", "description", "kernel", "slice_thickness_mm"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_an_image_is_made_of_the_body(tmp_path):
    seen = []

    def degrade(hu, i):
        seen.append(hu)
        return np.full(hu.shape, 10.0 * i)

    series = select_series(write_ct_series(tmp_path / "in", slices=2, degrade=degrade))
    np.testing.assert_array_equal(read_volume(series), np.stack([np.full((48, 64), 10.0 * i) for i in range(2)]))
    assert seen[0].min() == -1000.0 and seen[0].max() == 700.0
