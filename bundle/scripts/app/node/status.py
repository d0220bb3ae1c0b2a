"""What stands in a node's queue, for people and for monitoring."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from ...errors import BioAttError
from .storage import StorageQueue


def is_running(queue: Path) -> bool:
    """Whether a node holds the queue."""
    from filelock import FileLock, Timeout

    with suppress(Timeout), FileLock(queue / "lock", timeout=0):
        return False
    return True


def describe(queue: Path, *, retry_failed: bool = False) -> tuple[list[str], bool]:
    """Lines about a queue, and whether all is well: the node runs and nothing failed.

    Args:
        retry_failed: let what failed wait again, before.

    Raises:
        BioAttError: it is no queue.
    """
    if not (queue / "waiting").is_dir():
        raise BioAttError(f"{queue} is not the queue of a node; name it with --queue")
    found = StorageQueue(queue)
    if retry_failed:
        found.retry_failed()
    jobs = found.jobs()
    ready = [job for job in jobs if job.result.exists()]
    failed = sorted(found.failed.iterdir())
    book = queue / "sent.jsonl"
    sent = len(book.read_text().splitlines()) if book.exists() else 0
    running = is_running(queue)
    counts = {
        "node": "running" if running else "not running",
        "receiving": sum(1 for _ in found.receiving.iterdir()),
        "to denoise": len(jobs) - len(ready),
        "to send": len(ready),
        "sent": sent,
        "failed": len(failed),
        "free": f"{found.free_bytes() / 1e9:.1f} GB",
    }
    lines = [f"{name:<12}{value}" for name, value in counts.items()]
    for job in jobs:
        if why := job.tries().get("why"):
            lines.append(f"again  {job.name}: {why}")
    for folder in failed:
        try:
            why = json.loads((folder / "why.json").read_text())["why"]
        except (OSError, ValueError, KeyError):
            why = "unknown"
        lines.append(f"failed {folder.name}: {why}")
    return lines, running and not failed
