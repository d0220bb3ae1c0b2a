"""What the benchmark measures of a whole workflow: a series end to end."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks import Denoiser, write_recipe
from ..workflow import open_workflow

_SEED = 0


def default_network() -> Denoiser:
    """The network of inference.json, with seeded random weights."""
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

    Imports are not in it; loading the models, and moving them to the device, is reported apart. Reading is what comes
    before the inferer (headers, files, orientation, range), writing what comes after it (inverse, summary, files).
    """
    from ignite.engine import Events
    from monai.engines import IterationEvents

    from ..dicom.phantom import write_ct_series

    source = series or write_ct_series(scratch / "series", shape=shape, slices=slices, spacing=spacing(shape))
    overrides = {"dataset_dir": str(source), "output_dir": str(scratch / "out"), "weights": random_weights(scratch)}
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
    size: Sequence[int] = ()

    def mark(name: str) -> Callable[..., None]:
        def note(engine: Any) -> None:
            nonlocal size
            wait(device)
            marks[name] = time.perf_counter()
            size = engine.state.output["image"].shape[-3:] if name == "denoised" else size

        return note

    evaluator.add_event_handler(Events.ITERATION_STARTED, mark("read"))
    evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, mark("denoised"))
    began = time.perf_counter()
    with redirect_stdout(io.StringIO()):  # the summary's noise means nothing with these weights
        workflow.run()
    ended = time.perf_counter()
    network = marks["denoised"] - marks["read"] - prior.seconds
    *slice_shape, count = size
    return {
        "source": "given" if series else "synthetic",
        "slices": count,
        "slice_shape": slice_shape,
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


def spacing(shape: tuple[int, int]) -> tuple[float, float]:
    """Millimetres a pixel with which an image of any size shows the whole body."""
    return 384.0 / shape[0], 384.0 / shape[1]


def random_weights(scratch: Path) -> str:
    """A file of random weights for the default network, with the prior and the scope of the bundle's own."""
    file = scratch / "default.pt"
    workflow = open_workflow("inference", ["inference.json"], {})
    torch.save(default_network().state_dict(), file)
    write_recipe(file, workflow.parser.get_parsed_content("recipe"))
    return str(file)
