"""Where the tests find the bundle and, if there is any, real data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # they share the cores; before PyTorch counts them
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundle"
for place in (BUNDLE, ROOT / "tests", ROOT / "docs", ROOT):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    """The bundle's folder."""
    return BUNDLE


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real CT named by BIOATT_DATA; skips without it, fails under BIOATT_DATA_REQUIRED."""
    named = os.environ.get("BIOATT_DATA", "")
    if named and (Path(named) / "ct").is_dir():
        return Path(named).resolve()
    message = f"BIOATT_DATA must name a folder with real CT in ct/, got {named!r}"
    if os.environ.get("BIOATT_DATA_REQUIRED"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Untrained weights of the default network whose output differs visibly and hangs on its prior; to read alone."""
    from made_studies import save_default_network

    return save_default_network(tmp_path_factory.mktemp("weights") / "lively.pt")


@pytest.fixture(scope="session")
def real_slices(data_dir) -> list:
    """The middle slice (H, W) of each series in ct/, in HU."""
    import numpy as np
    import pydicom
    import torch

    slices = []
    for folder in sorted((data_dir / "ct").iterdir()):
        files = sorted(folder.rglob("*.dcm"))
        image = pydicom.dcmread(files[len(files) // 2])
        hu = image.pixel_array.astype(np.float32) * float(image.RescaleSlope) + float(image.RescaleIntercept)
        slices.append(torch.from_numpy(hu))
    return slices


@pytest.fixture(scope="session")
def shipped_network():
    """The bundle's own weights in their network, as inference loads them."""
    from scripts.networks import load_weights, make_network, read_recipe

    weights = BUNDLE / "models" / "model.pt"
    return load_weights(make_network(read_recipe(weights)), weights)


@pytest.fixture
def no_figures(monkeypatch):
    """`bioatt explain` without its pictures, which take most of its time; report/test_explain.py looks at them."""
    for name in ("attention_figure", "swap_figure"):
        monkeypatch.setattr(f"scripts.report.explain.{name}", lambda path, *rest: path.touch())


@pytest.fixture(scope="module")
def here():
    """Address of a scheduler whose worker is a thread of this process: Dask without the start of processes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster.scheduler_address
