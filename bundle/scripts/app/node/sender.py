"""The sending side: a series goes to its receiver by C-STORE, all of it or not at all."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, Association
from pynetdicom.status import code_to_category

from ...dicom.headers import open_dicom
from ...errors import BioAttError

#: Status of a receiver that holds the image already (PS3.7 C.5.8); with stable UIDs it is the same one.
_DUPLICATE = 0x0111


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
        match = re.fullmatch(r"(?! *@)([ -?A-[\]-~]{1,16})@(\[[^]]+\]|[^:@]+):(\d{1,5})", text)
        if not match or not 0 < int(match[3]) < 1 << 16:
            raise BioAttError(f"--send-to {text}: expected AE@HOST:PORT, e.g. PACS@192.0.2.1:104")
        return cls(match[1], match[2].strip("[]"), int(match[3]))

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


def send(files: Sequence[Path], destination: Destination, ae_title: str, context: ssl.SSLContext | None = None) -> None:
    """Send derived images by one association.

    Raises:
        BioAttError: not all were taken; to be tried again. Says why.
    """
    node = AE(ae_title=ae_title)
    node.acse_timeout = node.connection_timeout = 30
    node.dimse_timeout = node.network_timeout = 120
    for storage_class in sorted({str(open_dicom(file, specific_tags=["SOPClassUID"]).SOPClassUID) for file in files}):
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            node.add_requested_context(storage_class, syntax)
    tls = {"tls_args": (context, destination.host)} if context else {}
    try:
        association = node.associate(destination.host, destination.port, ae_title=destination.ae_title, **tls)
    except (OSError, UnicodeError) as error:
        raise BioAttError(f"{destination} cannot be called ({error}); its name is not known") from error
    if not association.is_established:
        if association.is_rejected:
            why = association.acceptor.primitive.reason_str
            raise BioAttError(f"{destination} rejects the association of {ae_title}: {why}")
        if association.rejected_contexts:
            names = ", ".join(sorted({UID(one.abstract_syntax).name for one in association.rejected_contexts}))
            raise BioAttError(f"{destination} accepts no {names}; let it take them from {ae_title}")
        raise BioAttError(f"{destination} does not answer{_why_not(destination, context)}")
    try:
        for file in files:
            _send_one(association, file, destination)
    finally:
        if association.is_established:
            association.release()


def _why_not(destination: Destination, context: ssl.SSLContext | None) -> str:
    """What the system says of the connection, which pynetdicom keeps to itself; nothing if there is one now."""
    try:
        with socket.create_connection((destination.host, destination.port), timeout=10) as plain:
            if context:
                context.wrap_socket(plain, server_hostname=destination.host).close()
    except OSError as error:
        return f" ({getattr(error, 'verify_message', '') or error.strerror or error})"
    return ""


def _send_one(association: Association, file: Path, destination: Destination) -> None:
    try:
        status = association.send_c_store(file)
    except (RuntimeError, ValueError, AttributeError) as error:  # the association broke, or no context was accepted
        raise BioAttError(f"{destination} stopped accepting images ({type(error).__name__})") from error
    if "Status" not in status:
        raise BioAttError(f"{destination} aborted the association")
    if code_to_category(status.Status) not in ("Success", "Warning") and status.Status != _DUPLICATE:
        raise BioAttError(f"{destination} refused an image with status 0x{status.Status:04X}")
