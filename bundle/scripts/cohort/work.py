"""What a worker of a cohort does: one series, from plain values to plain values."""

from __future__ import annotations

import glob
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock, get_ident
from typing import Any

from ..device import find_device, keep_freed_memory
from ..errors import BioAttError, find_bioatt_error
from ..provenance import bundle_version
from ..staging import is_about_the_disk


@cache
def _kept() -> tuple[Any, Lock]:
    """What this process keeps between series, and who may use it: one thread at a time, so memory is that of one."""
    from ..workflow import RepeatedInference, quiet_libraries

    quiet_libraries()
    keep_freed_memory()
    return RepeatedInference(), Lock()


def denoise_series(request: Mapping[str, Any]) -> dict[str, Any]:
    """Denoise one series as `bioatt denoise` does, in a process that may have done others before.

    Args:
        request: ``source``, ``target``, ``series``; ``configs`` and ``settings`` of the inference workflow, with the
            device as a name; ``threads`` of PyTorch, None for what the process has; ``version`` of who asks.

    Returns:
        ``state``: ``done``; ``failed``, as it would be each time; ``again``, worth another try; or ``unusable``, which
        is about all series. ``why``; ``notes``, what was warned of; ``worker``, its name; ``began`` and ``ended``,
        seconds since the epoch; and the figures of `InferenceSummary`.
    """
    from distributed import get_worker

    inference, lock = _kept()
    name = get_worker().name
    with lock, _warnings_kept() as notes:
        outcome = {"began": time.time(), "state": "done", "why": "", "notes": notes, "worker": str(name)}
        usable = False
        try:
            _prepare(inference, request, name)
            usable = True
            target = Path(request["target"])
            clear_leftovers(target)
            # Results appear whole: one that is there is by a worker that died before it could tell.
            if target.exists() and not request["settings"].get("overwrite"):
                return outcome | {"ended": time.time()}
            places = {"dataset_dir": request["source"], "output_dir": request["target"], "series": request["series"]}
            outcome |= inference.run(places)
        except Exception as error:
            outcome |= _what_went_wrong(error, usable)
        return outcome | {"ended": time.time()}


def clear_leftovers(target: Path) -> None:
    """Delete what a process that was killed left beside `target`; nobody else makes this result."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)


def _prepare(inference: Any, request: Mapping[str, Any], name: int | str) -> None:
    """Load what all series share, in the worker of that name."""
    import torch

    if request["version"] != bundle_version():
        raise BioAttError(
            f"a worker has BioAtt {bundle_version()}, the command {request['version']}; install the same everywhere"
        )
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    settings = dict(request["settings"])
    if "device" in settings:
        settings["device"] = find_device(settings["device"])
    elif isinstance(name, int) and torch.cuda.is_available():  # counted on one machine: they share its GPUs
        settings["device"] = torch.device("cuda", name % torch.cuda.device_count())
    inference.load(settings, request["configs"])


def _what_went_wrong(error: Exception, usable: bool) -> dict[str, str]:
    """State and reason of an outcome that is not ``done``."""
    ours = find_bioatt_error(error)
    if ours is None:
        logging.getLogger(__name__).error("unexpected error", exc_info=error)  # kept: see `_warnings_kept`
        return {"state": "again", "why": f"unexpected {type(error).__name__}; the log shows where"}
    if is_about_the_disk(error):
        return {"state": "again", "why": str(ours)}
    return {"state": "failed" if usable else "unusable", "why": str(ours)}


@contextmanager
def _warnings_kept() -> Iterator[list[str]]:
    """Yield a list of what the bundle's code warns of in the block, which is logged where the command runs.

    A worker's own log is the site's: it may be read by others, and tells nothing of the series.
    """
    package = logging.getLogger(__package__.rpartition(".")[0])
    notes: list[str] = []
    handler = _Keeper(notes)
    propagates, package.propagate = package.propagate, False
    package.addHandler(handler)
    try:
        yield notes
    finally:
        package.removeHandler(handler)
        package.propagate = propagates


class _Keeper(logging.Handler):
    """Appends what this thread warns of, with its traceback, to a list."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__()
        self._kept = kept
        self._thread = get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one, or pass on another thread's."""
        if record.thread != self._thread:
            logging.getLogger().callHandlers(record)
        elif record.levelno >= logging.WARNING:
            self._kept.append(self.format(record))
