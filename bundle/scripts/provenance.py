"""What made a result, by denoising or by simulation: written into every file that leaves the bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from .strengths import CUSTOM, DEFAULT, RESTORE, Strength, choose_strength

NOT_FOR_DIAGNOSIS = "Research software, not a medical device: not for diagnosis."
#: Of the equipment that contributed to what the bundle writes (PS3.3 C.12.1.1.5).
MANUFACTURER = "BioAtt project"
#: How the contribution of a denoising begins, by which its results are known.
DENOISING = "CT denoising"


def bundle_version() -> str:
    """The bundle's version, from its metadata.json."""
    metadata = Path(__file__).resolve().parents[1] / "configs" / "metadata.json"
    return json.loads(metadata.read_text(encoding="utf-8"))["version"]


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """What a writer of results asks of what made them; `Provenance` and `SimulatedDose` answer."""

    version: str
    bundle: str = "ct_low_dose_denoising_bioatt"

    #: Code value (DCM) and meaning for DICOM's DerivationCodeSequence (CID 7203).
    derivation_code: ClassVar[tuple[str, str]]
    #: Whether it makes what was not acquired (SyntheticData, PS3.3 C.12.1).
    synthetic: ClassVar[bool] = False

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {**asdict(self), "notice": NOT_FOR_DIAGNOSIS}

    def outside(self, outside_scope: str) -> Derivation:
        """The same, of an input that lies outside what the weights were trained on; simulation has no weights."""
        return self

    def series_suffix(self) -> str:
        """What is put behind the source's SeriesDescription."""
        raise NotImplementedError

    def contribution(self) -> str:
        """What the bundle did and with what, e.g. for DICOM's ContributionDescription."""
        raise NotImplementedError

    def sentence(self) -> str:
        """One line for a reader, e.g. DICOM's DerivationDescription."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Provenance(Derivation):
    """Which bundle version, weights and prior denoised a series.

    Args:
        network: class and size of the network, e.g. ``BioAtt(channels=32, attention=prior)``.
        prior: the prior string as chosen, e.g. ``compact``.
        prior_model: what it stood for, in words, e.g. ``compact prior model (not BiomedCLIP)``.
        prior_digest: hex digest of all that decides a prior: weights, descriptors, window, or the rows of a table.
        precision: of the network, ``fp32`` or ``bf16``; empty where it is not known.
        outside_scope: in what the input lies outside of what the weights were trained on; empty for in nothing known.
    """

    network: str
    weights_sha256: str
    prior: str
    prior_model: str
    prior_digest: str = ""
    strength: Strength = field(default_factory=choose_strength)
    precision: str = ""
    outside_scope: str = ""

    derivation_code = ("113087", "Smoothing")

    def outside(self, outside_scope: str) -> Provenance:
        """See `Derivation`."""
        return replace(self, outside_scope=outside_scope)

    def series_suffix(self) -> str:
        """See `Derivation`."""
        strength, name = self.strength, self.strength.name
        if name == CUSTOM:
            grain = f" {strength.grain:.4g}" if strength.grain else ""
            restore = f" restore {strength.restore:.4g}" if strength.restore != RESTORE else ""
            return f"BioAtt denoised {strength.anchor_mm:.4g} mm{grain}{restore}"
        return "BioAtt denoised" if name == DEFAULT else f"BioAtt denoised {name}"

    def contribution(self) -> str:
        """See `Derivation`."""
        return (
            f"{DENOISING} with {self.network}, weights sha256 {self.weights_sha256}, "
            f"prior {self.prior}: {self.prior_model}, digest {self.prior_digest or 'unknown'}, "
            f"strength {self.strength}" + (f", precision {self.precision}" if self.precision else "")
        )

    def sentence(self) -> str:
        """See `Derivation`."""
        prior = self.prior_model.replace(" (no model)", "")
        prior = prior if "prior" in prior else f"prior {prior}"
        outside = self.outside_scope and f"Outside what the weights were trained on: {self.outside_scope}. "
        return (
            f"Denoised by {self.bundle} {self.version}, {self.network}, weights sha256 {self.weights_sha256[:16]}, "
            f"{prior}, strength {self.strength}. {outside}{NOT_FOR_DIAGNOSIS}"
        )


@dataclass(frozen=True, kw_only=True)
class SimulatedDose(Derivation):
    """How a low dose was simulated from a series.

    Args:
        dose_fraction: in (0, 1], of the source's dose.
        photons: per detector element and view, at the source's dose and without an object; None until they are found.
        filter_name: reconstruction filter of the noise.
        tube_current: where its profile came from; empty for none.
    """

    dose_fraction: float
    photons: float | None
    electronic_sd: float
    views: int
    filter_name: str
    tube_current: str
    seed: int

    derivation_code = ("113042", "Pixel by pixel addition")
    synthetic = True

    def series_suffix(self) -> str:
        """See `Derivation`."""
        return f"simulated {self.dose_fraction:.4g} dose"

    def contribution(self) -> str:
        """See `Derivation`."""
        profile = f", tube current profile from {self.tube_current}" if self.tube_current else ""
        return (
            f"noise of {self.photons:.4g} photons per ray at the source's dose{profile} and electronic noise of SD "
            f"{self.electronic_sd:g}, {self.views} parallel-beam views, "
            f"filter {self.filter_name}, seed {self.seed}"
        )

    def sentence(self) -> str:
        """See `Derivation`."""
        return (
            f"Not an acquisition: simulated low dose, fraction {self.dose_fraction:.4g} of the dose of the source "
            f"image, whose header values of the exposure are kept. By {self.bundle} {self.version}: "
            f"{self.contribution()}. {NOT_FOR_DIAGNOSIS}"
        )
