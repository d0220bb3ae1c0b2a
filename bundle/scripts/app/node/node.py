"""The node: receives, hands series to the worker, sends results on, until it is stopped."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import BioAttError
from .receiver import Limits, Receiver
from .rules import Rule, check_settings, choose
from .sender import Destination, send
from .storage import Completeness, Job, StorageQueue
from .tls import Tls
from .worker import Outcome, Worker

logger = logging.getLogger(__name__)

_TICK_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often is tried again, and when.

    Args:
        denoise: times that a series is begun; a worker that dies counts, a series that is refused is not tried again.
        send_s: seconds of waiting between tries to send a series, in all, after which it is given up; no clock counts.
        first_s, longest_s: seconds to the second try, doubled for each further one, and at most.
        job_s: seconds that the worker may take for a series.
    """

    denoise: int = 3
    send_s: float = 72 * 3600.0
    first_s: float = 5.0
    longest_s: float = 300.0
    job_s: float = 3600.0

    def pause_s(self, tries: int) -> float:
        """Seconds after `tries` failures."""
        return min(self.first_s * 2 ** min(tries - 1, 30), self.longest_s)


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """Everything about a node; `bioatt serve --help` says what each is."""

    queue: Path
    destination: Destination
    ae_title: str = "BIOATT"
    host: str = "127.0.0.1"
    port: int = 11112
    calling_ae_titles: Sequence[str] = ()
    complete: Completeness = field(default_factory=Completeness)
    rules: Sequence[Rule] = (Rule(),)
    settings: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    retries: Retries = field(default_factory=Retries)
    tls: Tls | None = None
    send_tls: bool = False


