"""Low dose from full dose: projection, photon noise, and the reconstruction of the noise alone."""

from .geometry import ParallelBeam
from .matching import NoiseMatch, match_noise
from .simulate import DoseSimulator, added_noise_sinogram, calibrate_on_series, modulated
