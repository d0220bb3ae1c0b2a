"""Many series, shared between processes and machines by nothing but the folder of their results."""

from __future__ import annotations

import csv
import glob
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import LOADED_AT
from .errors import BioAttError, find_bioatt_error
from .staging import staged_file
from .volumes.formats import suffix_of

logger = logging.getLogger(__name__)

#: Where in the folder of results the processes leave word for each other.
STATE_FOLDER = ".bioatt-cohort"
#: How often a process that waits for the others looks again.
POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Job:
    """One series of a cohort.

    Args:
        source: the input.
        target: folder of its result.
        state: path in the state folder that lock and failure record of this job begin with.
        series: which series of the input, by UID or number, where it holds several.
    """

    source: Path
    target: Path
    state: Path
    series: str = ""

    @property
    def name(self) -> str:
        """The input, for a message."""
        return f"{self.source}, series {self.series}" if self.series else str(self.source)

    @property
    def lock(self) -> Path:
        """Held by the process that works on it; the operating system frees it when that process dies."""
        return self.state.with_name(f"{self.state.name}.lock")

    @property
    def failure(self) -> Path:
        """Tells why it failed."""
        return self.state.with_name(f"{self.state.name}.failed.json")


def denoise_cohort(
    list_file: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    config_names: Sequence[str],
    overrides: dict[str, Any],
    *,
    resume: bool = False,
) -> int:
    """Run the inference workflow for each series of a list; network and prior model are loaded once.

    Any number of processes may be started with the same arguments, on one machine or on several that share
    `output_dir`, by torchrun or by hand: each takes the next series that nobody works on, so uneven series balance,
    and what a process that died left behind is taken up by the others, or later with `resume`. All end when all is
    done, and all tell the same. A result appears whole or not at all.

    ::

        output_dir/
          NAME/                  a result, as of a single series
          .bioatt-cohort/        locks, and why series failed

    Args:
        list_file: see `read_list`.
        output_dir: folder of the results; made if it is not there.
        config_names, overrides: of `run_workflow`, but for ``dataset_dir`` and ``output_dir``.
        resume: leave out what is finished; series that failed are tried again.

    Returns:
        The exit code: 0, or 1 if a series failed.

    Raises:
        BioAttError: the list cannot be used, results are there already, or the network or the prior cannot be loaded.
    """
    from .workflow import open_workflow, run_workflow

    root = Path(output_dir)
    jobs = read_list(list_file, root)
    _check(jobs, root, resume, overrides)
    shared = {"isolated": True, **overrides, **_own_device(overrides)}  # a file that crashes a decoder ends no list
    if _world_size() > 1:
        shared["progress"] = False  # bars of several processes would write over each other
    parser = open_workflow("inference", config_names, shared).parser
    shared |= {name: parser.get_parsed_content(name) for name in ("network", "prior_source")}

    def work(job: Job) -> None:
        own = {"dataset_dir": str(job.source), "output_dir": str(job.target)}
        own |= {"series": job.series} if job.series else {}
        run_workflow("inference", config_names, {**shared, **own})

    began = _began(jobs[0].state.parent)
    before = {job.target for job in jobs if job.target.exists()}
    while _take_what_is_free(jobs, work, began):
        time.sleep(POLL_SECONDS)  # others are still at work: if one dies, its series is taken up here
    print("\n".join(_report(jobs, before)), flush=True)
    return int(any(not job.target.exists() for job in jobs))


