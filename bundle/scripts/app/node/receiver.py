"""The receiving side: C-ECHO and C-STORE of CT by pynetdicom, on disk before it is acknowledged."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom import uid
from pydicom.filewriter import write_file_meta_info
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from ...dicom.headers import CT_IMAGE_STORAGE, ENHANCED_CT, label, open_dicom
from ...errors import BioAttError
from .storage import StorageQueue, synced

logger = logging.getLogger(__name__)

#: What the bundle decodes, uncompressed first.
TRANSFER_SYNTAXES = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.JPEG2000Lossless,
    uid.HTJ2K,
    uid.JPEG2000,
]
STORAGE_CLASSES = [CT_IMAGE_STORAGE, *sorted(ENHANCED_CT)]

# Statuses of C-STORE (PS3.4 B.2.3).
SUCCESS, OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000

#: Of a PDU: we ask for 16 KiB (PS3.8 D.1), and the request for an association may be longer.
_PDU_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a sender may take of this machine.

    Args:
        associations: at a time; each holds one image in memory.
        object_bytes: size of an image; a larger one ends its association.
        free_bytes: room that stays on the disk; below it images are refused.
        idle_s: seconds without a word, or for a single PDU, after which an association is ended.
    """

    associations: int = 10
    object_bytes: int = 1 << 30
    free_bytes: int = 2 << 30
    idle_s: float = 60.0


@dataclass
class _Peer:
    number: int
    association: Any
    received: int = 0  # bytes since the last whole message
    is_refused: bool = False  # an image of its was, for want of room


