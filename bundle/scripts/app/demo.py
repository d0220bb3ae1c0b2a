"""The demo: a phantom's low-dose DICOM series goes in, a denoised one comes out, compared with the truth."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from ..dicom.phantom import write_ct_series
from ..dose import DoseSimulator, ParallelBeam
from ..dose.image_noise import flat_soft_tissue, noise_sd_hu
from ..errors import BioAttError
from ..evaluation import image_quality
from ..evaluation.figures import picture_rows
from ..strengths import DEFAULT, STRENGTHS
from ..volumes import radiological_slices

SHAPE = (320, 320)
SPACING_MM = 1.0
SLICES = 6
DOSE_FRACTION = 0.25
MARK = ".bioatt-demo"


def run_demo(folder: Path) -> None:
    """Make the phantom at full and at low dose, denoise the low one, print the quality, leave a picture.

    ::

        folder/
          low_dose/   DICOM series, quarter dose
          truth/      DICOM series without noise
          denoised/   derived DICOM series, at the standard strength
          denoised_low/, denoised_high/   the same at the others
          demo.png    one slice of each, and what was taken away
    """
    from ..workflow import run_workflow

    check_former_demo(folder)
    folder.mkdir(parents=True, exist_ok=True)  # it may be a mount point, so it stays itself
    for made in folder.iterdir():
        shutil.rmtree(made) if made.is_dir() and not made.is_symlink() else made.unlink()
    (folder / MARK).write_text("made by `bioatt demo`, which may replace this folder\n")
    print(f"simulating {SLICES} slices of a phantom at a dose fraction of {DOSE_FRACTION:g} ...", flush=True)
    write_phantom(folder / "truth", dose_fraction=1.0)
    write_phantom(folder / "low_dose", dose_fraction=DOSE_FRACTION)
    for strength in STRENGTHS:
        places = {"dataset_dir": str(folder / "low_dose"), "output_dir": str(_result(folder, strength))}
        run_workflow("inference", ["inference.json"], places | {"strength": strength})
    print("\n".join(_compare(folder)))
    print(f"\nDICOM series in {folder / 'denoised'}, picture in {folder / 'demo.png'}")


def write_phantom(folder: Path, *, dose_fraction: float) -> None:
    """Write the phantom as a DICOM series; at a dose fraction under 1 with the noise of that dose."""
    simulator = DoseSimulator(geometry=ParallelBeam(views=400, spacing_mm=SPACING_MM), photons=2.0e5)

    def degrade(hu: np.ndarray, i: int) -> np.ndarray:
        truth = _with_organs(hu, i)
        return simulator.low_dose(truth, dose_fraction, np.random.default_rng([7, i])) if dose_fraction < 1 else truth

    write_ct_series(folder, shape=SHAPE, spacing=(SPACING_MM, SPACING_MM), slices=SLICES, degrade=degrade)


def _with_organs(hu: np.ndarray, i: int) -> np.ndarray:
    """The body with smooth texture and low-contrast spots in its soft tissue, and the blur of a scanner."""
    generator = np.random.default_rng([11, i])
    texture = gaussian_filter(generator.normal(size=hu.shape), 6.0)
    soft = hu == 40.0
    hu = hu + soft * 12.0 * texture / texture.std()
    rows, columns = np.ogrid[: hu.shape[0], : hu.shape[1]]
    for contrast_hu, radius, row, column in ((30.0, 5, 0.62, 0.35), (20.0, 8, 0.62, 0.66), (60.0, 3, 0.36, 0.5)):
        spot = (rows - row * hu.shape[0]) ** 2 + (columns - column * hu.shape[1]) ** 2 < radius**2
        hu = hu + contrast_hu * (spot & soft)
    return gaussian_filter(hu, 0.7)


def check_former_demo(folder: Path) -> None:
    """Raise where `folder` exists and is no former demo, or holds what no demo wrote.

    Raises:
        BioAttError: says which.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / MARK).is_file():
        raise BioAttError(f"{folder} exists and is not a demo; name another folder")
    made = {MARK, "low_dose", "truth", "demo.png", *(_result(folder, strength).name for strength in STRENGTHS)}
    others = sorted({file.name for file in folder.iterdir()} - made) if folder.exists() else []
    if others:
        raise BioAttError(f"{folder} holds {others[0]}, which no demo wrote, and is not replaced; name another folder")


def _result(folder: Path, strength: str) -> Path:
    """Where the result of that strength goes."""
    return folder / ("denoised" if strength == DEFAULT else f"denoised_{strength}")


def _compare(folder: Path) -> list[str]:
    """Compare low dose and denoised with the truth, draw the picture, and return the lines to print."""
    truth, low = (radiological_slices(folder / name) for name in ("truth", "low_dose"))
    images = {"low dose": low} | {name: radiological_slices(_result(folder, name)) for name in STRENGTHS}
    middle = len(truth) // 2
    panels = {"low dose": low[middle], "denoised": images[DEFAULT][middle], "truth": truth[middle]}
    picture_rows(folder / "demo.png", {"": panels}, ("low dose", "denoised"))
    told = f"--strength {', '.join(STRENGTHS)}: abdomen window, against the truth"
    lines = ["", f"{'':<10}{'PSNR (dB)':>12}{'SSIM':>10}{'noise SD (HU)':>16}   {told}"]
    masks = [flat_soft_tissue(truth[i]) for i in range(len(truth))]
    for name, volume in images.items():
        quality = [image_quality(volume[i], truth[i]) for i in range(len(truth))]
        psnr, ssim = (np.mean([one[measure] for one in quality]) for measure in ("psnr_db", "ssim"))
        noise = np.mean([noise_sd_hu(volume[i], mask) for i, mask in enumerate(masks)])
        lines.append(f"{name:<10}{psnr:>12.2f}{ssim:>10.4f}{noise:>16.1f}")
    return lines
