"""What a short stay at a GPU measures: a series from DICOM to DICOM, parity with the CPU, speed of networks, training.

    PYTHONPATH=bundle:. python -m studies.gpu OUT.json [--slices N] [--series N] [--side PIXELS]

Needs nothing but PyTorch, MONAI and the bundle, and a minute; without a GPU, a small side and a short series. It writes
what it has measured at once, and a second run goes on behind it. `studies/gpu.sh` puts it into a stay with a training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS = 5


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Median time of a call, waiting for the device; two calls before it do not count."""

    def once() -> float:
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    for _ in range(2):
        once()
    return statistics.median(once() for _ in range(ROUNDS))


def phantom_slices(count: int, side: int = 512, noise_hu: Tensor | None = None) -> Tensor:
    """Noisy slices (count, 1, side, side) in network range: an ellipse of tissue with rods, in air.

    Args:
        count, side: how many, and their size in pixels.
        noise_hu: (count, side, side), what is added; None for white noise of 25 HU.
    """
    rows, columns = torch.meshgrid(2 * [torch.arange(float(side)) - side / 2], indexing="ij")
    hu = torch.where((rows / (0.35 * side)) ** 2 + (columns / (0.45 * side)) ** 2 < 1, 50.0, -1000.0)
    for angle in range(0, 360, 30):
        turned = torch.tensor(float(angle)).deg2rad()
        hu[((rows - 120 * turned.sin()) ** 2 + (columns - 120 * turned.cos()) ** 2) < (4 + angle / 24) ** 2] += (
            angle / 3
        )
    if noise_hu is None:
        noise_hu = 25.0 * torch.randn(count, side, side, generator=torch.Generator().manual_seed(0))
    return ((hu + noise_hu).clamp(-1024, 3071)[:, None] + 500.0) / 500.0


@torch.inference_mode()
def parity(network: nn.Module, images: Tensor, prior: Tensor, device: torch.device) -> dict[str, dict[str, float]]:
    """Output on the device, in fp32 and bf16, less that of the CPU in fp32: RMS and largest, in HU."""
    reference = network(images, prior)
    there = network.to(device, memory_format=torch.channels_last)
    found = {}
    for name, bf16 in (("fp32", False), ("bf16", True)):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = there(images.to(device), prior.to(device)).float().cpu()
        found[name] = _size((output - reference) * 500.0)
    network.cpu()
    return found


def _size(difference_hu: Tensor) -> dict[str, float]:
    """RMS and largest of differences in HU."""
    return {"rms_hu": difference_hu.square().mean().sqrt().item(), "largest_hu": difference_hu.abs().max().item()}


