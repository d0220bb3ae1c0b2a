"""What the page of speed adds to `bioatt benchmark`: processes on a list, training, a plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripts.benchmark.run import to_markdown
from scripts.device import usable_cores
from scripts.errors import BioAttError

from studies import benchmark
from studies.benchmark import cohort_line, main, measure, time_processes, time_training, training_line, write_page
from studies.speed_page import put

DOCS = Path(__file__).parents[2] / "docs"
ROW = {"device": "cpu", "precision": "fp32", "gflop_per_second": 1.0}
NETWORK = ROW | {"name": "n", "seconds_per_slice": 0.5, "gflop_per_slice": 1.0, "share_of_roofline": 0.5}
COHORT = {"series": 6, "slices_per_series": 2, "processes": 2, "slices_per_second_of_one": 1.0}
COHORT |= {"slices_per_second_of_one_on_all_cores": 1.7}
FIGURES = {
    "machine": dict.fromkeys(("processor", "cores", "threads", "instructions", "gpu", "system"), "") | {"versions": {}},
    "shape": [8, 8],
    "repeats": 1,
    "networks": [NETWORK | {"peak_memory_mib": None, "times_as_fast_as_stock": 1.0}],
    "notes": [],
    "rooflines": [ROW | {"name": "product"}],
    "products": [ROW | {"name": "product"}],
    "series": {"source": "synthetic", "slices": 1, "device": "cpu", "seconds_per_slice": 1.0, "around_the_network": 0.1}
    | {"times_as_fast_as_stock": None}
    | dict.fromkeys([f"{part}seconds" for part in ("", "read_", "prior_", "network_", "write_")], 1.0),
    "cohort": COHORT | {"slices_per_second_of_all": 1.8, "ratio": 1.8},
    "training": {
        "device": "cpu",
        "steps_per_second": 4.0,
        "waiting_for_data": 0.178,
        "steps": 8,
        "peak_memory_mib": None,
    },
}


def test_training_steps_are_timed(tmp_path):
    training = time_training(tmp_path, (96, 96), 4)
    assert training["steps"] == 8, "four steps an epoch, and two epochs count"
    assert training["steps_per_second"] > 0 and 0 < training["waiting_for_data"] < 1
    assert training["peak_memory_mib"] is None or training["peak_memory_mib"] > 100
    assert f"data {training['waiting_for_data']:.1%} of the time" in training_line(training)


@pytest.mark.slow
@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_processes_on_a_list_are_timed_against_one(tmp_path):
    found = time_processes(tmp_path, (64, 64), 2, 2)
    assert found["series"] == 6 and found["slices_per_series"] == 2
    for kind in ("1x1", "1x2", "2x1"):
        assert len(list((tmp_path / f"out{kind}").glob("series*/*.dcm"))) == 12
    assert found["ratio"] == pytest.approx(found["slices_per_second_of_all"] / found["slices_per_second_of_one"])
    assert f"{found['ratio']:.2f} times the rate" in cohort_line(found)


def test_the_page_is_that_of_the_command_and_what_else_was_measured(tmp_path):
    write_page(tmp_path / "page.md", FIGURES)
    page = (tmp_path / "page.md").read_text()
    assert page.startswith(to_markdown(FIGURES))
    for line in (cohort_line(FIGURES["cohort"]), training_line(FIGURES["training"]), "![seconds per slice](page.png)"):
        assert line in page
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"


def test_the_list_alone_is_measured_into_both_pages(tmp_path, monkeypatch):
    found = FIGURES["cohort"] | {"ratio": 1.95}
    write_page(tmp_path / "page.md", FIGURES)
    (tmp_path / "cohort.md").write_text("before\n<!-- processes -->\nold\n<!-- /processes -->\nafter\n")
    before = (tmp_path / "page.md").read_text()
    monkeypatch.setattr(benchmark, "usable_cores", lambda: 2)
    monkeypatch.setattr(benchmark, "time_processes", lambda *_: found)
    pages = [str(tmp_path / name) for name in ("page.md", "cohort.md")]
    main([str(tmp_path / "runs"), pages[0], "--only-cohort", "--cohort-page", pages[1]])
    assert json.loads((tmp_path / "runs" / "cohort.json").read_text()) == found
    assert (tmp_path / "page.md").read_text() == before.replace("1.80 times the rate", "1.95 times the rate") != before
    line = cohort_line(found)
    assert (tmp_path / "cohort.md").read_text() == f"before\n<!-- processes -->\n{line}\n<!-- /processes -->\nafter\n"


def test_the_pages_have_a_place_for_the_line():
    for name in ("evidence/performance.md", "cohort.md"):
        assert put((DOCS / name).read_text(), benchmark.MARK, ["x"])


@pytest.mark.parametrize("processes", [1, 100_000])
def test_a_core_for_each_process_is_needed_before_anything_is_measured(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(benchmark, "run_benchmark", lambda *_, **__: pytest.fail("it was begun"))
    with pytest.raises(BioAttError, match="expected 2 to .*, a core for each"):
        measure(tmp_path, tmp_path / "page.md", processes=processes)
