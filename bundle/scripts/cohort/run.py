"""Gives the series of a list to the workers of a Dask cluster, and puts their results into one table."""

from __future__ import annotations

import csv
import importlib
import json
import logging
import multiprocessing
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..device import usable_cores
from ..errors import BioAttError
from ..progress import bar
from ..provenance import bundle_version
from ..staging import make_folder, staged_file
from .series_list import TABLE, Job, read_list
from .work import clear_leftovers

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

_COLUMNS = ("input", "series", "output", "state", "slices", "noise_before_hu", "noise_after_hu", "seconds", "message")
_FINISHED = ("done", "done before")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the work is done.

    Args:
        processes: on this machine; each has its share of the cores, of the memory and of the GPUs.
        threads: of PyTorch in each of these; None for the share.
        scheduler: address of a Dask scheduler, or its scheduler file, whose workers are used instead.
        resources: what a series takes of a worker's Dask resources, e.g. ``{"GPU": 1}``.
        tries: how often a series is begun that fails by chance: a worker that dies, a full disk, an unexpected error.
    """

    processes: int = 1
    threads: int | None = None
    scheduler: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    tries: int = 3


def denoise_cohort(
    list_file: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    config_names: Sequence[str],
    overrides: Mapping[str, Any],
    *,
    resume: bool = False,
    places: Places | None = None,
) -> int:
    """Denoise each series of a list, and print and write a table of them.

    A series that fails stops no other. A result appears whole or not at all, so what is there is done.

    ::

        output_dir/
          NAME/          a result, as of a single series
          cohort.csv     the table

    Args:
        output_dir: folder of the results; made if it is not there. Workers on other machines must see it, and the
            inputs, by the same paths.
        config_names, overrides: of `run_workflow`, but for ``dataset_dir`` and ``output_dir``.
        resume: leave out the series whose result is there.

    Returns:
        The exit code: 0, or 1 if a series failed.

    Raises:
        BioAttError: the list cannot be used, results are there already, the network or the prior cannot be loaded, or
            there is no such scheduler.
    """
    root = Path(output_dir)
    jobs = read_list(list_file, root)
    before = [job for job in jobs if job.target.exists()]
    _check(before, root, resume, overrides)
    rows = _rows_before(root, jobs, before)
    left = [job for job in jobs if job.target not in rows]
    for job, outcome in denoise_jobs(left, config_names, overrides, places or Places()):
        rows[job.target] = _row(root, job, outcome)
    table = [rows[job.target] for job in jobs]
    with staged_file(root / TABLE) as file, open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    print("\n".join(_told(table, root)), flush=True)
    return int(any(row["state"] not in _FINISHED for row in table))


def denoise_jobs(
    jobs: Sequence[Job], config_names: Sequence[str], overrides: Mapping[str, Any], places: Places
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with the outcome of `denoise_series`, as they end; log what was warned of.

    Raises:
        BioAttError: there is no such scheduler, it went away, or no series can be denoised with these settings.
    """
    if not jobs:
        return
    from distributed import as_completed

    shared = {
        "configs": list(config_names),
        "threads": places.threads or _share_of_cores(places),
        "version": bundle_version(),
    }
    shown = bool(overrides.get("progress", True))
    with _connected(places, jobs) as client, bar(len(jobs), "series", shown, "series") as advance:

        def submit(job: Job) -> Future:
            places_of_it = {"source": str(job.source), "target": str(job.target), "series": job.series}
            request = {**shared, **places_of_it, "settings": _for_workers({**overrides, **job.settings})}
            key = f"bioatt-{uuid.uuid4().hex}"  # tells no path
            return client.submit(_task(request), key=key, resources=dict(places.resources) or None)

        running = {(future := submit(job)).key: (future, job, 1) for job in jobs}
        ended = as_completed([future for future, _, _ in running.values()], loop=client.loop)
        for future in ended:
            _, job, tried = running.pop(future.key)
            outcome = _outcome(future, places)
            future.release()
            if outcome["state"] == "unusable":
                if not job.settings:  # so no series can be denoised
                    raise BioAttError(outcome["why"])
                outcome = outcome | {"state": "failed"}
            if outcome["state"] == "again" and tried < places.tries:
                again = submit(job)
                running[again.key] = (again, job, tried + 1)
                ended.add(again)
            else:
                for note in outcome["notes"]:
                    logger.warning("%s", note if note.startswith(str(job.source)) else f"{job.name}: {note}")
                advance(1)
                yield job, outcome


