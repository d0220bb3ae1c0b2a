"""Progress bars on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(total: int, what: str, shown: bool = True, unit: str = "slice") -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the number of things just done; draws a bar if `shown`."""
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit) as drawn:
        yield drawn.update
