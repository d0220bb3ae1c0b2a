"""The process that denoises: by the bundle's inference workflow, one series at a time, killed without harm."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import find_bioatt_error
from ...staging import is_about_the_disk
from .storage import sync_folder

if TYPE_CHECKING:
    from ...workflow import RepeatedInference


@dataclass(frozen=True)
class Outcome:
    """How the work on a series ended.

    Args:
        kind: ``done``; ``refused``, as it would be each time; or ``again``, worth another try.
        why: the reason, without values of the patient's.
    """

    kind: str
    why: str = ""


class Worker:
    """Starts the process when there is work, and once more when it died."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._until: float | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a series is at work."""
        return self._until is not None

    def start(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        """Have ``folder/source`` denoised to ``folder/result``; without a folder, have what they ask for loaded."""
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=run_worker, args=(other, os.getpid()), daemon=True)
            self._process.start()
            other.close()
        self._until = time.monotonic() + self.limit_s
        try:
            self._pipe.send((folder, dict(settings)))
        except OSError:  # it died just now: `poll` tells
            pass

    def poll(self, wait_s: float = 0.0) -> Outcome | None:
        """How the series ended; None while it is at work."""
        try:
            if self._pipe.poll(wait_s):
                outcome = self._pipe.recv()
            elif not self._process.is_alive():
                raise EOFError  # as the pipe does, sooner or later
            elif time.monotonic() > self._until:
                self.stop()
                outcome = Outcome("again", f"it took more than {self.limit_s:g} s")
            else:
                return None
        except (EOFError, OSError):
            self._process.join(5)
            outcome = Outcome("again", f"the worker ended with code {self._process.exitcode}")
        self._until = None
        return outcome

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._until = None


def denoise(inference: RepeatedInference, folder: Path | None, settings: Mapping[str, Any]) -> Outcome:
    """Load what series with these settings need; make ``folder/result`` of ``folder/source``, whole and on the disk.

    Args:
        inference: what the same settings share is loaded once.
        folder: None to see whether these settings can be used.
    """
    try:
        with redirect_stdout(StringIO()):
            inference.load({**settings, "stable_uids": True, "progress": False})
            if folder is None:
                return Outcome("done")
            made = folder / "made"
            for left in [made, *folder.glob(".made.*")]:  # of a worker that was killed
                shutil.rmtree(left, ignore_errors=True)
            inference.run({"dataset_dir": str(folder / "source"), "output_dir": str(made)})
        sync_folder(made, files=True)
        os.rename(made, folder / "result")
        sync_folder(folder)
    except Exception as error:
        return _ended_by(error)
    return Outcome("done")


def _ended_by(error: Exception) -> Outcome:
    """An error as an outcome: ours, or the kind of any other, whose text could hold values of the patient's."""
    ours = find_bioatt_error(error)
    if is_about_the_disk(error) or ours is None:
        return Outcome("again", str(ours) if ours is not None else f"unexpected {type(error).__name__}")
    return Outcome("refused", str(ours))


def run_worker(pipe: Connection, parent: int) -> None:
    """The process: denoises what comes through the pipe until the node ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node decides when to stop
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from ...device import keep_freed_memory
    from ...workflow import RepeatedInference, quiet_libraries

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    quiet_libraries()
    keep_freed_memory()
    inference = RepeatedInference()
    while True:
        try:
            folder, settings = pipe.recv()
        except EOFError:
            return
        pipe.send(denoise(inference, folder, settings))


def _end_with(parent: int) -> None:
    """End this process when the node is gone, since the next one restarts the series."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