def _task(request: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
    """What a worker runs, as a function that Dask sends by value, with its request inside.

    So scheduler and workers need not have imported this code before, and no path stands in what they log of a task.
    """

    def denoise() -> dict[str, Any]:
        try:
            entry = importlib.import_module("{}.scripts.app.entry".format("bioatt"))
        except ModuleNotFoundError:  # a process of this machine, that has our paths
            entry = importlib.import_module("{}.app.entry".format("scripts"))
        return entry.bundle_module("cohort").denoise_series(request)

    return denoise


def _outcome(future: Future, places: Places) -> dict[str, Any]:
    """What a worker reported, or what became of it."""
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise BioAttError("the Dask scheduler went away; start again when there is one, a cohort with --resume")
    error = future.exception() if future.status == "error" else None
    if error is None:
        return future.result()
    outcome = {"state": "failed", "notes": []}
    if isinstance(error, KilledWorker):
        several = not places.scheduler and places.processes > 1
        limit = " (each may use its share of the memory: try fewer --processes)" if several else ""
        return outcome | {"why": f"{error.allowed_failures + 1} workers died at it{limit}"}
    if isinstance(error, ModuleNotFoundError):
        return outcome | {"state": "unusable", "why": f"a worker misses a package ({error}); install BioAtt there"}
    return outcome | {"state": "again", "why": f"unexpected {type(error).__name__} in a worker: {error}"}


@contextmanager
def _connected(places: Places, jobs: Sequence[Job]) -> Iterator[Client]:
    """Yield a client of the site's cluster, or of one on this machine that ends with the block."""
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what dies, and is tried again, is in the table
    if places.scheduler:
        try:
            client = Client(_address(places.scheduler), set_as_default=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BioAttError(
                f"no Dask scheduler answers at {places.scheduler} ({error}); give the address that `dask scheduler` "
                "prints, or its scheduler file"
            ) from error
        with client:
            _tell_of_missing_workers(client, places)
            yield client
        return
    _check_this_machine()
    try:
        with ExitStack() as stack:
            stack.enter_context(dask.config.set(_local_settings(places.tries)))
            try:
                cluster = LocalCluster(
                    n_workers=places.processes,
                    threads_per_worker=1,
                    dashboard_address=None,
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # a page that has nothing: _local_settings
                    security=True,  # other users of this machine can reach its ports, but not talk to them
                    silence_logs=logging.CRITICAL,
                )
                client = Client(stack.enter_context(cluster), set_as_default=False)
            except (OSError, RuntimeError) as error:
                raise BioAttError(
                    f"the processes for the series do not start ({error}); give the machine more memory or fewer "
                    "--processes, or denoise one series at a time"
                ) from error
            yield stack.enter_context(client)
    finally:
        for job in jobs:  # of workers that were killed, with this command or before
            clear_leftovers(job.target)


def _address(scheduler: str) -> str:
    """An address with a port, of a scheduler file too; a client that is given another takes a minute to end."""
    from distributed.comm.addressing import parse_address, parse_host_port

    file = Path(scheduler)
    address = json.loads(file.read_text(encoding="utf-8"))["address"] if file.is_file() else scheduler
    scheme, place = parse_address(address)
    if scheme in ("tcp", "tls"):
        parse_host_port(place)
    return address


def _check_this_machine() -> None:
    """Say it at once where processes cannot be started as Dask does it, in a sandbox or a bare container.

    Raises:
        BioAttError: what is missing.
    """
    instead = "or denoise one series at a time, without --cohort or --all-series"
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise BioAttError(
            f"the processes for the series talk through ports of 127.0.0.1, which cannot be used here ({error}); allow "
            f"the loopback interface, {instead}"
        ) from error
    try:
        multiprocessing.get_context("spawn").Lock()
    except OSError as error:
        raise BioAttError(
            f"the processes for the series need semaphores, which the system does not give ({error.strerror}); mount a "
            f"tmpfs at /dev/shm that can be written, {instead}"
        ) from error


def _local_settings(tries: int) -> dict[str, Any]:
    """Dask's settings for a cluster on this machine."""
    return {
        "distributed.scheduler.allowed-failures": tries - 1,
        "distributed.scheduler.worker-saturation": 1.0,  # one series at a worker: the others are not lost with it
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.nanny.pre-spawn-environ": {},  # threads are ours to choose
        "distributed.worker.memory.target": False,  # Dask holds no data that it could spill; a worker that
        "distributed.worker.memory.spill": False,  # is large after a series is no reason to pause it for ever
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
    }


def _tell_of_missing_workers(client: Client, places: Places) -> None:
    """Say it when the work will wait: clusters that grow on demand may have no worker yet."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if any(all(one["resources"].get(name, 0) >= n for name, n in places.resources.items()) for one in workers):
        return
    wanted = " with the resources " + ", ".join(f"{k}={n:g}" for k, n in places.resources.items())
    logger.warning("the cluster has no worker%s yet; waiting for one", wanted if places.resources else "")


def _share_of_cores(places: Places) -> int | None:
    """Threads of each process where several share this machine; None where PyTorch or the site chooses."""
    if places.scheduler or places.processes == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, usable_cores() // places.processes)


def _for_workers(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides for other processes on other machines: no objects, no paths from this working folder."""
    settings = {"isolated": True, **overrides, "progress": False, "summary": False}  # a decoder may crash
    for name in ("dataset_dir", "output_dir", "series"):
        settings.pop(name, None)
    if "device" in settings:
        settings["device"] = str(settings["device"])
    if "weights" in settings:
        settings["weights"] = os.path.abspath(settings["weights"])
    kind, _, path = str(settings.get("prior", "")).partition(":")
    if kind in ("local-dir", "table"):
        settings["prior"] = f"{kind}:{os.path.abspath(path)}"
    return settings


def _check(before: Sequence[Job], root: Path, resume: bool, overrides: Mapping[str, Any]) -> None:
    """Refuse results that are there already, unless this goes on with them; and make the folder."""
    if overrides.get("overwrite"):
        raise BioAttError("results of a cohort are not overwritten one by one; name another folder, or use --resume")
    if before and not resume:
        raise BioAttError(f"result {before[0].target} exists; go on with --resume, or name another folder")
    make_folder(root)


def _rows_before(root: Path, jobs: Sequence[Job], before: Sequence[Job]) -> dict[Path, dict[str, Any]]:
    """Rows of the series that are done already, with the figures of the run that did them."""
    try:
        with open(root / TABLE, encoding="utf-8", newline="") as stream:
            known = {row.get("output"): row for row in csv.DictReader(stream)}
    except (OSError, UnicodeDecodeError, csv.Error):
        known = {}
    rows = {}
    for job in before:
        own = _row(root, job, {"state": "done before"})
        old = known.get(own["output"], {})
        rows[job.target] = {name: own[name] or old.get(name) or "" for name in _COLUMNS}
    return rows


def _row(root: Path, job: Job, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a series."""
    state = "failed" if outcome["state"] == "again" else outcome["state"]
    noise = outcome.get("noise_sd_hu") or {}
    seconds = round(outcome["ended"] - outcome["began"], 1) if "ended" in outcome else ""
    return {
        "input": str(job.source),
        "series": job.series,
        "output": job.target.relative_to(root.absolute()).as_posix(),
        "state": state,
        "slices": outcome.get("slices", ""),
        "noise_before_hu": noise.get("before", ""),
        "noise_after_hu": noise.get("after", ""),
        "seconds": seconds,
        "message": "; ".join(filter(None, [outcome.get("why", ""), *outcome.get("outside_scope", [])])),
    }


def _told(table: Sequence[Mapping[str, Any]], root: Path) -> list[str]:
    """A line for each series that failed, how many did not, and where the table is."""
    failed = [row for row in table if row["state"] not in _FINISHED]
    lines = [""]
    for row in failed:
        name = f"{row['input']}, series {row['series']}" if row["series"] else row["input"]
        lines.append(f"failed  {name}: {row['message']}")
    before = sum(row["state"] == "done before" for row in table)
    lines.append(f"table   {root / TABLE}")
    done = len(table) - len(failed)
    lines.append(f"{done} of {len(table)} series done ({before} of them before), {len(failed)} failed")
    return lines
