"""Where to compute, and how this process holds its memory."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BioAttError

if TYPE_CHECKING:
    import torch


_KINDS = ("cpu", "cuda", "mps")
#: What a network may be asked to run in; ``auto`` is bf16 where it is faster.
PRECISIONS = ("auto", "fp32", "bf16")
#: Instructions of x86 processors that make bf16 faster than fp32, as Linux spells them.
_BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}


def find_device(device: str | torch.device) -> torch.device:
    """The torch device of a name, if this machine has it.

    Raises:
        BioAttError: it has not, or the name is none.
    """
    import torch

    kind = str(device).partition(":")[0]
    if kind not in _KINDS:
        raise BioAttError(f"device {str(device)!r} is not one; expected {' or '.join(_KINDS)}, e.g. cuda:0")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if kind == "cuda" and not torch.cuda.is_available():
            reason = "PyTorch finds no GPU here"
        raise BioAttError(f"device {str(device)!r} is not usable: {reason}; use cpu") from error
    return found


def find_precision(precision: str, device: str | torch.device) -> str:
    """``fp32`` or ``bf16``: what `precision` means on a device.

    ``auto`` is bf16 on GPUs that compute in it, and on processors with AVX512-BF16 or AMX (where Linux tells); fp32 on
    all others. Processors without these instructions can run bf16, but take many times as long.

    Raises:
        BioAttError: `precision` is none of `PRECISIONS`.
    """
    import torch

    if precision not in PRECISIONS:
        raise BioAttError(f"precision is {precision!r}, expected {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    fast = kind == "cpu" and not _BF16_INSTRUCTIONS.isdisjoint(processor("flags").split())
    fast = fast or (kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    return "bf16" if fast else "fp32"


@cache
def processor(entry: str) -> str:
    """An entry of /proc/cpuinfo, such as ``flags`` or ``model name``; empty where there is no such file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(entry)), "")


def usable_cores() -> int:
    """Cores that this process may use; all of them where the system does not say (macOS, Windows)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Let the C library reuse the blocks of feature maps, where it is glibc; return whether it agreed.

    By default glibc gives a freed block of more than a few MiB back to the kernel, and the next layer of the network
    faults the same pages in again, which costs a fast network a fifth of its time on a CPU. Blocks up to 32 MiB
    (glibc's highest threshold) are kept here, at most 512 MiB of them; volumes are larger and are given back as ever.
    """
    import ctypes
    import sys

    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries of Linux have none
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return mallopt is not None and bool(mallopt(mmap_threshold, 32 << 20) and mallopt(trim_threshold, 512 << 20))
