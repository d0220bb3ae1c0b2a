"""Show versions, weights, device and precision.

Show the versions, the bundle's weights and their sha256, and the device and precision that would be used.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...device import find_precision
from ...provenance import bundle_version
from ..entry import BUNDLE_ROOT

_PACKAGES = ("torch", "monai", "pydicom", "nibabel", "numpy")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    told = info()
    if options.json:
        print(json.dumps(told, indent=2))
        return
    packages = ", ".join(f"{name} {number}" for name, number in told["packages"].items())
    lines = told | {"weights": Path(told["weights"]).name, "packages": packages}
    print("\n".join(f"{name:<16}{value}" for name, value in lines.items()))


def info() -> dict[str, Any]:
    """Versions, the bundle's weights with their sha256 and prior, and the device and precision used by default."""
    import torch

    from ...networks import read_recipe, weights_sha256

    weights = BUNDLE_ROOT / "models" / "model.pt"
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    return {
        "version": bundle_version(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "weights": str(weights),
        "weights_sha256": weights_sha256(weights),
        "prior": read_recipe(weights).prior,
        "device": str(device),
        "device_name": torch.cuda.get_device_name() if cuda else platform.machine(),
        "precision": find_precision("auto", device),
    }
