"""TLS for both sides of the node: whom it trusts, and patience with callers that say nothing."""

from __future__ import annotations

import logging
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BioAttError

logger = logging.getLogger(__name__)

_HANDSHAKE_S = 5.0


@dataclass(frozen=True)
class Tls:
    """Certificates, PEM files: ours with its key, and the authority of those whom we trust, both ways."""

    certificate: Path
    key: Path
    authority: Path

    def context(self, *, server: bool) -> ssl.SSLContext:
        """For listening, where callers must have a certificate, or for calling.

        Raises:
            BioAttError: a file cannot be used.
        """
        context = _ServerContext(ssl.PROTOCOL_TLS_SERVER) if server else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.authority)
        except OSError as error:  # ssl.SSLError is one
            raise BioAttError(f"TLS: {error}; expected PEM files of certificate, key and authority") from error
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class _ServerContext(ssl.SSLContext):
    """Ends a handshake that takes too long: the others wait for it, as pynetdicom accepts callers one by one."""

    def wrap_socket(self, sock: socket.socket, *words: Any, **options: Any) -> ssl.SSLSocket:
        caller = sock.getpeername()[0]
        sock.settimeout(_HANDSHAKE_S)
        try:
            wrapped = super().wrap_socket(sock, *words, **options)
        except OSError as error:
            why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error.strerror or error
            logger.warning("the TLS handshake with a caller at %s failed: %s", caller, why)
            sock.close()
            raise
        wrapped.settimeout(None)
        return wrapped
