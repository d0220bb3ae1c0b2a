"""Where to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import BioAttError

if TYPE_CHECKING:
    import torch


def find_device(device: str | torch.device) -> torch.device:
    """The torch device of a name, if this machine has it.

    Raises:
        BioAttError: it has not, or the name is none.
    """
    import torch

    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BioAttError(f"device {str(device)!r} is not usable ({reason}); use cpu or cuda:0") from error
    return found