@dataclass
class Receiver:
    """Listens, and takes what is sent into the queue.

    Args:
        ae_title: the only title by which it may be called.
    """

    queue: StorageQueue
    ae_title: str
    calling_ae_titles: Sequence[str]
    limits: Limits = Limits()
    _peers: dict[int, _Peer] = field(default_factory=dict)
    _count: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _server: Any = None

    def start(self, host: str, port: int, context: ssl.SSLContext | None = None) -> int:
        """Listen; return the port, which is a free one for 0.

        Raises:
            BioAttError: the port cannot be had, or a title is none.
        """
        try:
            node = AE(ae_title=self.ae_title)
            node.require_calling_aet = list(self.calling_ae_titles)
        except (TypeError, ValueError) as error:
            raise BioAttError(f"AE title: {error}; expected 1 to 16 characters without backslash") from error
        node.require_called_aet = True
        node.maximum_associations = self.limits.associations
        node.network_timeout = self.limits.idle_s
        node.acse_timeout = min(30.0, self.limits.idle_s)
        node.add_supported_context(Verification)
        for storage_class in STORAGE_CLASSES:
            node.add_supported_context(storage_class, TRANSFER_SYNTAXES)
        handlers = [
            (evt.EVT_CONN_OPEN, self._limit),
            (evt.EVT_REJECTED, self._tell_rejected),
            (evt.EVT_ACCEPTED, self._tell_useless),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_DATA_RECV, self._count_bytes),
            (evt.EVT_DIMSE_RECV, self._end_message),
            (evt.EVT_RELEASED, self._end, [True]),
            (evt.EVT_ABORTED, self._end, [False]),
        ]
        try:
            self._server = node.start_server((host, port), block=False, ssl_context=context, evt_handlers=handlers)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "a port is 0 to 65535"
            raise BioAttError(f"cannot listen on {host}:{port} ({why}); choose another --port or --host") from error
        return self._server.server_address[1]

    def stop(self) -> None:
        """End all associations and listen no longer."""
        if self._server is not None:
            self._server.ae.shutdown()

    def sweep(self) -> None:
        """Note associations that ended without a word."""
        with self._guard:
            gone = [peer for peer in self._peers.values() if not peer.association.is_alive()]
        for peer in gone:
            self._forget(peer, released=False)

    def _peer(self, association: Any) -> _Peer:
        with self._guard:
            if id(association) not in self._peers:
                self._count += 1
                self._peers[id(association)] = _Peer(self._count, association)
            return self._peers[id(association)]

    def _forget(self, peer: _Peer, *, released: bool) -> None:
        with self._guard:
            self._peers.pop(id(peer.association), None)
        self.queue.end_association(peer.number, released=released)

    def _end(self, event: evt.Event, released: bool) -> None:
        peer = self._peer(event.assoc)
        self._forget(peer, released=released and not peer.is_refused)

    def _limit(self, event: evt.Event) -> None:
        """Bound what a PDU may take of time and memory: pynetdicom waits for all of it, whoever sends it."""
        stream = event.assoc.dul.socket

        def receive(count: int) -> bytearray:
            if count > _PDU_BYTES:
                raise OSError("a PDU is too long")
            until_s, found = time.monotonic() + self.limits.idle_s, bytearray()
            while len(found) < count:
                stream.socket.settimeout(max(0.001, until_s - time.monotonic()))
                part = stream.socket.recv(count - len(found))
                if not part:
                    break
                found += part
            return found

        stream.recv = receive

    def _tell_rejected(self, event: evt.Event) -> None:
        """Log why a caller was rejected: to it, pynetdicom says little, and to us nothing."""
        asked = event.assoc.requestor.primitive
        if asked.called_ae_title != self.ae_title:
            why = f"called {asked.called_ae_title!r}, but this node is {self.ae_title!r}"
        elif event.assoc.requestor.ae_title not in self.calling_ae_titles:
            why = "not among those that may call (--accept)"
        else:
            why = f"more than {self.limits.associations} associations (--max-associations)"
        logger.warning("%s rejected: %s", _caller(event), why)

    def _tell_useless(self, event: evt.Event) -> None:
        """Log that a caller proposed nothing but what cannot be taken: other images, or CT in other encodings."""
        proposed = event.assoc.requestor.primitive.presentation_context_definition_list
        proposed = [one for one in proposed if one.abstract_syntax != Verification]
        if not proposed or {one.abstract_syntax for one in event.assoc.accepted_contexts} & set(STORAGE_CLASSES):
            return
        syntaxes = {
            syntax for one in proposed if one.abstract_syntax in STORAGE_CLASSES for syntax in one.transfer_syntax
        }
        what = ", ".join(sorted(uid.UID(one).name for one in syntaxes or {one.abstract_syntax for one in proposed}))
        wanted = "CT in a transfer syntax that BioAtt reads" if syntaxes else "CT images"
        logger.warning("%s proposed %s; expected %s", _caller(event), what, wanted)

    def _count_bytes(self, event: evt.Event) -> None:
        peer = self._peer(event.assoc)
        peer.received += len(event.data)
        if peer.received > self.limits.object_bytes:
            logger.error("an object exceeds %d MB; its association is ended", self.limits.object_bytes >> 20)
            event.assoc.abort()

    def _end_message(self, event: evt.Event) -> None:
        self._peer(event.assoc).received = 0

    def _store(self, event: evt.Event) -> int:
        """Status of a C-STORE; success only when the image is on disk."""
        size = event.request.DataSet.getbuffer().nbytes
        if size > self.limits.object_bytes:
            return OUT_OF_RESOURCES  # its association is being ended
        if self.queue.free_bytes() < self.limits.free_bytes + size:
            return self._no_room(event, f"less than {self.limits.free_bytes >> 20} MB are free")
        file = self.queue.new_file()
        try:
            _write(event, file)
            header = open_dicom(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
            series, instance = (label(header, name, file) for name in ("SeriesInstanceUID", "SOPInstanceUID"))
            if instance != str(event.request.AffectedSOPInstanceUID):
                logger.error("an image was refused: its SOPInstanceUID is not the announced one")
                return DOES_NOT_MATCH
            self.queue.store(file, series, instance, self._peer(event.assoc).number)
        except BioAttError as error:
            logger.error("an image was refused: %s", error)
            return CANNOT_UNDERSTAND
        except OSError as error:
            return self._no_room(event, f"the queue cannot be written ({error.strerror})")
        finally:
            file.unlink(missing_ok=True)
        return SUCCESS

    def _no_room(self, event: evt.Event, why: str) -> int:
        """Refuse an image for now, told once for its association; what it brought is not complete, however it ends."""
        peer = self._peer(event.assoc)
        if not peer.is_refused:
            logger.error("images were refused: %s", why)
        peer.is_refused = True
        return OUT_OF_RESOURCES


def _caller(event: evt.Event) -> str:
    """Who called, for the log."""
    requestor = event.assoc.requestor
    return f"{requestor.ae_title!r} at {requestor.address}"


def _write(event: evt.Event, file: Any) -> None:
    """Write the image as it came, byte for byte, as a DICOM file (PS3.10)."""
    with synced(file, file) as stream:
        stream.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(stream, event.file_meta)
        stream.write(event.request.DataSet.getbuffer())
