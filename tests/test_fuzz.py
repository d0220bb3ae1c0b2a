"""Damaged input ends in a right result or in our one error: a taste in the fast suite, the longer runs marked slow."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from fuzz import KINDS, find_kind, make_input, run


@pytest.mark.parametrize(("what", "inputs"), [("dicom", 150), ("nifti", 150), ("list", 100)])
def test_some_mutated_inputs(tmp_path, what, inputs):
    counts, failures = run(what, seed=7, inputs=inputs, keep=tmp_path / "kept")
    assert failures == [] and sum(counts.values()) == inputs and not (tmp_path / "kept").exists()
    assert counts["pixels"] + counts["writer"] + counts["right"] >= inputs * (0.5 if what != "list" else 0.2)


@pytest.mark.parametrize("what", KINDS)
def test_inputs_can_be_made_again_by_number(tmp_path, what):
    kind, made = find_kind(what), []
    for seed in (7, 7, 8):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        seeds = kind.seeds(folder) if not made else made[0][0]
        made.append((seeds, [make_input(kind, seeds, seed, number) for number in range(20)]))
    assert made[0][1] == made[1][1] != made[2][1]
    assert sum(content not in [seed for _, seed in made[0][0]] for _, content in made[0][1]) >= 15


@pytest.mark.parametrize("what", ["dicom", "nifti"])
def test_what_was_damaged_before_can_be_damaged_further(tmp_path, what):
    """Guided, an input is made from an input: pydicom or gzip may not even open it."""
    kind = find_kind(what)
    seeds = [content for _, content in kind.seeds(tmp_path) if len(content) < 1 << 15]
    rng = np.random.default_rng(0)
    for _ in range(40):
        content = seeds[int(rng.integers(len(seeds)))]
        for _ in range(12):
            content = kind.mutate(content, rng) if len(content) >= 20 else content
    unknown = next(one for one in seeds if what != "dicom" or b"\x08\x00\x16\x00UI" in one)
    for content in (unknown.replace(b"\x08\x00\x12\x00DA", b"\x08\x00\x12\x00D\x00"), unknown[:-60], b"\x1f\x8b" * 20):
        for _ in range(60):
            assert isinstance(kind.mutate(content, rng), bytes)


def test_a_wrong_result_and_a_crash_are_seen_and_kept(tmp_path):
    kind = find_kind("fuzz_broken")
    inputs = [make_input(kind, kind.seeds(None), 0, number)[1] for number in range(30)]
    expected = {b"0": ("crash", "the process died"), b"1": ("right", "wrong")}
    counts, failures = run("fuzz_broken", seed=0, inputs=30, keep=tmp_path, tell=lambda line: None)
    assert {number: (stage, wrong) for number, _, stage, wrong in failures} == {
        number: expected[content] for number, content in enumerate(inputs) if content in expected
    }
    assert counts == {"right": 30 - inputs.count(b"0"), "crash": inputs.count(b"0")} and counts["crash"] >= 1
    for number, _, _, _ in failures:
        assert (tmp_path / f"fuzz_broken-0-{number}").read_bytes() == inputs[number]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "inputs"), [("dicom", 20_000), ("nifti", 20_000), ("table", 3000), ("list", 3000)])
def test_many_mutated_inputs(what, inputs):
    counts, failures = run(what, seed=1, inputs=inputs)
    assert failures == []
    if what in ("dicom", "nifti"):
        assert counts["pixels"] + counts["writer"] + counts["right"] >= inputs / 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
@pytest.mark.parametrize("what", ["dicom", "nifti", "list", "checkpoint"])
def test_inputs_driven_by_coverage(what):
    counts, failures = run(what, seed=1, inputs=1000, guided=True)
    assert failures == [] and sum(counts.values()) == 1000
