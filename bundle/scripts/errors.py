"""The one error class of the bundle: what was wrong, where, and what to do about it; how it ends a program."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

#: What the system says about a path that somebody named, or that lies below one; all else is a fault of ours.
_ABOUT_A_PATH = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EROFS}


class BioAttError(Exception):
    """Bad input, missing file or unusable setting, reported in one line.

    Every message names the thing (file, UID, tag, key), says what was expected and what was found, and ends with
    the remedy. The command line and the MONAI workflows print it as one line and end with exit code 2.
    Messages never hold values of the DICOM Patient or Study modules.
    """

    def __init__(self, message: str) -> None:
        words = " ".join(str(message).split())  # what a library said may have had several lines
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in words))  # no terminal codes


def find_bioatt_error(error: BaseException | None) -> BioAttError | None:
    """Return the BioAttError that `error` is or was caused by, else None.

    MONAI wraps what a config component raises in a RuntimeError; the chain of causes still holds ours. A GPU whose
    memory is full is reported as one of ours, wherever it happens, and so is a path that the system refuses.
    """
    for one in causes(error):
        if isinstance(one, BioAttError):
            return one
        if type(one).__name__ == "OutOfMemoryError":  # PyTorch's, which is not imported here
            return BioAttError(
                f"the memory of the GPU is full ({str(one).partition('. ')[0]}); use smaller batches "
                "(--batch-size 1, in training batch_size), stop what else runs there, or use --device cpu"
            )
        if isinstance(one, OSError) and one.errno in _ABOUT_A_PATH and one.filename is not None:
            return BioAttError(f"{one.filename} cannot be used: {one.strerror}; check the path and its permissions")
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield `error`, and then what each came from, as a traceback shows them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def exit_code(work: Callable[[], int | None]) -> int:
    """Do `work` and return its exit code (None is 0): 2 for bad input or usage, 130 if it was stopped by hand."""
    try:
        return work() or 0
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left", file=sys.stderr)
        return 130
    except Exception as error:
        ours = find_bioatt_error(error)
        if ours is None:
            raise
        print(f"error: {ours}", file=sys.stderr)
        return 2


def printable(words: object) -> str:
    """`words` without line breaks, control characters and what could not be decoded: safe to show."""
    return "".join(letter if letter.isprintable() and letter != "\ufffd" else " " for letter in str(words)).strip()


def first_few(words: Sequence[str], separator: str = ", ") -> str:
    """The first five of `words`, and how many more there are: as much as a message of one line holds."""
    more = len(words) - 5
    return separator.join(words[:5]) + (f" and {more} more" if more > 0 else "")


class KeptWarnings(logging.Handler):
    """Keeps the warnings that a logger it is added to gets."""

    def __init__(self, records: Iterable[logging.LogRecord] = ()) -> None:
        super().__init__(logging.WARNING)
        self.records = list(records)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.records.append(record)
