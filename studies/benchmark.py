"""The page of speed: what `bioatt benchmark` measures, several processes on a list, training, and a plot.

    PYTHONPATH=bundle:. python -m studies.benchmark OUT docs/evidence/performance.md --processes 2
    PYTHONPATH=bundle:. python -m studies.benchmark OUT docs/evidence/performance.md --only-cohort

The second measures the list alone, and puts what it finds into the page, and into --cohort-page. Leave the machine
alone meanwhile.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.benchmark.run import run_benchmark, to_markdown
from scripts.benchmark.workflows import peak_memory, random_weights, spacing
from scripts.device import usable_cores
from scripts.errors import BioAttError
from scripts.staging import make_folder, staged_file, write_json

from .speed_page import put

#: Series in the list for each process, so that the last one's end does not decide.
SERIES_PER_PROCESS = 3
#: The first epoch starts the data loader's process, fills caches, and is left out.
EPOCHS = 3
#: Steps of each.
STEPS = 4
#: Of the line about the list, in the pages that have it.
MARK = "processes"


def measure(
    folder: Path,
    page: Path,
    *,
    processes: int,
    size: int = 512,
    slices: int = 300,
    repeats: int = 5,
    cohort_pages: Sequence[Path] = (),
) -> None:
    """Measure all; write benchmark.json to `folder`, `page` with the plot beside it, and a line into `cohort_pages`.

    Raises:
        BioAttError: a core for each process is not there; see also `run_benchmark`.
    """
    _check_cores(processes)
    figures = run_benchmark(folder, shape=(size, size), repeats=repeats, slices=slices)
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        figures["cohort"] = time_processes(Path(one), (size, size), max(1, slices // 10), processes)
        figures["training"] = time_training(Path(other), (size, size), max(1, slices // 5))
    write_json(folder / "benchmark.json", figures)
    write_page(page, figures)
    _put_line(cohort_pages, figures["cohort"])


def measure_cohort(folder: Path, pages: Sequence[Path], *, processes: int, size: int = 512, slices: int = 300) -> None:
    """Measure the list alone; write cohort.json to `folder`, and the line about it into each page, at its mark.

    Raises:
        BioAttError: a core for each process is not there.
        ValueError: a page has no mark.
    """
    _check_cores(processes)
    make_folder(folder)
    with TemporaryDirectory() as scratch:
        found = time_processes(Path(scratch), (size, size), max(1, slices // 10), processes)
    write_json(folder / "cohort.json", found)
    _put_line(pages, found)


def _put_line(pages: Sequence[Path], found: dict[str, Any]) -> None:
    for page in pages:
        page.write_text(put(page.read_text(), MARK, [cohort_line(found)]))


def _check_cores(processes: int) -> None:
    if not 2 <= processes <= usable_cores():
        raise BioAttError(f"--processes {processes}: expected 2 to {usable_cores()}, a core for each")


def write_page(page: Path, figures: dict[str, Any]) -> None:
    """Write the page of `figures`, and the plot beside it."""
    picture = page.with_suffix(".png")
    cohort = [f"<!-- {MARK} -->", cohort_line(figures["cohort"]), f"<!-- /{MARK} -->"]
    lines = [to_markdown(figures), *cohort, "", training_line(figures["training"])]
    with staged_file(page) as file:
        file.write_text("\n".join([*lines, "", f"![seconds per slice]({picture.name})", ""]))
    plot(figures["networks"], picture)


def time_processes(scratch: Path, shape: tuple[int, int], slices: int, processes: int) -> dict[str, Any]:
    """Rate of `bioatt denoise --cohort` on synthetic series: one process against several, a thread and core each.

    And of one process with all these cores and threads: what several gain on the same cores is that one reads and
    writes while another computes. Start-up is not in it; loading the models is. Where the system cannot keep processes
    on cores (anything but Linux), one of them uses a second core now and then, for the process that decodes.

    Args:
        scratch: an empty folder.
        shape, slices: of each series.
        processes: how many, two or more.

    Returns:
        Series, slices and processes; slices a second of one process on a core, of one on all, and of all; and the ratio
        of the last to the first.
    """
    from scripts.dicom.phantom import write_ct_series

    count = SERIES_PER_PROCESS * processes
    names = [f"series{number}" for number in range(count)]
    for number, name in enumerate(names):
        write_ct_series(scratch / name, shape=shape, slices=slices, spacing=spacing(shape), seed=number)
    (scratch / "list.txt").write_text("\n".join(names))
    weights = random_weights(scratch)
    kinds = ((1, 1), (1, processes), (processes, 1))  # processes, and threads of each
    rates = [count * slices / _denoise_list(scratch, weights, number, threads) for number, threads in kinds]
    return {
        "series": count,
        "slices_per_series": slices,
        "processes": processes,
        "slices_per_second_of_one": rates[0],
        "slices_per_second_of_one_on_all_cores": rates[1],
        "slices_per_second_of_all": rates[2],
        "ratio": rates[2] / rates[0],
    }


def _denoise_list(scratch: Path, weights: str, processes: int, threads: int) -> float:
    """Seconds that these processes need for the list, from the first one's beginning to the last one's end."""
    from scripts.cohort import Places, denoise_jobs, read_list

    jobs = read_list(scratch / "list.txt", scratch / f"out{processes}x{threads}")
    places = Places(processes=processes, threads=threads)
    with _on_cores(processes * threads):
        told = [one for _, one in denoise_jobs(jobs, ["inference.json"], {"weights": weights}, places)]
    failed = [one["why"] for one in told if one["state"] != "done"]
    if failed:
        raise RuntimeError(f"series of the benchmark failed: {failed}")
    return max(one["ended"] for one in told) - min(one["began"] for one in told)


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Keep what the block starts on so many cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def time_training(scratch: Path, shape: tuple[int, int], slices: int, steps_per_epoch: int = STEPS) -> dict[str, Any]:
    """How long the default training's steps wait for their data, on made full-dose series of two patients.

    The low doses are simulated and the priors computed before, as ever. A step is one batch of train.json.

    Args:
        scratch: an empty folder.
        shape: of the images.
        slices: of the patient who is trained on.
        steps_per_epoch: of three epochs, the first of which does not count.

    Returns:
        Steps, steps a second, the share of the time that a step waits for data, and peak memory in MiB, without the
        data loader's process.
    """
    from ignite.handlers import BasicTimeProfiler
    from scripts.dicom.phantom import write_ct_series
    from scripts.workflow import open_workflow

    for seed, (name, count) in enumerate((("train", slices), ("validate", 1))):
        write_ct_series(scratch / "data" / name, shape=shape, slices=count, spacing=spacing(shape), seed=seed)
    overrides = {
        "dataset_dir": str(scratch / "data"),
        "output_dir": str(scratch / "training"),
        "train_patients": ["train"],
        "validation_patients": ["validate"],
        "slices_per_patient": slices,
        "views": 100,  # of the simulation, which is over when training begins
        "val_interval": EPOCHS + 1,
        "tensorboard": False,
        "steps_per_epoch": steps_per_epoch,
        "train#trainer#max_epochs": EPOCHS,
    }
    workflow = open_workflow("training", ["train.json"], overrides)
    trainer = workflow.parser.get_parsed_content("train#trainer")
    profiler = BasicTimeProfiler()
    profiler.attach(trainer)
    peak = peak_memory(trainer.state.device.type, workflow.run)
    steps = trainer.state.epoch_length
    waiting, working = (float(times[steps:].sum()) for times in (profiler.dataflow_times, profiler.processing_times))
    return {
        "device": trainer.state.device.type,
        "steps": steps * (EPOCHS - 1),
        "steps_per_second": steps * (EPOCHS - 1) / (waiting + working),
        "waiting_for_data": waiting / (waiting + working),
        "peak_memory_mib": peak,
    }


def cohort_line(cohort: dict[str, Any]) -> str:
    """What `time_processes` found, in words."""
    return (
        f"A list of {cohort['series']} synthetic series of {cohort['slices_per_series']} slices (`--cohort`): "
        f"{cohort['processes']} processes on a core each do {cohort['slices_per_second_of_all']:.2f} slices a second, "
        f"one on one core {cohort['slices_per_second_of_one']:.2f}: {cohort['ratio']:.2f} times the rate. "
        f"One process on all of these cores does {cohort['slices_per_second_of_one_on_all_cores']:.2f}."
    )


def training_line(training: dict[str, Any]) -> str:
    """What `time_training` found, in words."""
    peak = "" if training["peak_memory_mib"] is None else f", peak memory {training['peak_memory_mib']:.0f} MiB"
    return (
        f"Training by train.json on {training['device']}: {training['steps_per_second']:.2f} steps a second; a step "
        f"waits for its data {training['waiting_for_data']:.1%} of the time ({training['steps']} steps){peak}."
    )


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds per slice of each network, as bars on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['name'].split(', BioAtt')[0]}, {row['device']}, {row['precision']}" for row in rows]
    bars = axes.barh(names, [row["seconds_per_slice"] for row in rows])
    axes.bar_label(bars, [f"{row['seconds_per_slice']:.3g} s" for row in rows], padding=3)
    axes.set(xscale="log", xlabel="seconds per slice")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    figure.savefig(path, dpi=100)


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m studies.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder for benchmark.json and .md")
    parser.add_argument("page", type=Path, help="the page, with the plot beside it")
    parser.add_argument("--processes", type=int, default=2, help="on a list of series, against one")
    parser.add_argument("--size", type=int, default=512, help="images are N x N")
    parser.add_argument("--slices", type=int, default=300, help="of the synthetic series")
    parser.add_argument("--repeats", type=int, default=5, help="medians are over so many")
    parser.add_argument("--only-cohort", action="store_true", help="measure the list alone, write cohort.json")
    parser.add_argument("--cohort-page", type=Path, action="append", default=[], help="another page with that line")
    chosen = vars(parser.parse_args(words))
    folder, page, more = (chosen.pop(name) for name in ("output", "page", "cohort_page"))
    if chosen.pop("only_cohort"):
        del chosen["repeats"]
        measure_cohort(folder, [page, *more], **chosen)
    else:
        measure(folder, page, cohort_pages=more, **chosen)


if __name__ == "__main__":
    main()