@torch.inference_mode()
def speed(
    network: nn.Module, device: torch.device, batches: Sequence[int] = (1, 4, 16, 32), side: int = 512
) -> list[dict[str, Any]]:
    """Time a slice of a network, by batch and precision, with the memory that it took."""
    there = network.to(device, memory_format=torch.channels_last).eval()
    rows = []
    for dtype in ("fp32", "bf16"):
        for batch in batches:
            images = phantom_slices(batch, side).to(device, memory_format=torch.channels_last)
            prior = torch.full([batch, 11], 1 / 11, device=device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
                taken = seconds(lambda images=images, prior=prior: there(images, prior), device)
            memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
            rows.append({"dtype": dtype, "batch": batch, "ms_per_slice": 1e3 * taken / batch, "memory_mib": memory})
    network.cpu()
    return rows


def rooflines(device: torch.device) -> dict[str, float]:
    """TFLOP/s of a matrix product of random numbers."""
    side, found = (8192 if device.type == "cuda" else 1024), {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * side**3 / seconds(lambda a=a, b=b: a @ b, device) / 1e12
    return found


def ct_noise(count: int, side: int) -> Tensor:
    """Noise (count, side, side) of SD 1 with the spectrum of filtered backprojection: a ramp, windowed."""
    generator = torch.Generator().manual_seed(2)
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.fftfreq(side)).mul_(2).clamp_(max=1)
    power = frequency * (0.5 + 0.5 * torch.cos(torch.pi * frequency)) ** 2
    white = torch.randn(count, side, side, generator=generator)
    noise = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real
    return noise / noise.std()


def anchored_parity(weights: Path, slices: int, side: int, device: torch.device) -> dict[str, dict[str, float]]:
    """What `bioatt denoise` makes of noisy slices on the device, less what a CPU makes of them in fp32, in HU.

    Anchored at the standard strength, pixels of 0.7 mm; noise of 25 HU with the spectrum of CT.
    """
    from scripts.inference import SlicePriorInferer

    volume = _volume(phantom_slices(slices, side, 25.0 * ct_noise(slices, side)))

    def result(place: torch.device, precision: str) -> Tensor:
        inferer = SlicePriorInferer(batch_size=16, precision=precision, strength="standard")
        return inferer(volume.to(place), loaded(weights, place)).as_tensor().cpu()

    reference, found = result(torch.device("cpu"), "fp32"), {}
    for precision in ("fp32", "bf16"):
        found[precision] = _size(result(device, precision) - reference)
    return found


def _volume(slices: Tensor) -> Any:
    """`phantom_slices` as a volume (1, 1, side, side, count) in HU, with pixels of 0.7 mm."""
    from monai.data import MetaTensor
    from scripts.hu import network_to_hu

    hu = network_to_hu(slices[:, 0]).permute(1, 2, 0)[None, None]
    return MetaTensor(hu, affine=torch.diag(torch.tensor([0.7, 0.7, 3.0, 1.0])))


def inferer_speed(
    weights: Path, device: torch.device, batches: Sequence[int], slices: int, side: int
) -> list[dict[str, Any]]:
    """Time a slice of all that is done to a volume on the device: network in the precision `auto`, box, anchoring."""
    from scripts.inference import SlicePriorInferer

    network, volume = loaded(weights, device), _volume(phantom_slices(slices, side)).to(device)
    rows = []
    for batch in batches:
        inferer = SlicePriorInferer(batch_size=batch, strength="standard")
        taken = seconds(lambda inferer=inferer: inferer(volume, network), device)
        rows.append({"batch": batch, "ms_per_slice": 1e3 * taken / slices})
    return rows


def compiled_speed(weights: Path, device: torch.device, batches: Sequence[int], side: int) -> list[dict[str, Any]]:
    """`speed` of the compiled network, minutes on a CPU; nothing where it cannot be compiled."""
    try:
        return speed(loaded(weights, device, compiled=True), device, batches, side)
    except Exception as error:  # no compiler, or one that the packages at hand do not suit
        print(f"not compiled: {str(error).splitlines()[0]}", flush=True)
        return []


def loaded(weights: Path, device: torch.device, compiled: bool = False) -> nn.Module:
    """The network of `weights`, as the inference workflow loads it."""
    from scripts.networks import load_weights, make_network, read_recipe

    return load_weights(make_network(read_recipe(weights)), weights, device, compiled=compiled)


def whole_series(slices: int, side: int) -> dict[str, Any]:
    """`time_series` of the benchmark, twice: the first run starts the GPU and loads its kernels, as a command does."""
    from scripts.benchmark.workflows import time_series

    rounds = {}
    with TemporaryDirectory() as name:
        for number, what in enumerate(("first", "second")):
            scratch = Path(name) / str(number)
            scratch.mkdir()
            rounds[what] = time_series(scratch, (side, side), slices, None)
    return rounds


def training(side: int, slices: int, steps: int) -> dict[str, Any]:
    """`time_training` of the benchmark: batches of train.json, 16 patches."""
    from studies.benchmark import time_training

    with TemporaryDirectory() as name:
        return time_training(Path(name), (side, side), slices, steps)


def gflop(weights: Path, side: int) -> float:
    """Operations of the default network for a slice, in 1e9."""
    from scripts.benchmark.run import count_gflop

    network = loaded(weights, torch.device("cpu"))
    return count_gflop(network, phantom_slices(1, side), torch.full([1, 11], 1 / 11))


def parts(options: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], Any]]:
    """What is measured, by name, the most wanted first."""
    from scripts.networks import BioAtt

    on_gpu = device.type == "cuda"
    batches, weights, side = (1, 4, 16, 32) if on_gpu else (1,), options.weights, options.side
    prior = torch.softmax(torch.randn(options.slices, 11, generator=torch.Generator().manual_seed(1)), 1)
    cpu = torch.device("cpu")
    return {
        "device": lambda: torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": lambda: torch.__version__,
        "side": lambda: side,
        "whole series": lambda: whole_series(options.series, side),
        "parity": lambda: parity(loaded(weights, cpu), phantom_slices(options.slices, side), prior, device),
        "anchored parity": lambda: anchored_parity(weights, options.slices, side, device),
        "matrix_product_tflops": lambda: rooflines(device),
        "gflop_per_slice": lambda: gflop(weights, side),
        "default network": lambda: speed(loaded(weights, device), device, batches, side),
        "inferer": lambda: inferer_speed(weights, device, batches, max(batches) * 2, side),
        "training": lambda: training(side, options.training_slices, 200 if on_gpu else 2),
        "stock RED-CNN": lambda: speed(BioAtt(attention="none"), device, batches[:3], side),
        **({"compiled": lambda: compiled_speed(weights, device, batches[-2:], side)} if on_gpu else {}),
    }


def main() -> int:
    """Measure what is not in the file yet, and write it part by part."""
    parser = argparse.ArgumentParser(prog="python -m studies.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--slices", type=int, default=4, help="for the parity")
    parser.add_argument("--series", type=int, default=300, help="slices of the series from DICOM to DICOM")
    parser.add_argument("--training-slices", type=int, default=8, help="for the training's speed")
    parser.add_argument("--weights", type=Path, default=Path(__file__).parents[1] / "bundle" / "models" / "model.pt")
    parser.add_argument("--side", type=int, default=512, help="of the slices, in pixels")
    options = parser.parse_args()
    from scripts.device import keep_freed_memory
    from scripts.staging import write_json

    keep_freed_memory()
    result = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, measure in parts(options, device).items():
        if name in result:
            continue
        begin = time.perf_counter()
        result[name] = measure()
        print(f"{name}: {json.dumps(result[name])} ({time.perf_counter() - begin:.1f} s)", flush=True)
        write_json(options.output, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
