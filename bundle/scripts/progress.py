"""Progress bars on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(total: int, what: str, shown: bool = True, unit: str = "slice") -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the number of things just done; draws a bar if `shown`."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, disable=not shown) as drawn:
        yield drawn.update
