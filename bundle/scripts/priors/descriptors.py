"""The words a prior is a distribution over."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import BioAttError

#: The paper's 11 anatomical descriptors, in its order (arXiv 2504.01662; the authors' table has the same columns).
DESCRIPTORS: tuple[str, ...] = (
    "skull",
    "ventricles",
    "lungs",
    "mediastinum",
    "liver",
    "kidneys",
    "pancreas",
    "spleen",
    "abdominal aorta",
    "spine",
    "lymph nodes",
)


def check_descriptors(descriptors: Sequence[str]) -> tuple[str, ...]:
    """Return `descriptors` as a tuple if a prior over them means something.

    Raises:
        BioAttError: none, a repeated or an empty one, or a single string.
    """
    if isinstance(descriptors, str):
        raise BioAttError(f"descriptors must be a list of words, got the string {descriptors!r}; put it in []")
    words = tuple(descriptors)
    if not words:
        raise BioAttError("descriptors is empty; name at least one word, or leave it out for the paper's 11")
    if any(not isinstance(word, str) or not word.strip() for word in words):
        raise BioAttError(f"descriptors must be non-empty words, got {list(words)}; remove the empty one")
    repeated = sorted({word for word in words if words.count(word) > 1})
    if repeated:
        raise BioAttError(f"descriptors are named twice: {', '.join(repeated)}; name each once")
    return words
