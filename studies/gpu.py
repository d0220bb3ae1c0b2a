"""What a short stay at a GPU measures: parity with the CPU, speed and memory of the networks, priors, one study.

    PYTHONPATH=bundle:. python -m studies.gpu OUT.json [--slices N] [--side PIXELS]

Needs nothing but PyTorch, MONAI and the bundle, and a minute; without a GPU, a small side.
`studies/gpu.sh` puts it into a stay with a training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
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


def phantom_slices(count: int, side: int = 512) -> Tensor:
    """Noisy slices (count, 1, side, side) in network range: an ellipse of tissue with rods, in air."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(2 * [torch.arange(float(side)) - side / 2], indexing="ij")
    hu = torch.where((rows / (0.35 * side)) ** 2 + (columns / (0.45 * side)) ** 2 < 1, 50.0, -1000.0)
    for angle in range(0, 360, 30):
        turned = torch.tensor(float(angle)).deg2rad()
        hu[((rows - 120 * turned.sin()) ** 2 + (columns - 120 * turned.cos()) ** 2) < (4 + angle / 24) ** 2] += (
            angle / 3
        )
    noise = 25.0 * torch.randn(count, side, side, generator=generator)
    return ((hu + noise).clamp(-1024, 3071)[:, None] + 500.0) / 500.0


@torch.inference_mode()
def parity(network: nn.Module, images: Tensor, prior: Tensor, device: torch.device) -> dict[str, dict[str, float]]:
    """Output on the device, in fp32 and bf16, less that of the CPU in fp32: RMS and largest, in HU."""
    reference = network(images, prior)
    there = network.to(device, memory_format=torch.channels_last)
    found = {}
    for name, bf16 in (("fp32", False), ("bf16", True)):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = there(images.to(device), prior.to(device)).float().cpu()
        difference = (output - reference) * 500.0
        found[name] = {"rms_hu": difference.square().mean().sqrt().item(), "largest_hu": difference.abs().max().item()}
    network.cpu()
    return found


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


def main() -> int:
    """Measure, and write a JSON file."""
    parser = argparse.ArgumentParser(prog="python -m studies.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--slices", type=int, default=4, help="for the parity")
    parser.add_argument("--weights", type=Path, default=Path(__file__).parents[1] / "bundle" / "models" / "model.pt")
    parser.add_argument("--side", type=int, default=512, help="of the slices, in pixels")
    options = parser.parse_args()
    from scripts.networks import BioAtt, load_weights, make_network, read_recipe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_weights(make_network(read_recipe(options.weights)), options.weights)
    prior = torch.softmax(torch.randn(options.slices, 11, generator=torch.Generator().manual_seed(1)), 1)
    batches = (1, 4, 16, 32) if device.type == "cuda" else (1,)
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "matrix_product_tflops": rooflines(device),
        "parity": parity(network, phantom_slices(options.slices, options.side), prior, device),
        "default network": speed(network, device, batches, options.side),
        "stock RED-CNN": speed(BioAtt(attention="none"), device, batches[:3], options.side),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
