"""How fast this machine denoises: networks against the rate of matrix products, and whole workflows."""

from __future__ import annotations

import copy
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import mkldnn
from torch.utils.flop_counter import FlopCounterMode

from ..device import keep_freed_memory, processor, usable_cores
from ..errors import BioAttError
from ..networks import BioAtt, load_weights
from ..pages import render
from ..progress import bar
from ..staging import make_folder, staged_file, write_json
from .workflows import default_network, peak_memory, time_series, wait

logger = logging.getLogger(__name__)

STOCK = "RED-CNN, stock PyTorch form"
EXACT = "RED-CNN, exact path"
#: What is reported of a matrix product.
PRODUCT = ("name", "device", "precision", "gflop_per_second")
#: Instruction sets, by PyTorch's names, for which oneDNN has no bf16: a slice of RED-CNN takes minutes.
_WITHOUT_BF16 = ("NO AVX", "DEFAULT", "AVX2")
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something to be timed.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        gflop: floating-point operations of one run, in 1e9; a multiplication and an addition count as two.
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
    compiled: bool = False,
) -> dict[str, Any]:
    """Measure everything in one run and write benchmark.json and benchmark.md.

    The candidates take turns, so that what else goes on in the machine hits all of them; each figure is the median
    of `repeats` runs after one that does not count. Weights are random: they do not change the speed.

    Args:
        shape: (rows, columns) of the images.
        threads: of PyTorch on the CPU; None leaves its own choice.

    Returns:
        The figures; page.md.jinja shows them.

    Raises:
        BioAttError: a number out of its range, or the output cannot be written.
    """
    numbers = {"repeats": repeats, "size": min(shape), "slices": slices, "threads": 1 if threads is None else threads}
    for name, number in numbers.items():
        if number < 1:
            raise BioAttError(f"{name} of a benchmark is {number}, expected 1 or more; e.g. leave it out")
    folder = make_folder(Path(output_dir))
    keep_freed_memory()  # as every command does
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(threads or torch.get_num_threads())
        networks, notes = _networks(Path(scratch), shape, compiled)
        figures = {
            "machine": describe_machine(),
            "shape": list(shape),
            "repeats": repeats,
            **_measure(_rooflines(), networks, repeats),
            "notes": notes,
            "series": time_series(Path(scratch), shape, slices, series),
        }
    _compare_path(figures)
    write_json(folder / "benchmark.json", figures)
    with staged_file(folder / "benchmark.md") as file:
        file.write_text(to_markdown(figures))
    return figures


def to_markdown(figures: dict[str, Any]) -> str:
    """The figures of `run_benchmark` as a page."""
    return render(Path(__file__).with_name("page.md.jinja"), **figures)


def _compare_path(figures: dict[str, Any]) -> None:
    """How many times as fast as stock RED-CNN on whole slices the default path was on the series, box and anchoring in.

    None where the series' slices have another size than the images of the candidates.
    """
    series = figures["series"]
    wanted = (STOCK, series["device"], "fp32")
    stock = next(row for row in figures["networks"] if (row["name"], row["device"], row["precision"]) == wanted)
    same = sorted(series["slice_shape"]) == sorted(figures["shape"])
    seconds = series["network_seconds"] / series["slices"]
    series["times_as_fast_as_stock"] = stock["seconds_per_slice"] / seconds if same else None


