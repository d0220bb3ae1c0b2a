"""Mutated files end in a right volume or in our one error: a taste in the fast suite, the whole run marked slow."""

from __future__ import annotations

import pytest
from fuzz_dicom import make_input, run, seed_files


def test_two_hundred_mutated_files():
    counts, failures = run(seed=7, inputs=200)
    assert failures == [] and sum(counts.values()) == 200
    assert counts["pixels"] + counts["writer"] + counts["right"] >= 100


def test_inputs_can_be_made_again_by_number(tmp_path):
    first = make_input(seed_files(tmp_path / "a"), 7, 3)
    assert first == make_input(seed_files(tmp_path / "b"), 7, 3)
    assert first != make_input(seed_files(tmp_path / "c"), 8, 3)


@pytest.mark.slow
def test_twenty_thousand_mutated_files():
    counts, failures = run(seed=1, inputs=20_000)
    assert failures == []
    assert counts["pixels"] + counts["writer"] + counts["right"] >= 10_000
