"""The sending side: a series goes to its receiver by C-STORE, all of it or not at all."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ...dicom.headers import open_dicom
from ...errors import BioAttError


@dataclass(frozen=True)
class Destination:
    """Where results go."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Of ``AE@HOST:PORT``.

        Raises:
            BioAttError: it is anything else.
        """
        match = re.fullmatch(r"([^@\\]{1,16})@(\[[^]]+\]|[^:@]+):(\d{1,5})", text)
        if not match or not 0 < int(match[3]) < 1 << 16:
            raise BioAttError(f"--send-to {text}: wanted AE@HOST:PORT, e.g. PACS@192.0.2.1:104")
        return cls(match[1], match[2].strip("[]"), int(match[3]))

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


def send(files: Sequence[Path], destination: Destination, ae_title: str, context: ssl.SSLContext | None = None) -> None:
    """Send derived images by one association.

    Raises:
        BioAttError: not all were taken; to be tried again.
    """
    from pynetdicom import AE
    from pynetdicom.status import code_to_category

    node = AE(ae_title=ae_title)
    node.acse_timeout = node.connection_timeout = 30
    node.dimse_timeout = node.network_timeout = 120
    for storage_class in sorted({str(open_dicom(file, specific_tags=["SOPClassUID"]).SOPClassUID) for file in files}):
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            node.add_requested_context(storage_class, syntax)
    tls = {"tls_args": (context, destination.host)} if context else {}
    association = node.associate(destination.host, destination.port, ae_title=destination.ae_title, **tls)
    if not association.is_established:
        what = "rejects the association" if association.is_rejected else "does not answer"
        raise BioAttError(f"{destination} {what}")
    try:
        for file in files:
            _send_one(association, file, destination, code_to_category)
    finally:
        if association.is_established:
            association.release()


def _send_one(association, file, destination, code_to_category) -> None:  # noqa: ANN001
    try:
        status = association.send_c_store(file)
    except (RuntimeError, ValueError, AttributeError) as error:  # the association broke, or no context was accepted
        raise BioAttError(f"{destination} stopped accepting images ({type(error).__name__})") from error
    if "Status" not in status:
        raise BioAttError(f"{destination} aborted the association")
    if code_to_category(status.Status) not in ("Success", "Warning"):
        raise BioAttError(f"{destination} refused an image with status 0x{status.Status:04X}")