def describe_machine() -> dict[str, Any]:
    """Models of processor and GPU, cores, threads and versions; nothing that names the machine itself."""
    import monai

    return {
        "processor": processor("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "monai": monai.__version__},
    }


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _rooflines() -> list[Candidate]:
    """Dense products in each precision; the fastest is the roofline of its device in this precision.

    Which library is fastest hangs on the processor: torch.mm takes MKL, which leaves AVX-512 unused on some; a linear
    layer of oneDNN's own tensors takes the library that convolutions take.
    """
    candidates = []
    for device in _devices():
        for n in (1024, 2048) if device == "cpu" else (4096, 8192):
            gflop = 2 * n**3 / 1e9
            for precision in _precisions(device):
                candidates += [
                    Candidate(name=f"{name}, {n} x {n}", device=device, precision=precision, gflop=gflop, run=run)
                    for name, run in _products(device, n, precision).items()
                ]
    return candidates


def _precisions(device: str) -> tuple[str, ...]:
    """Those for which the device has instructions."""
    slow = device == "cpu" and torch.backends.cpu.get_cpu_capability() in _WITHOUT_BF16
    return ("fp32",) if slow else ("fp32", "bf16")


def _products(device: str, n: int, precision: str) -> dict[str, Callable[[], Tensor]]:
    """Ways to multiply two matrices of n x n, by name."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(_SEED)
    a, b = (torch.rand(n, n, generator=generator, device=device).to(dtype) for _ in range(2))
    image, kernel = a.reshape(1, n, -1, 32), b.reshape(n, n, 1, 1)
    forms: dict[str, Callable[[], Tensor]] = {
        "torch.mm": lambda: a @ b,
        "1x1 convolution": lambda: torch.conv2d(image, kernel),
    }
    if device == "cpu" and precision == "fp32" and mkldnn.torch._C._has_mkldnn:
        layer, rows = mkldnn.to_mkldnn(nn.Linear(n, n).eval()), a.to_mkldnn()
        forms["oneDNN linear layer"] = lambda: layer(rows)
    return forms


def _networks(scratch: Path, shape: tuple[int, int], compiled: bool) -> tuple[list[Candidate], list[str]]:
    """The networks on every device and in both precisions, and notes on those that cannot run here."""
    generator = torch.Generator().manual_seed(_SEED)
    image = torch.rand(1, 1, *shape, generator=generator)
    prior = torch.rand(1, 11, generator=generator).softmax(dim=1)
    stock, default = BioAtt(channels=96, attention="none").eval(), default_network()
    gflop = {network: count_gflop(network, image, prior) for network in (stock, default)}
    candidates, notes = [], []
    for device in _devices():
        forms = {
            STOCK: (stock, copy.deepcopy(stock).to(device)),
            EXACT: (stock, _as_inference_loads_it(stock, scratch, device)),
            f"default network, {default.title}": (default, _as_inference_loads_it(default, scratch, device)),
        }
        if compiled:
            loaded = _as_inference_loads_it(default, scratch, device, compiled=True)
            forms["default network, compiled"] = (default, loaded)
        if "bf16" not in _precisions(device):
            notes.append("bf16 on the CPU: left out, this processor has no instructions for it")
        for precision in _precisions(device):
            for name, (plain, network) in forms.items():
                run = _runner(network, device, precision, (image.to(device), prior.to(device)))
                candidates.append(Candidate(name=name, device=device, precision=precision, gflop=gflop[plain], run=run))
    name, network = "default network, onnxruntime", _in_onnxruntime(default, scratch)
    if network is None:
        notes.append(f"{name}: not installed (python -m pip install onnx onnxruntime onnxscript)")
    else:
        run = _runner(network, "cpu", "fp32", (image, prior))
        candidates.append(Candidate(name=name, device="cpu", precision="fp32", gflop=gflop[default], run=run))
    return candidates, notes


def count_gflop(network: nn.Module, image: Tensor, prior: Tensor) -> float:
    """Operations of one run in 1e9, by the definition of the layers: a faster algorithm does not lower them."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image, prior)
    return counter.get_total_flops() / 1e9


def _runner(
    network: Callable[..., Tensor], device: str, precision: str, inputs: tuple[Tensor, ...]
) -> Callable[[], Tensor]:
    """`network` on one slice that lies on `device`."""

    def run() -> Tensor:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return network(*inputs)

    return run


def _as_inference_loads_it(network: nn.Module, scratch: Path, device: str, compiled: bool = False) -> nn.Module:
    """A copy that went through a weights file, as every network of the inference workflow does."""
    torch.save(network.state_dict(), scratch / "weights.pt")
    return load_weights(copy.deepcopy(network), scratch / "weights.pt", device, compiled=compiled)


def _in_onnxruntime(network: nn.Module, scratch: Path) -> Callable[[Tensor, Tensor], Tensor] | None:
    from ..networks.export import export_network, load_exported

    try:
        export_network(network, scratch / "default.onnx")
    except BioAttError:
        return None
    return load_exported(scratch / "default.onnx", threads=torch.get_num_threads())


def _measure(rooflines: Sequence[Candidate], networks: Sequence[Candidate], repeats: int) -> dict[str, Any]:
    """Time all in turn; set them against stock RED-CNN, and the roofline of their device in their precision."""
    everyone = [*rooflines, *networks]
    peaks = []
    for one in everyone:
        logger.info("benchmark: first run of %s, %s, %s", one.name, one.device, one.precision)
        peaks.append(peak_memory(one.device, one.run))
    seconds: list[list[float]] = [[] for _ in everyone]
    with bar(repeats * len(everyone), "benchmark", unit="run") as advance:
        for _ in range(repeats):
            for times, one in zip(seconds, everyone, strict=True):
                times.append(_time(one))
                advance(1)
    rows = []
    for one, times, peak in zip(everyone, seconds, peaks, strict=True):
        median = statistics.median(times)
        row = {"name": one.name, "device": one.device, "precision": one.precision, "seconds_per_slice": median}
        row |= {"all_seconds": times, "gflop_per_slice": one.gflop, "gflop_per_second": one.gflop / median}
        rows.append(row | {"peak_memory_mib": peak})
    products = [{key: row[key] for key in PRODUCT} for row in rows[: len(rooflines)]]
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(products, key=lambda row: row["gflop_per_second"]):
        best[row["device"], row["precision"]] = row
    stock = {
        row["device"]: row["seconds_per_slice"] for row in rows if (row["name"], row["precision"]) == (STOCK, "fp32")
    }
    for row in (measured := rows[len(rooflines) :]):
        row["share_of_roofline"] = row["gflop_per_second"] / best[row["device"], row["precision"]]["gflop_per_second"]
        row["times_as_fast_as_stock"] = stock[row["device"]] / row["seconds_per_slice"]
    return {"products": products, "rooflines": list(best.values()), "networks": measured}


def _time(one: Candidate) -> float:
    wait(one.device)
    began = time.perf_counter()
    one.run()
    wait(one.device)
    return time.perf_counter() - began
