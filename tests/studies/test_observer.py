"""The model observer against closed forms: white noise, coloured noise, and verdicts by the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from studies.measures.observer import (
    Scores,
    channel_outputs,
    compare_detectability,
    detectability,
    held_out_scores,
    hotelling_template,
    laguerre_gauss_channels,
    verdict,
)

SIZE, WIDTH = 48, 14.0


def signal(contrast=1.0):
    """A signal in the span of the channels: the first, a Gaussian."""
    return contrast * laguerre_gauss_channels(SIZE, WIDTH, 1)[0]


def scores_of(present, absent, channels=5):
    u = laguerre_gauss_channels(SIZE, WIDTH, channels)
    return held_out_scores(channel_outputs(present, u), channel_outputs(absent, u)[:, None])


def test_the_channels_are_orthonormal():
    u = laguerre_gauss_channels(64, 16.0, 5).reshape(5, -1)
    np.testing.assert_allclose(u @ u.T, np.eye(5), atol=2e-3)


def test_in_white_noise_d_prime_is_the_root_of_the_signals_energy_over_the_noise():
    noise = np.random.default_rng(0).normal(0.0, 2.0, (2, 600, SIZE, SIZE))
    d = detectability(scores_of(noise[0] + signal(4.0), noise[1]))
    assert d == pytest.approx(4.0 / 2.0, rel=0.08)  # the channel has norm 1


def test_in_coloured_noise_d_prime_is_the_channels_hotelling_formula():
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    disc = 0.2 * (np.hypot(axis[:, None], axis) < 3)
    blur = (0, 0, 2.5, 2.5)
    noise = gaussian_filter(np.random.default_rng(1).normal(size=(2, 800, SIZE, SIZE)), blur, mode="wrap")
    u = laguerre_gauss_channels(SIZE, WIDTH, 5)
    blurred = gaussian_filter(u, blur[1:], mode="wrap").reshape(5, -1)  # K = (B u)(B u)^T for noise B x white
    covariance, means = blurred @ blurred.T, channel_outputs(disc[None], u)[0]
    expected = math.sqrt(means @ np.linalg.solve(covariance, means))
    assert detectability(scores_of(noise[0] + disc, noise[1])) == pytest.approx(expected, rel=0.08)
    matched = means @ means / math.sqrt(means @ covariance @ means)
    assert expected > 1.3 * matched, "the case tells a prewhitening observer from a matched filter"


def test_held_out_repeats_find_no_signal_where_there_is_none():
    noise = np.random.default_rng(2).normal(size=(2, 10, SIZE, SIZE))
    u = laguerre_gauss_channels(SIZE, WIDTH)
    present, absent = (channel_outputs(x, u) for x in noise)
    template = hotelling_template(present, absent)
    resubstituted = detectability(Scores(present @ template, absent @ template))
    assert resubstituted > 1.0, "evaluated on what made it, a template sees what is not there"
    many = [scores_of(*np.random.default_rng(i).normal(size=(2, 10, SIZE, SIZE))) for i in range(40)]
    assert np.mean([detectability(one) for one in many]) < 0.1


def test_no_repeat_is_scored_by_a_template_that_saw_it():
    outputs = np.random.default_rng(3).normal(size=(2, 8, 5))
    changed = outputs.copy()
    changed[:, 3] = 100.0
    before, after = (held_out_scores(x[0], x[1][:, None]) for x in (outputs, changed))
    others = np.arange(8) != 3
    template = hotelling_template(outputs[0][others], outputs[1][others])
    assert before.present[3] == pytest.approx(outputs[0][3] @ template)
    assert after.present[3] == pytest.approx(changed[0][3] @ template)
    assert not np.allclose(before.present[others], after.present[others])


def shared_repeats(factor, count=300, contrast=6.0):
    noise = np.random.default_rng(4).normal(0.0, 2.0, (2, count, SIZE, SIZE))
    before = scores_of(noise[0] + signal(contrast), noise[1])
    return before, scores_of(noise[0] + factor * signal(contrast), noise[1])


def test_the_interval_of_the_change_decides():
    before, same = shared_repeats(1.0)
    result = compare_detectability([before], [same], draws=300)
    assert result["change"] == 0.0 and result["verdict"] == "not lower"
    before, halved = shared_repeats(0.5)
    result = compare_detectability([before], [halved], draws=300)
    assert result["change"] == pytest.approx(-0.5, abs=0.06) and result["verdict"] == "lower"
    assert result["change_95"][0] < result["change"] < result["change_95"][1]
    assert result["before_95"][0] < 3.0 < result["before_95"][1]


def test_few_repeats_decide_nothing_where_the_noise_is_not_shared():
    noise = np.random.default_rng(5).normal(0.0, 2.0, (4, 10, SIZE, SIZE))
    before, after = (scores_of(one + signal(5.0), other) for one, other in (noise[:2], noise[2:]))
    assert compare_detectability([before], [after], draws=300)["verdict"] == "undecided"


def test_several_tasks_are_averaged_over_the_same_repeats():
    before, halved = shared_repeats(0.5)
    result = compare_detectability([before, before], [before, halved], draws=200)
    assert result["after"] == pytest.approx((detectability(before) + detectability(halved)) / 2)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ([-0.05, 0.3], "not lower"),
        ([-0.15, 0.3], "undecided"),
        ([-0.4, -0.01], "lower"),
        ([-0.05, -0.01], "lower"),
        (None, "undecided"),
    ],
)
def test_verdicts(interval, expected):
    assert verdict(interval) == expected


def test_several_places_without_the_signal_make_the_estimate_steadier():
    u = laguerre_gauss_channels(SIZE, WIDTH)
    estimates = {1: [], 6: []}
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(0.0, 2.0, (7, 10, SIZE, SIZE))
        present = channel_outputs(noise[0] + signal(4.0), u)
        for places, kept in estimates.items():
            kept.append(
                detectability(held_out_scores(present, channel_outputs(noise[1 : 1 + places], u).swapaxes(0, 1)))
            )
    assert np.mean(estimates[6]) == pytest.approx(2.0, rel=0.25)
    assert np.std(estimates[6]) < 0.8 * np.std(estimates[1])


def test_too_few_repeats_are_refused():
    with pytest.raises(ValueError, match="n of 4 or more"):
        held_out_scores(np.zeros((3, 5)), np.zeros((3, 1, 5)))
