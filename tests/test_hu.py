"""HU and network range are inverses within rounding; windows clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripts.hu import VALID_RANGE_HU, WINDOWS_HU, hu_to_network, network_to_hu, to_window

# Steps of 1/8 HU over the whole 12-bit range: each value is exact in float32.
HU = np.arange(-1024.0, 3071.0, 0.125)


@pytest.mark.parametrize(("hu", "value"), [(-1000.0, -1.0), (-500.0, 0.0), (-375.0, 0.25), (0.0, 1.0), (1000.0, 3.0)])
def test_known_values_both_ways(hu, value):
    assert hu_to_network(hu) == value
    assert network_to_hu(value) == hu


def test_network_range_is_the_papers():
    np.testing.assert_array_equal(hu_to_network(HU), (HU + 500.0) / 500.0)


@pytest.mark.parametrize(("dtype", "tolerance_hu"), [(np.float32, 5e-4), (np.float64, 1e-12)])
def test_round_trip_numpy(dtype, tolerance_hu):
    hu = HU.astype(dtype)
    back = network_to_hu(hu_to_network(hu))
    assert back.dtype == dtype
    np.testing.assert_allclose(back, hu, rtol=0, atol=tolerance_hu)


@pytest.mark.parametrize(("dtype", "tolerance_hu"), [(torch.float32, 5e-4), (torch.float64, 1e-12)])
def test_round_trip_torch(dtype, tolerance_hu):
    hu = torch.from_numpy(HU).to(dtype)
    back = network_to_hu(hu_to_network(hu))
    assert back.dtype == dtype
    torch.testing.assert_close(back, hu, rtol=0, atol=tolerance_hu)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_gives_the_same_whole_hu_when_rounded(dtype):
    hu = np.arange(VALID_RANGE_HU[0], VALID_RANGE_HU[1] + 1, dtype=dtype)
    np.testing.assert_array_equal(np.rint(network_to_hu(hu_to_network(hu))), hu)


@pytest.mark.parametrize("limit", [4096, 1 << 15, 1 << 20])
def test_float32_rounds_no_more_than_is_said(limit):
    whole = np.arange(-limit, limit + 1, dtype=np.float32)
    for hu in (whole, np.random.default_rng(0).uniform(-limit, limit, 100_000).astype(np.float32)):
        loss = np.abs(network_to_hu(hu_to_network(hu)).astype(np.float64) - hu)
        assert 0 < loss.max() and (loss <= (np.abs(hu) + 1000) / 2**23).all()
    np.testing.assert_array_equal(np.rint(network_to_hu(hu_to_network(whole))), whole)


def test_numpy_and_torch_agree():
    torch.testing.assert_close(hu_to_network(torch.from_numpy(HU)), torch.from_numpy(hu_to_network(HU)))
    torch.testing.assert_close(
        to_window(torch.from_numpy(HU), (-160.0, 240.0)), torch.from_numpy(to_window(HU, (-160.0, 240.0)))
    )


def test_input_is_not_changed():
    hu = HU.copy()
    hu_to_network(hu), network_to_hu(hu), to_window(hu, (0.0, 80.0))
    np.testing.assert_array_equal(hu, HU)


@pytest.mark.parametrize("name", sorted(WINDOWS_HU))
def test_named_window_runs_from_zero_to_one(name):
    lower, upper = WINDOWS_HU[name]
    hu = np.array([lower - 500.0, lower, lower + (upper - lower) / 4, (lower + upper) / 2, upper, upper + 500.0])
    np.testing.assert_allclose(to_window(hu, WINDOWS_HU[name]), [0.0, 0.0, 0.25, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("window_hu", [(240.0, -160.0), (40.0, 40.0), (float("nan"), 40.0)])
def test_window_without_width_is_refused(window_hu):
    with pytest.raises(ValueError, match="lower < upper, got"):
        to_window(HU, window_hu)