def read_list(list_file: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> list[Job]:
    """The series of a list, in its order. Paths are relative to the list's folder, results to `output_dir`.

    ::

        patients/a/series3           or, as NAME.csv       input,output
        patients/b/low.nii.gz                              patients/a/series3,a
        # a comment                                        patients/b/low.nii.gz,b

    Columns may be parted by semicolons. Without outputs, a result is named like the last part of its input, without
    the suffix of its format. A third column, series, names one of several series in a folder, by UID or number.

    Raises:
        BioAttError: unreadable, empty, a CSV without these columns, or two results at one place or outside.
    """
    file, root = Path(list_file), Path(output_dir)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BioAttError(f"list {file} cannot be read ({error}); name a text file with one path per line") from error
    if file.suffix.lower() == ".csv":
        lines = text.splitlines()
        semicolons = bool(lines) and ";" in lines[0] and "," not in lines[0]  # as some countries' spreadsheets write
        table = csv.DictReader(lines, delimiter=";" if semicolons else ",")
        if not {"input", "output"} <= set(table.fieldnames or ()):
            raise BioAttError(f"{file} must have the columns input and output, it has {table.fieldnames}; add them")
        rows = [tuple((row.get(name) or "").strip() for name in ("input", "output", "series")) for row in table]
    else:
        lines = (line.strip() for line in text.splitlines())
        rows = [(line, _name(line), "") for line in lines if line and not line.startswith("#")]
    if not rows:
        raise BioAttError(f"{file} names no series; write one path per line")
    jobs, places = [], {}
    for source, name, series in rows:
        target = Path(os.path.normpath(root / name))
        if not source or not name or root.absolute() not in target.absolute().parents:
            raise BioAttError(
                f"{file}: the result of {source!r} would be {name!r}, wanted a folder in {root}; name one"
            )
        near = [other for other in places if other == target or other in target.parents or target in other.parents]
        if near:
            raise BioAttError(
                f"{file}: {source} and {places[near[0]]} would have their results at one place, {target}; name them in "
                "a CSV with the columns input and output"
            )
        places[target] = source
        state = root / STATE_FOLDER / quote(str(target.relative_to(root)), safe="")
        jobs.append(Job(source=file.absolute().parent / source, target=target, state=state, series=series))
    return jobs


def _name(source: str) -> str:
    """Last part of a path, without the suffix of a format."""
    return Path(source).name.removesuffix(suffix_of(source))


def _check(jobs: Sequence[Job], root: Path, resume: bool, overrides: dict[str, Any]) -> None:
    """Refuse results that are there already, unless this goes on with them; and make the folders."""
    if overrides.get("overwrite"):
        raise BioAttError("results of a cohort are not overwritten one by one; name another folder, or use --resume")
    finished = [job.target for job in jobs if job.target.exists()]
    if finished and not resume and os.environ.get("RANK", "0") == "0":  # the others may be started at any time
        began = _began(root)  # a newer one is of another process of this run, that loaded faster
        old = [target for target in finished if target.stat().st_mtime < began]
        if old:
            raise BioAttError(f"result {old[0]} exists; go on with --resume, or name another folder")
    try:
        jobs[0].state.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BioAttError(f"{root} cannot be written ({error.strerror}); name another folder") from error


def _own_device(overrides: dict[str, Any]) -> dict[str, Any]:
    """A GPU of its own for each process that torchrun started on a machine with several."""
    import torch

    rank = os.environ.get("LOCAL_RANK", "")
    if "device" in overrides or not rank or not torch.cuda.is_available():
        return {}
    return {"device": torch.device("cuda", int(rank) % torch.cuda.device_count())}


def _began(folder: Path) -> float:
    """When this run began, by the clock of the file system: now, or when this process of several did."""
    from tempfile import TemporaryFile

    with TemporaryFile(dir=folder) as file:
        age = time.time() - LOADED_AT if _world_size() > 1 else 0.0
        return os.fstat(file.fileno()).st_mtime - age


def _world_size() -> int:
    """How many processes share the list, as torchrun or the user says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _take_what_is_free(jobs: Sequence[Job], work: Any, began: float) -> bool:
    """Do each job that nobody else is at, and return whether others are at work on some."""
    from filelock import FileLock, Timeout

    busy = False
    for job in jobs:
        if _is_settled(job, began):
            continue
        try:
            with FileLock(job.lock, timeout=0):
                if not _is_settled(job, began):  # it may have been settled just before the lock was free
                    _do(job, work)
        except Timeout:
            busy = True
    return busy


def _is_settled(job: Job, began: float) -> bool:
    """Whether the result is there, or the job failed since this process began; an older failure is tried again."""
    return job.target.exists() or (job.failure.exists() and job.failure.stat().st_mtime >= began)


def _do(job: Job, work: Any) -> None:
    """Do one job whose lock is held; what goes wrong is kept, not raised."""
    for left in job.target.parent.glob(f".{glob.escape(job.target.name)}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed: nobody else holds the lock
    try:
        work(job)
        job.failure.unlink(missing_ok=True)
    except Exception as error:
        ours = find_bioatt_error(error)
        if ours is None:
            logger.exception("%s: unexpected error", job.source)
        message = str(ours) if ours is not None else f"unexpected {type(error).__name__}; the log shows where"
        with staged_file(job.failure) as file:
            file.write_text(json.dumps({"input": str(job.source), "error": message}, indent=2) + "\n")


def _report(jobs: Sequence[Job], before: set[Path]) -> list[str]:
    """A line for each series that failed, and how many did not."""
    failed = [job for job in jobs if not job.target.exists()]
    lines = [""]
    for job in failed:
        told = json.loads(job.failure.read_text())["error"] if job.failure.exists() else "its result was removed"
        lines.append(f"failed  {job.name}: {told}")
    done = len(jobs) - len(failed)
    lines.append(f"{done} of {len(jobs)} series done ({len(before)} of them before), {len(failed)} failed")
    return lines
