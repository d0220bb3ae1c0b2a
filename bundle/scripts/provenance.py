"""What made a result: bundle, weights and prior, written into every file that leaves the bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass

NOT_FOR_DIAGNOSIS = "Research software, not a medical device."


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which bundle version, weights and prior made a result.

    Args:
        version: the bundle's version, from metadata.json.
        network: class and size of the network, e.g. ``BioAtt(channels=32, attention=prior)``.
        weights_sha256: hex digest of the weights file.
        prior: the prior string as chosen, e.g. ``compact``.
        prior_model: what it stood for, in words, e.g. ``compact prior model (not BiomedCLIP)``.
    """

    version: str
    network: str
    weights_sha256: str
    prior: str
    prior_model: str
    bundle: str = "ct_low_dose_denoising_bioatt"

    def as_dict(self) -> dict[str, str]:
        """All fields, for JSON."""
        return {**asdict(self), "notice": NOT_FOR_DIAGNOSIS}

    def sentence(self) -> str:
        """One line for a reader, e.g. DICOM's DerivationDescription."""
        return (
            f"Denoised by {self.bundle} {self.version}, {self.network}, weights sha256 {self.weights_sha256[:16]}, "
            f"prior {self.prior_model}. {NOT_FOR_DIAGNOSIS}"
        )
