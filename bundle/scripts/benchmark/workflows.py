"""What the benchmark measures of whole workflows: a series end to end, a list in several processes, and training."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks import Denoiser, write_recipe

_SEED = 0
#: Series in the list for each process, so that the last one's end does not decide.
_SERIES_PER_PROCESS = 3
#: The first epoch starts the data loader's process, fills caches, and is left out.
_EPOCHS = 3
#: Steps of each.
_STEPS = 4


def default_network() -> Denoiser:
    """The network of inference.json, with seeded random weights."""
    from ..workflow import open_workflow

    torch.manual_seed(_SEED)
    return open_workflow("inference", ["inference.json"], {}).parser.get_parsed_content("network_def").eval()


def peak_memory(device: str, run: Callable[[], object]) -> float | None:
    """Run once and return the peak memory in MiB: of the whole process on a CPU, of the tensors on a GPU.

    None where the operating system does not let the mark be set back (anything but Linux).
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
        wait(device)
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back, proc(5)
    except OSError:
        run()
        return None
    run()
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


class _Stopwatch:
    """Seconds spent in calls of a prior source; what else it is asked goes to the source."""

    def __init__(self, source: Callable[..., Tensor]) -> None:
        self.source = source
        self.looks_at_slices = getattr(source, "looks_at_slices", True)
        self.seconds = 0.0

    def __call__(self, *inputs: Any) -> Tensor:
        began = time.perf_counter()
        found = self.source(*inputs)
        self.seconds += time.perf_counter() - began
        return found


def time_series(
    scratch: Path, shape: tuple[int, int], slices: int, series: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """Seconds of the inference workflow for one series, as `bioatt denoise` runs it, part by part.

    Imports are not in it; loading the models, and moving them to the device, is told apart. Reading is what comes
    before the inferer (headers, files, orientation, range), writing what comes after it (inverse, summary, files).

    Args:
        scratch: an empty folder.
        shape, slices: of the made series.
        series: a series to use instead.
    """
    from ignite.engine import Events
    from monai.engines import IterationEvents

    from ..dicom.phantom import write_ct_series
    from ..workflow import open_workflow

    source = series or write_ct_series(scratch / "series", shape=shape, slices=slices, spacing=_spacing(shape))
    overrides = {"dataset_dir": str(source), "output_dir": str(scratch / "out"), "weights": _weights(scratch)}
    workflow = open_workflow("inference", ["inference.json"], {**overrides, "progress": False})
    began = time.perf_counter()
    workflow.parser.get_parsed_content("data_list")
    check = time.perf_counter() - began
    began = time.perf_counter()
    evaluator = workflow.parser.get_parsed_content("evaluator")
    wait(evaluator.state.device.type)
    loading = time.perf_counter() - began
    inferer, device = evaluator.inferer, evaluator.state.device.type
    inferer.prior_source = prior = _Stopwatch(inferer.prior_source)
    marks: dict[str, float] = {}
    count = 0

    def mark(name: str) -> Callable[..., None]:
        def note(engine: Any) -> None:
            nonlocal count
            wait(device)
            marks[name] = time.perf_counter()
            count = engine.state.output["image"].shape[-1] if name == "denoised" else count

        return note

    evaluator.add_event_handler(Events.ITERATION_STARTED, mark("read"))
    evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, mark("denoised"))
    began = time.perf_counter()
    with redirect_stdout(io.StringIO()):  # the summary's noise means nothing with these weights
        workflow.run()
    ended = time.perf_counter()
    network = marks["denoised"] - marks["read"] - prior.seconds
    return {
        "source": "given" if series else "made",
        "slices": count,
        "device": device,
        "loading_seconds": loading,
        "read_seconds": check + marks["read"] - began,
        "prior_seconds": prior.seconds,
        "network_seconds": network,
        "write_seconds": ended - marks["denoised"],
        "seconds": check + ended - began,
        "seconds_per_slice": (check + ended - began) / count,
        "around_the_network": (check + ended - began) / network - 1,
    }


def time_processes(scratch: Path, shape: tuple[int, int], slices: int, processes: int) -> dict[str, Any]:
    """Rate of `bioatt denoise --cohort` on a list of made series: one process against several, with one thread each.

    Start-up is not in it; loading the models is.

    Args:
        scratch: an empty folder.
        shape, slices: of each series.
        processes: how many, two or more.

    Returns:
        Series, slices and processes; slices a second of one process and of all; and the ratio of these.
    """
    from ..dicom.phantom import write_ct_series

    count = _SERIES_PER_PROCESS * processes
    names = [f"series{number}" for number in range(count)]
    for number, name in enumerate(names):
        write_ct_series(scratch / name, shape=shape, slices=slices, spacing=_spacing(shape), seed=number)
    (scratch / "list.txt").write_text("\n".join(names))
    weights = _weights(scratch)
    rates = [count * slices / _denoise_list(scratch, weights, number) for number in (1, processes)]
    return {
        "series": count,
        "slices_per_series": slices,
        "processes": processes,
        "slices_per_second_of_one": rates[0],
        "slices_per_second_of_all": rates[1],
        "ratio": rates[1] / rates[0],
    }


def _denoise_list(scratch: Path, weights: str, processes: int) -> float:
    """Seconds that `processes` processes need for the list, from the first one's beginning to the last one's end."""
    from ..cohort import Places, denoise_jobs, read_list

    jobs = read_list(scratch / "list.txt", scratch / f"out{processes}")
    places = Places(processes=processes, threads=1)
    told = [one for _, one in denoise_jobs(jobs, ["inference.json"], {"weights": weights}, places)]
    failed = [one["why"] for one in told if one["state"] != "done"]
    if failed:
        raise RuntimeError(f"series of the benchmark failed: {failed}")
    return max(one["ended"] for one in told) - min(one["began"] for one in told)


def time_training(scratch: Path, shape: tuple[int, int], slices: int, steps_per_epoch: int = _STEPS) -> dict[str, Any]:
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

    from ..dicom.phantom import write_ct_series
    from ..workflow import open_workflow

    for seed, (name, count) in enumerate((("train", slices), ("validate", 1))):
        write_ct_series(scratch / "data" / name, shape=shape, slices=count, spacing=_spacing(shape), seed=seed)
    overrides = {
        "dataset_dir": str(scratch / "data"),
        "output_dir": str(scratch / "training"),
        "train_patients": ["train"],
        "validation_patients": ["validate"],
        "slices_per_patient": slices,
        "views": 100,  # of the simulation, which is over when training begins
        "val_interval": _EPOCHS + 1,
        "tensorboard": False,
        "steps_per_epoch": steps_per_epoch,
        "train#trainer#max_epochs": _EPOCHS,
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
        "steps": steps * (_EPOCHS - 1),
        "steps_per_second": steps * (_EPOCHS - 1) / (waiting + working),
        "waiting_for_data": waiting / (waiting + working),
        "peak_memory_mib": peak,
    }


def _spacing(shape: tuple[int, int]) -> tuple[float, float]:
    """Millimetres a pixel with which an image of any size shows the whole body."""
    return 384.0 / shape[0], 384.0 / shape[1]


def _weights(scratch: Path) -> str:
    """A file of random weights for the default network, with the prior and the scope of the bundle's own."""
    from ..workflow import open_workflow

    file = scratch / "default.pt"
    workflow = open_workflow("inference", ["inference.json"], {})
    torch.save(default_network().state_dict(), file)
    write_recipe(file, workflow.parser.get_parsed_content("recipe"))
    return str(file)
