"""How fast this machine denoises: networks against the rate of matrix products, and a whole series end to end."""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import mkldnn
from torch.utils.flop_counter import FlopCounterMode

from .errors import BioAttError
from .networks import BioAtt, load_weights
from .staging import staged_file

STOCK = "RED-CNN, stock PyTorch form"
EXACT = "RED-CNN, exact path"
#: Instruction sets, by PyTorch's names, for which oneDNN has no bf16: a slice of RED-CNN takes minutes.
_WITHOUT_BF16 = ("NO AVX", "DEFAULT", "AVX2")
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something to be timed.

    Args:
        name: in words.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        gflop: floating-point operations of one run, in 1e9; a multiplication and an addition count as two.
        run: does it once.
    """

    name: str
    device: str
    precision: str
    gflop: float
    run: Callable[[], object]


def run_benchmark(
    output_dir: str | os.PathLike[str],
    *,
    shape: tuple[int, int] = (512, 512),
    repeats: int = 5,
    slices: int = 100,
    series: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    page: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Measure everything in one run and write benchmark.json, benchmark.md and benchmark.png.

    The contestants take turns, so that what else goes on in the machine hits all of them; each figure is the median
    of `repeats` runs after one that does not count. Weights are random: they do not change the speed.

    Args:
        output_dir: folder for the files; made if it is not there.
        shape: (rows, columns) of the images.
        repeats: runs of each contestant.
        slices: of the made series.
        series: a series to use in place of the made one.
        threads: of PyTorch on the CPU; None leaves its own choice.
        page: write the table also here, and the plot beside it.

    Returns:
        The lines of benchmark.md.

    Raises:
        BioAttError: a number out of its range, or the output cannot be written.
    """
    for name, number in (("repeats", repeats), ("size", min(shape)), ("slices", slices), ("threads", threads or 1)):
        if number < 1:
            raise BioAttError(f"{name} of a benchmark is {number}, wanted 1 or more; e.g. leave it out")
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BioAttError(f"{folder} cannot be made ({error.strerror}); name another folder with --output") from error
    with tempfile.TemporaryDirectory() as scratch, _threads(threads):
        networks, notes = _networks(Path(scratch), shape)
        figures = {
            "machine": describe_machine(),
            "shape": list(shape),
            "repeats": repeats,
            **_judge(_roofs(), networks, repeats),
            "notes": notes,
            "series": time_series(Path(scratch), shape, slices, series),
        }
    lines = to_markdown(figures)
    pages = [(folder / "benchmark.md", folder / "benchmark.png")]
    pages += [(Path(page), Path(page).with_suffix(".png"))] if page else []
    with staged_file(folder / "benchmark.json") as file:
        file.write_text(json.dumps(figures, indent=2) + "\n")
    for text, plot in pages:
        with staged_file(text) as file:
            file.write_text("\n".join([*lines, "", f"![seconds per slice]({plot.name})", ""]))
        _plot(figures["networks"], plot)
    return lines


def describe_machine() -> dict[str, Any]:
    """Models of processor and GPU, cores, threads and versions; nothing that names the machine itself."""
    import monai

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "monai": monai.__version__},
    }


