"""Segmentation by TotalSegmentator of a low-dose and a denoised volume against that of the full dose.

    PYTHONPATH=bundle python -m studies.segmentation FULL.nii.gz OUT LOW.nii.gz DENOISED.nii.gz

TotalSegmentator and its weights are not part of the project: ``pip install TotalSegmentator``; it fetches its weights
when it first runs. Source: Wasserthal et al., Radiol Artif Intell 5 (2023) e230024.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scripts.errors import BioAttError
from scripts.staging import write_json

COMMAND = "TotalSegmentator"
#: Structures of fewer voxels in the full dose are left out: a voxel more or less decides their coefficient.
FEWEST = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 done, 2 input or usage."""
    parser = argparse.ArgumentParser(prog="python -m studies.segmentation", description=__doc__.splitlines()[0])
    parser.add_argument("full", type=Path, help="full dose, NIfTI in HU")
    parser.add_argument("output", type=Path, help="folder for the masks and dice.json")
    parser.add_argument("images", type=Path, nargs="+", help="what is compared with it, on the same grid")
    parser.add_argument("--fast", action="store_true", help="3 mm in place of 1.5 mm")
    chosen = parser.parse_args(arguments)
    try:
        compared = compare(chosen.full, chosen.images, chosen.output, fast=chosen.fast)
    except BioAttError as error:
        print(f"error: {error}")
        return 2
    write_json(chosen.output / "dice.json", compared)
    for name, of in compared.items():
        print(
            f"{name}: {len(of)} structures, median Dice {np.median(list(of.values())):.3f}" if of else f"{name}: none"
        )
    return 0


def compare(full: Path, images: Sequence[Path], output: Path, *, fast: bool = False) -> dict[str, Any]:
    """Name of each image to structure (the label's number) to the Dice coefficient with the full dose's.

    Raises:
        BioAttError: TotalSegmentator is missing or fails, or an image has another grid.
    """
    wanted = segmented(full, output / "full", fast)
    return {image.name: overlaps(wanted, segmented(image, output / image.name, fast), image) for image in images}


def segmented(image: Path, folder: Path, fast: bool) -> np.ndarray:
    """Labels of the structures in an image, by TotalSegmentator; 0 is none."""
    import nibabel

    if shutil.which(COMMAND) is None:
        raise BioAttError(f"{COMMAND} is not installed; pip install TotalSegmentator, where there is a network")
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / "labels.nii.gz"
    words = [COMMAND, "-i", str(image), "-o", str(labels), "--ml", *(["--fast"] if fast else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode or not labels.is_file():
        raise BioAttError(f"{COMMAND} failed on {image}: {done.stderr.strip()[-500:] or 'no labels were written'}")
    return np.asarray(nibabel.load(labels).dataobj).astype(np.int32)


def overlaps(wanted: np.ndarray, found: np.ndarray, image: Path) -> dict[str, float]:
    """Structure to Dice coefficient, of those with `FEWEST` voxels or more in `wanted`.

    Raises:
        BioAttError: both differ in shape.
    """
    if wanted.shape != found.shape:
        raise BioAttError(f"{image} has {found.shape} voxels, the full dose {wanted.shape}; give images of one grid")
    most = int(max(wanted.max(), found.max())) + 1
    sizes, others = (np.bincount(one.ravel(), minlength=most) for one in (wanted, found))
    common = np.bincount(wanted[wanted == found], minlength=most)
    structures = [label for label in range(1, most) if sizes[label] >= FEWEST]
    return {str(label): float(2 * common[label] / (sizes[label] + others[label])) for label in structures}


if __name__ == "__main__":
    raise SystemExit(main())
