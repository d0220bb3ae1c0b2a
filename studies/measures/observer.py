"""Low-contrast detectability: a channelized Hotelling observer with Laguerre-Gauss channels, and its uncertainty.

Sources: Barrett et al., Stabilized estimates of Hotelling-observer detection performance in patient-structured noise,
Proc SPIE 3340 (1998) 27, for the observer; Gallas and Barrett, Validating the use of channels to estimate the ideal
linear observer, J Opt Soc Am A 20 (2003) 1725, for the channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

#: Laguerre-Gauss channels; more of them ask for more repeats than there are.
CHANNELS = 5
#: The loss of detectability that is still called none.
ALLOWED_LOSS = 0.1
#: Relative ridge on the covariance of the channels: keeps channels of nearly no noise from deciding alone.
RIDGE = 1e-3


class Scores(NamedTuple):
    """What the observer says of each repeat with the signal (n,), and of each without it at m places, (n, m).

    ``units`` (n,) tells which repeats belong together, e.g. to one background; each stands for itself if None.
    """

    present: np.ndarray
    absent: np.ndarray
    units: np.ndarray | None = None


def laguerre_gauss_channels(size: int, width: float, channels: int = CHANNELS) -> np.ndarray:
    """Channels ``u_p(r) = sqrt(2) / a exp(-pi r^2 / a^2) L_p(2 pi r^2 / a^2)``, orthonormal: (channels, size, size).

    Args:
        size: pixels on a side; the channels lie on the middle, ``(size - 1) / 2``.
        width: a, in pixels; the first channel falls to 1/e at 0.56 a.
        channels: how many, p = 0, 1, ...
    """
    from scipy.special import eval_laguerre

    axis = np.arange(size) - (size - 1) / 2
    squared = np.pi * (axis[:, None] ** 2 + axis**2) / width**2
    return np.stack([math.sqrt(2) / width * np.exp(-squared) * eval_laguerre(p, 2 * squared) for p in range(channels)])


def channel_outputs(rois_hu: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Inner products of regions (..., size, size) and channels (c, size, size), as (..., c)."""
    return np.tensordot(np.asarray(rois_hu, np.float64), channels, axes=([-2, -1], [1, 2]))


def hotelling_template(present: np.ndarray, absent: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """``w = K^-1 (mean v1 - mean v0)`` with K pooled over both, scaled to scores of variance 1; (c,).

    Pooled means weighted by how many there are: a faint signal does not change the noise.

    Args:
        present, absent: channel outputs (n, c) and (k, c), at least two of each.
        ridge: on the diagonal, as a share of its mean.
    """
    noise = np.concatenate([present - present.mean(0), absent - absent.mean(0)])
    covariance = noise.T @ noise / (len(noise) - 2)
    covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    template = np.linalg.solve(covariance, present.mean(0) - absent.mean(0))
    return template / math.sqrt(max(template @ covariance @ template, np.finfo(float).tiny))


def held_out_scores(present: np.ndarray, absent: np.ndarray, units: np.ndarray | None = None) -> Scores:
    """Score each unit of repeats with the template of all others, so that no template sees what it scores.

    Args:
        present: channel outputs (n, c) of repeats 0 .. n - 1 with the signal, at least four.
        absent: channel outputs (n, m, c) of repeats without it, at m places of equal noise; repeat i of both is left
            out together.
        units: (n,), see `Scores`.
    """
    if present.ndim != 2 or absent.ndim != 3 or len(present) != len(absent) or len(present) < 4:
        raise ValueError(
            f"present must be (n, c) and absent (n, m, c) with n of 4 or more, got {present.shape} and {absent.shape}"
        )
    scores = np.empty(present.shape[:1]), np.empty(absent.shape[:2])
    unit_of = np.arange(len(present)) if units is None else units
    for unit in np.unique(unit_of):
        own = unit_of == unit
        template = hotelling_template(present[~own], absent[~own].reshape(-1, absent.shape[-1]))
        for kept, outputs in zip(scores, (present, absent), strict=True):
            kept[own] = outputs[own] @ template
    return Scores(*scores, units)


def detectability(scores: Scores) -> float:
    """``d' = (mean t1 - mean t0) / s`` with the pooled variance s^2 of both; NaN where the scores do not vary.

    With as many scores with the signal as without, s^2 is the mean of both variances, as d' is usually written.
    """
    present, absent = scores.present, scores.absent.ravel()
    squares = ((present - present.mean()) ** 2).sum() + ((absent - absent.mean()) ** 2).sum()
    spread = math.sqrt(squares / (len(present) + len(absent) - 2))
    return float((present.mean() - absent.mean()) / spread) if spread > 0 else math.nan


def compare_detectability(
    before: list[Scores], after: list[Scores], *, draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """d' before and after a network, of one task or as the mean over several, with bootstrap intervals over repeats.

    A draw takes repeats with replacement, with and without the signal apart, and the same ones before and after and in
    all tasks, since these share their noise. Templates stay those of the data, so the interval is that of the scores.

    Args:
        before, after: scores by task (one disc, say), with the same number of repeats.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        ``before`` and ``after``; ``before_95`` and ``after_95``; ``change``, after / before - 1, and ``change_95``;
        ``verdict``, see `verdict`. The change is None where d' before does not differ from 0.
    """
    generator = np.random.default_rng(seed)
    count = len(before[0].present)
    drawn = np.empty((draws, 2))
    for row in drawn:
        present, absent = generator.integers(0, count, (2, count))
        for column, tasks in enumerate((before, after)):
            row[column] = np.mean([detectability(Scores(one.present[present], one.absent[absent])) for one in tasks])
    values = [float(np.mean([detectability(one) for one in tasks])) for tasks in (before, after)]
    return change_of_detectability(values, drawn.T)


def change_of_detectability(values: Sequence[float], drawn: Sequence[np.ndarray]) -> dict[str, Any]:
    """What `compare_detectability` returns, of d' before and after, and of what was drawn of both, (draws,) each."""
    drawn = np.stack(drawn, axis=1)
    drawn = drawn[np.isfinite(drawn).all(1)]
    intervals = np.quantile(drawn, [0.025, 0.975], axis=0).T.tolist()
    seen = intervals[0][0] > 0
    change_95 = (np.quantile(drawn[:, 1] / drawn[:, 0], [0.025, 0.975]) - 1).tolist() if seen else None
    return {
        "before": values[0],
        "after": values[1],
        "before_95": intervals[0],
        "after_95": intervals[1],
        "change": values[1] / values[0] - 1 if seen else None,
        "change_95": change_95,
        "verdict": verdict(change_95),
    }


def verdict(change_95: list[float] | None, allowed_loss: float = ALLOWED_LOSS) -> str:
    """``not lower``, ``lower`` or ``undecided``, by the 95% interval of the relative change of d'.

    Lower: the whole interval is a loss. Not lower: it is not, and no loss beyond `allowed_loss` lies in it. Undecided:
    it allows such a loss and no loss too, or the disc cannot be seen before.
    """
    if change_95 is None:
        return "undecided"
    if change_95[1] < 0:
        return "lower"
    return "not lower" if change_95[0] >= -allowed_loss else "undecided"