def _processor() -> str:
    """The processor's model as /proc/cpuinfo has it, else as the platform module does."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _roofs() -> list[Contestant]:
    """Dense products in fp32; the fastest is the roof of its device.

    Which library is fastest hangs on the processor: torch.mm takes MKL, which leaves AVX-512 unused on some; a linear
    layer of oneDNN's own tensors takes the library that convolutions take.
    """
    contestants = []
    for device in _devices():
        for n in (1024, 2048) if device == "cpu" else (4096, 8192):
            generator = torch.Generator(device).manual_seed(_SEED)
            a, b = (torch.rand(n, n, generator=generator, device=device) for _ in range(2))
            image, kernel = a.reshape(1, n, -1, 32), b.reshape(n, n, 1, 1)
            forms = {
                "torch.mm": lambda a=a, b=b: a @ b,
                "1x1 convolution": lambda x=image, w=kernel: torch.conv2d(x, w),
            }
            if device == "cpu" and mkldnn.torch._C._has_mkldnn:
                layer, rows = mkldnn.to_mkldnn(nn.Linear(n, n).eval()), a.to_mkldnn()
                forms["oneDNN linear layer"] = lambda layer=layer, rows=rows: layer(rows)
            for name, run in forms.items():
                contestants.append(
                    Contestant(
                        name=f"{name}, {n} x {n}", device=device, precision="fp32", gflop=2 * n**3 / 1e9, run=run
                    )
                )
    return contestants


def _networks(scratch: Path, shape: tuple[int, int]) -> tuple[list[Contestant], list[str]]:
    """The networks on every device and in both precisions, and what to tell of those that cannot run here."""
    generator = torch.Generator().manual_seed(_SEED)
    image = torch.rand(1, 1, *shape, generator=generator)
    prior = torch.rand(1, 11, generator=generator).softmax(dim=1)
    stock, default = BioAtt(channels=96, attention="none").eval(), default_network()
    contestants, notes = [], []
    for device in _devices():
        forms = {
            STOCK: copy.deepcopy(stock).to(device),
            EXACT: _as_inference_loads_it(stock, scratch, device),
            f"default network, {default.title}": _as_inference_loads_it(default, scratch, device),
        }
        slow = device == "cpu" and torch.backends.cpu.get_cpu_capability() in _WITHOUT_BF16
        if slow:
            notes.append("bf16 on the CPU: left out, this processor has no instructions for it")
        for precision in ("fp32",) if slow else ("fp32", "bf16"):
            for name, network in forms.items():
                contestants.append(_contestant(name, network, device, precision, image, prior))
    theirs = _ldct_benchmark()
    if theirs is None:
        notes.append("RED-CNN of ldct-benchmark: not installed (python -m pip install ldct-benchmark)")
    else:
        contestants.append(_contestant("RED-CNN of ldct-benchmark", theirs, "cpu", "fp32", image, prior))
    runtime = _in_onnxruntime(default, scratch)
    if runtime is None:
        notes.append("default network in onnxruntime: not installed (python -m pip install 'bioatt[export]')")
    else:
        gflop = next(one.gflop for one in contestants if one.name.startswith("default"))
        name = "default network, onnxruntime"
        contestants.append(
            Contestant(name=name, device="cpu", precision="fp32", gflop=gflop, run=lambda: runtime(image, prior))
        )
    return contestants, notes


def default_network() -> nn.Module:
    """The network of inference.json, with seeded random weights."""
    from .commands import open_workflow

    torch.manual_seed(_SEED)
    return open_workflow("inference", ["inference.json"], {}).parser.get_parsed_content("network_def").eval()


def _as_inference_loads_it(network: nn.Module, scratch: Path, device: str) -> nn.Module:
    """A copy that went through a weights file, as every network of the inference workflow does."""
    torch.save(network.state_dict(), scratch / "weights.pt")
    return load_weights(copy.deepcopy(network), scratch / "weights.pt", device)


def _ldct_benchmark() -> nn.Module | None:
    """RED-CNN of Eulig et al., https://github.com/eeulig/ldct-benchmark, if it is installed."""
    try:
        from ldctbench.methods.redcnn.network import Model
    except ImportError:
        return None
    return Model(None).eval()


def _in_onnxruntime(network: nn.Module, scratch: Path) -> Callable[[Tensor, Tensor], Tensor] | None:
    from .export import export_network, load_exported

    try:
        export_network(network, scratch / "default.onnx", "onnx")
    except BioAttError:
        return None
    return load_exported(scratch / "default.onnx", "onnx", threads=torch.get_num_threads())


def _contestant(name: str, network: nn.Module, device: str, precision: str, image: Tensor, prior: Tensor) -> Contestant:
    """`network` on one slice that lies on `device`."""
    inputs = (image.to(device),) if name.endswith("ldct-benchmark") else (image.to(device), prior.to(device))

    def run() -> Tensor:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return network(*inputs)

    with FlopCounterMode(display=False) as counter:
        run()
    return Contestant(name=name, device=device, precision=precision, gflop=counter.get_total_flops() / 1e9, run=run)


def _judge(roofs: Sequence[Contestant], networks: Sequence[Contestant], repeats: int) -> dict[str, Any]:
    """Time all in turn and set them against the roof of their device and stock RED-CNN."""
    everyone = [*roofs, *networks]
    peaks = [_first_run(one) for one in everyone]
    seconds: list[list[float]] = [[] for _ in everyone]
    for _ in range(repeats):
        for times, one in zip(seconds, everyone, strict=True):
            times.append(_time(one))
    medians = [statistics.median(times) for times in seconds]
    roof: dict[str, dict[str, Any]] = {}
    products = []
    for one, median in zip(roofs, medians, strict=False):
        row = {"name": one.name, "device": one.device, "gflop_per_second": one.gflop / median}
        products.append(row)
        if row["gflop_per_second"] > roof.get(one.device, row | {"gflop_per_second": 0})["gflop_per_second"]:
            roof[one.device] = row
    rows = []
    stock = {one.device: m for one, m in zip(everyone, medians, strict=True) if _is_stock(one)}
    for one, median, times, peak in list(zip(everyone, medians, seconds, peaks, strict=True))[len(roofs) :]:
        rate = one.gflop / median
        rows.append(
            {
                "name": one.name,
                "device": one.device,
                "precision": one.precision,
                "seconds_per_slice": median,
                "all_seconds": times,
                "gflop_per_slice": one.gflop,
                "gflop_per_second": rate,
                "share_of_roof": rate / roof[one.device]["gflop_per_second"],
                "peak_memory_mib": peak,
                "times_as_fast_as_stock": stock[one.device] / median,
            }
        )
    return {"products": products, "roof": roof, "networks": rows}


def _is_stock(one: Contestant) -> bool:
    return one.name == STOCK and one.precision == "fp32"