class Node:
    """A node on a queue.

    Raises:
        BioAttError: queue, titles, port, settings or certificates cannot be used.
    """

    def __init__(self, options: NodeOptions) -> None:
        check_settings(options.settings, "--set")
        self.options = options
        self.queue = StorageQueue(options.queue)
        self.worker = Worker(options.retries.job_s)
        callers = options.calling_ae_titles or (options.destination.ae_title,)
        self.receiver = Receiver(self.queue, options.ae_title, callers, options.limits)
        self.port = options.port
        self._job: Job | None = None  # of the worker; None while it checks settings
        self._unchecked = _settings_of(options)
        self._began = 0.0
        self._is_full = False
        self._stop = threading.Event()

    def start(self) -> None:
        """Take the queue, and listen."""
        tls, both = self.options.tls, self.options
        self._send_context = tls.context(server=False) if tls and both.send_tls else None
        self.queue.open()
        self.port = self.receiver.start(both.host, both.port, tls.context(server=True) if tls else None)
        self._sending = threading.Thread(target=self._repeat, args=(self._send_all,), daemon=True)
        self._sending.start()
        logger.info("%s listens on %s:%d, sends to %s", both.ae_title, both.host, self.port, both.destination)

    def run(self) -> None:
        """Work until `stop`; what is not done then goes on at the next start.

        Raises:
            BioAttError: no series can be denoised with the node's settings, or those of a rule.
        """
        try:
            self._repeat(self.step)
        finally:
            self._stop.set()
            self.receiver.stop()
            self._take_back()
            self.worker.stop()
            self._sending.join(10)
            self.queue.close()

    def _repeat(self, work: Callable[[], None]) -> None:
        """Do it again and again until the node stops; a disk that is full ends nothing."""
        while not self._stop.wait(_TICK_S):
            try:
                work()
            except OSError as error:
                logger.error("the queue cannot be written (%s); tried again", error.strerror)
                self._stop.wait(self.options.retries.first_s)

    def _take_back(self) -> None:
        """Not count the try of a series that an orderly stop interrupts: restarts must not make it fail."""
        if self.worker.is_busy and self._job:
            try:
                self._job.note(begun=self._job.tries().get("begun", 1) - 1)
            except OSError as error:
                logger.error("the queue cannot be written (%s)", error.strerror)

    def stop(self, *_: object) -> None:
        """Have `run` return; fit for a signal."""
        self._stop.set()

    def step(self) -> None:
        """One round: complete series, the worker's outcome, the next series."""
        self.receiver.sweep()
        for name in self.queue.take_complete(self.options.complete):
            logger.info("series %s: received", name)
        if self.worker.is_busy:
            outcome = self.worker.poll()
            if outcome is not None and self._job:
                self._end(self._job, outcome)
            elif outcome is not None and outcome.kind == "refused":  # at the start, before it makes any series fail
                raise BioAttError(outcome.why)
        if not self.worker.is_busy and self._unchecked:
            logger.info("loading network and prior")
            self.worker.start(None, self._unchecked.pop())  # those of the first rule last: they stay loaded
        elif not self.worker.is_busy:
            self._begin_next()

    def _begin_next(self) -> None:
        job = next((one for one in self.queue.jobs() if one.is_to_denoise and self._is_due(one)), None)
        if job is None or not self._has_room(job):
            return
        try:
            choice = choose(job.source.iterdir(), self.options.rules)
        except Exception as error:
            job.fail(_told(error))
            return
        if choice.settings is None:
            logger.info("series %s: left out, %s", job.name, choice.why)
            self.queue.discard(job.folder)
            return
        tries = job.tries().get("begun", 0) + 1
        if tries > self.options.retries.denoise:
            job.fail(f"begun {tries - 1} times: {job.tries().get('why') or 'the node was stopped each time'}")
            return
        job.note(begun=tries)  # before the work: what ends the whole node counts too
        logger.info("series %s: denoising by %s, try %d", job.name, choice.why, tries)
        self._job, self._began = job, time.monotonic()
        self.worker.start(job.folder, {**self.options.settings, **choice.settings})

    def _is_due(self, job: Job) -> bool:
        return job.is_due(time.time(), self.options.retries.longest_s)

    def _has_room(self, job: Job) -> bool:
        """Whether its result fits on the disk; a disk that others fill must not use up the tries of what waits.

        A result is up to four times as large as a compressed source. Half of what the receiver leaves free is always
        enough, so that the queue itself never keeps a series waiting.
        """
        limit = self.options.limits.free_bytes // 2
        needed = min(limit, 4 * sum(file.stat().st_size for file in job.source.iterdir()))
        has_room = self.queue.free_bytes() >= needed
        if not has_room and not self._is_full:
            logger.error("series wait: less than %.1f MB are free", needed / 1e6)
        self._is_full = not has_room
        return has_room

    def _end(self, job: Job, outcome: Outcome) -> None:
        if job.result.exists():
            logger.info("series %s: denoised in %.1f s", job.name, time.monotonic() - self._began)
        elif outcome.kind == "refused":
            job.fail(outcome.why)
        else:
            pause = self.options.retries.pause_s(job.tries().get("begun", 1))
            logger.warning("series %s: %s; again in %g s", job.name, outcome.why, pause)
            job.note(next=time.time() + pause, why=outcome.why)

    def _send_all(self) -> None:
        """Send what is ready; a thread of its own does it."""
        for job in self.queue.jobs():
            if job.result.exists() and (self._is_due(job) or "sends" not in job.tries()):
                self._send_one(job)

    def _send_one(self, job: Job) -> None:
        destination, retries = self.options.destination, self.options.retries
        files = sorted(job.result.iterdir())
        try:
            send(files, destination, self.options.ae_title, self._send_context)
        except Exception as error:  # whatever a peer does must not end this thread
            known = job.tries()
            sends, waited = known.get("sends", 0) + 1, known.get("waited", 0.0)
            if waited > retries.send_s:
                job.fail(f"sent {sends} times: {_told(error)}")
                return
            pause = retries.pause_s(sends)
            logger.warning("series %s: %s; again in %g s", job.name, _told(error), pause)
            job.note(sends=sends, waited=waited + pause, next=time.time() + pause, why=_told(error))
            return
        logger.info("series %s: %d images sent to %s", job.name, len(files), destination)
        job.finish(images=len(files), to=str(destination), at=time.strftime("%Y-%m-%dT%H:%M:%S%z"))


def _settings_of(options: NodeOptions) -> list[dict[str, Any]]:
    """The settings with which series will be denoised, each once."""
    found: list[dict[str, Any]] = []
    for rule in options.rules:
        one = {**options.settings, **rule.settings}
        if rule.denoise and one not in found:
            found.append(one)
    return found


def _told(error: Exception) -> str:
    """An error in words: ours, or the kind of any other, whose text could hold values of the patient's."""
    return str(error) if isinstance(error, BioAttError) else f"unexpected {type(error).__name__}"


def serve(options: NodeOptions) -> None:
    """Run a node until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it would log what a peer sent
    node = Node(options)
    node.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, node.stop)
    node.run()
    logger.info("stopped; unfinished work continues at the next start")
