"""Low dose from full dose: projection, photon noise, and the reconstruction of the noise alone."""

from .geometry import PROJECTORS, ParallelBeam
from .simulate import DoseSimulator, added_noise_sinogram, calibrate_on_series, calibrate_photons, modulated

__all__ = [
    "PROJECTORS",
    "DoseSimulator",
    "ParallelBeam",
    "added_noise_sinogram",
    "calibrate_on_series",
    "calibrate_photons",
    "modulated",
]