def _time(one: Contestant) -> float:
    _wait(one.device)
    began = time.perf_counter()
    one.run()
    _wait(one.device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _first_run(one: Contestant) -> float | None:
    """Run once and return the peak memory in MiB: of the whole process on a CPU, of the tensors on a GPU.

    None where the operating system does not let the mark be set back (anything but Linux).
    """
    if one.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        one.run()
        _wait("cuda")
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back, proc(5)
    except OSError:
        one.run()
        return None
    one.run()
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """PyTorch with `count` threads for as long as it lasts."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


class _Stopwatch:
    """Seconds spent in calls of a prior source; what else it is asked goes to the source."""

    def __init__(self, source: Callable[..., Tensor]) -> None:
        self.source = source
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

    Start-up (imports, loading the models) is not in it. Reading is what comes before the inferer (files, orientation,
    range), writing what comes after it (inverse, summary, files).

    Args:
        scratch: an empty folder.
        shape, slices: of the made series.
        series: a series to use instead.
    """
    from ignite.engine import Events
    from monai.engines import IterationEvents

    from .commands import open_workflow
    from .phantom import write_ct_series

    source = series or write_ct_series(scratch / "series", shape=shape, slices=slices, spacing=(0.75, 0.75))
    weights = scratch / "default.pt"
    torch.save(default_network().state_dict(), weights)
    overrides = {"dataset_dir": str(source), "output_dir": str(scratch / "out"), "weights": str(weights)}
    workflow = open_workflow("inference", ["inference.json"], {**overrides, "progress": False})
    evaluator = workflow.parser.get_parsed_content("evaluator")
    inferer, device = evaluator.inferer, evaluator.state.device.type
    inferer.prior_source = prior = _Stopwatch(inferer.prior_source)
    marks: dict[str, float] = {}
    count = 0

    def mark(name: str) -> Callable[..., None]:
        def note(engine: Any) -> None:
            nonlocal count
            _wait(device)
            marks[name] = time.perf_counter()
            count = engine.state.output["image"].shape[-1] if name == "denoised" else count

        return note

    evaluator.add_event_handler(Events.ITERATION_STARTED, mark("read"))
    evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, mark("denoised"))
    began = time.perf_counter()
    workflow.run()
    ended = time.perf_counter()
    network = marks["denoised"] - marks["read"] - prior.seconds
    return {
        "source": "given" if series else "made",
        "slices": count,
        "device": device,
        "read_seconds": marks["read"] - began,
        "prior_seconds": prior.seconds,
        "network_seconds": network,
        "write_seconds": ended - marks["denoised"],
        "seconds": ended - began,
        "seconds_per_slice": (ended - began) / count,
        "around_the_network": (ended - began) / network - 1,
    }


def to_markdown(figures: dict[str, Any]) -> list[str]:
    """The figures of `run_benchmark` as a page."""
    machine, series = figures["machine"], figures["series"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# Speed",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['instructions']}{gpu}; {machine['system']}; {versions}.",
        f"One slice of {figures['shape'][0]} x {figures['shape'][1]}, medians of {figures['repeats']}, contestants in "
        "turn. Made by `bioatt benchmark`; docs/performance.md tells what the columns mean.",
        "",
        "| network | device | precision | s/slice | GFLOP | GFLOP/s | of the roof | peak memory | against stock |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["networks"]:
        peak = "not known" if row["peak_memory_mib"] is None else f"{row['peak_memory_mib']:.0f} MiB"
        lines.append(
            f"| {row['name']} | {row['device']} | {row['precision']} | {row['seconds_per_slice']:.4f} | "
            f"{row['gflop_per_slice']:.1f} | {row['gflop_per_second']:.0f} | {row['share_of_roof']:.0%} | {peak} | "
            f"{row['times_as_fast_as_stock']:.2f} x |"
        )
    lines += ["", *(f"- {note}" for note in figures["notes"])]
    for device, roof in figures["roof"].items():
        lines.append(f"- Roof of {device}: {roof['gflop_per_second']:.0f} GFLOP/s, {roof['name']}, fp32")
    lines += [
        "",
        "| dense product, fp32 | device | GFLOP/s |",
        "|---|---|---|",
        *(f"| {row['name']} | {row['device']} | {row['gflop_per_second']:.0f} |" for row in figures["products"]),
        "",
        f"A whole {series['source']} series of {series['slices']} slices on {series['device']}: "
        f"{series['seconds']:.1f} s, {series['seconds_per_slice']:.3f} s a slice; "
        f"{series['around_the_network']:.0%} on top of the network.",
        "",
        "| read | prior | network | write |",
        "|---|---|---|---|",
        f"| {series['read_seconds']:.2f} s | {series['prior_seconds']:.2f} s | {series['network_seconds']:.2f} s | "
        f"{series['write_seconds']:.2f} s |",
    ]
    return lines


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds per slice of each network, as bars on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.35 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [f"{row['name'].split(', BioAtt')[0]}, {row['device']}, {row['precision']}" for row in rows]
    bars = axes.barh(names, [row["seconds_per_slice"] for row in rows])
    axes.bar_label(bars, [f"{row['seconds_per_slice']:.3g} s" for row in rows], padding=3)
    axes.set(xscale="log", xlabel="seconds per slice")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    figure.savefig(path, dpi=100)
