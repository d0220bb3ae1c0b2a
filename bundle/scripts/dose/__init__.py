"""Low dose from full dose: projection, photon noise, and the reconstruction of the noise alone."""

from .geometry import ParallelBeam
from .simulate import DoseSimulator, added_noise_sinogram, calibrate_photons

__all__ = ["DoseSimulator", "ParallelBeam", "added_noise_sinogram", "calibrate_photons"]
