"""The benchmark runs, small, and its figures belong together; the exact path gives the output of the plain form."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import time

import pytest
import torch
from made_studies import lively_network
from scripts.app.command_line import main
from scripts.benchmark import run as benchmark
from scripts.benchmark.run import EXACT, STOCK, Candidate, to_markdown
from scripts.device import usable_cores
from scripts.errors import BioAttError
from scripts.networks import BioAtt, BioAttUNet, load_weights, use_winograd


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A benchmark of small images and networks: its folder, and the page."""
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "BioAtt", lambda channels, attention: BioAtt(8, attention))
        words = ["--size", "48", "--slices", "3", "--repeats", "2", "--threads", "1"]
        assert main(["benchmark", "--output", str(folder), *words]) == 0
    return folder


def test_the_command_writes_figures_and_page(small):
    assert {path.name for path in small.iterdir()} == {"benchmark.json", "benchmark.md"}
    figures = json.loads((small / "benchmark.json").read_text())
    assert (small / "benchmark.md").read_text() == to_markdown(figures)


def test_memory_is_kept_as_by_every_command_whoever_measures(monkeypatch, tmp_path):
    """Without it the fast network takes a fifth longer on a processor."""
    done = []

    def networks(*_):
        done.append("networks")
        raise BioAttError("enough")

    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setattr(benchmark, "_networks", networks)
    with pytest.raises(BioAttError, match="enough"):
        benchmark.run_benchmark(tmp_path)
    assert done == ["kept", "networks"]


def test_the_figures_belong_together(small):
    figures = json.loads((small / "benchmark.json").read_text())
    rooflines = {row["precision"]: row["gflop_per_second"] for row in figures["rooflines"] if row["device"] == "cpu"}
    for precision, roofline in rooflines.items():
        rates = [row["gflop_per_second"] for row in figures["products"] if row["precision"] == precision]
        assert roofline == max(rates)
    assert {row["precision"] for row in figures["networks"]} == set(rooflines)
    rows = {(row["name"], row["precision"]): row for row in figures["networks"]}
    stock = rows[STOCK, "fp32"]
    assert {STOCK, EXACT} <= {name for name, _ in rows} and any(name.startswith("default") for name, _ in rows)
    for row in figures["networks"]:
        assert len(row["all_seconds"]) == figures["repeats"] == 2
        assert row["gflop_per_second"] == pytest.approx(row["gflop_per_slice"] / row["seconds_per_slice"])
        assert row["share_of_roofline"] == pytest.approx(row["gflop_per_second"] / rooflines[row["precision"]])
        assert row["times_as_fast_as_stock"] == pytest.approx(stock["seconds_per_slice"] / row["seconds_per_slice"])
        assert row["peak_memory_mib"] is None or row["peak_memory_mib"] > 100
    assert rows[EXACT, "fp32"]["gflop_per_slice"] == stock["gflop_per_slice"] > 0


def test_the_parts_of_a_series_add_up(small):
    series = json.loads((small / "benchmark.json").read_text())["series"]
    parts = [series[f"{part}_seconds"] for part in ("read", "prior", "network", "write")]
    assert series["slices"] == 3 and min(parts) > 0
    assert sum(parts) == pytest.approx(series["seconds"])


def test_the_path_of_the_series_is_compared_with_stock(small):
    figures = json.loads((small / "benchmark.json").read_text())
    series = figures["series"]
    stock = next(row for row in figures["networks"] if row["name"] == STOCK)
    expected = stock["seconds_per_slice"] * series["slices"] / series["network_seconds"]
    assert series["times_as_fast_as_stock"] == pytest.approx(expected)
    assert f"body is {expected:.1f} times stock RED-CNN" in (small / "benchmark.md").read_text()


def test_where_the_system_tells_no_cores_all_count_and_these_tests_are_collected(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()
    spec = importlib.util.spec_from_file_location("collected_again", __file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_no_host_is_named(small):
    text = (small / "benchmark.json").read_text() + (small / "benchmark.md").read_text()
    assert platform.node() not in text and str(small) not in text


def test_operations_of_red_cnn_are_those_of_its_definition():
    """Multiplications of ten 5x5 layers, 96 channels, each counted at the place where it is smaller or larger."""
    network, side = BioAtt(channels=96, attention="none").eval(), 40
    image, prior = torch.rand(1, 1, side, side), torch.full((1, 11), 1 / 11)
    counted = benchmark.count_gflop(network, image, prior)
    inner = sum((side - 4 * layer) ** 2 for layer in (2, 3, 4, 5))  # outputs of conv2..5 = inputs of deconv1..4
    expected = 2 * 25 * (2 * 96 * (side - 4) ** 2 + 96 * 96 * 2 * inner) / 1e9
    assert counted == pytest.approx(expected)


def test_candidates_take_turns_and_medians_are_taken(monkeypatch):
    order = []

    def candidate(name, durations):
        left = iter([0.0, *durations])

        def run():
            order.append(name)
            clock[0] += next(left)

        return Candidate(name=name, device="cpu", precision="fp32", gflop=12.0, run=run)

    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    found = benchmark._measure(
        [candidate("slow product", [6, 6, 6]), candidate("product", [2, 9, 3])],
        [candidate(STOCK, [8, 80, 8]), candidate("fast", [1, 2, 90])],
        repeats=3,
    )
    assert order == ["slow product", "product", STOCK, "fast"] * 4
    (roofline,) = found["rooflines"]
    assert roofline["name"] == "product" and roofline["gflop_per_second"] == 4.0
    stock, fast = found["networks"]
    assert stock["seconds_per_slice"] == 8 and stock["times_as_fast_as_stock"] == 1
    assert fast["seconds_per_slice"] == 2 and fast["times_as_fast_as_stock"] == 4 and fast["share_of_roofline"] == 1.5


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((name, value), "1 or more")
        for name in ("--repeats", "--size", "--slices", "--threads")
        for value in ("0", "-1")
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, capsys, words, wanted):
    assert main(["benchmark", "--output", str(tmp_path / "b"), *words]) == 2
    assert wanted in capsys.readouterr().err and not (tmp_path / "b").exists()


@pytest.mark.parametrize("size", [(64, 64), (37, 90)])
def test_the_exact_path_of_red_cnn_gives_the_output_of_the_plain_form(tmp_path, size):
    """Non-trivial weights: the output lies far from the input, and all layers matter."""
    torch.manual_seed(0)
    plain = BioAtt(channels=96, attention="none").eval()
    with torch.no_grad():
        for weight in plain.parameters():
            weight.mul_(1.6 if weight.dim() > 1 else 1.0)
    torch.save(plain.state_dict(), tmp_path / "w.pt")
    exact = load_weights(BioAtt(channels=96, attention="none"), tmp_path / "w.pt")
    image = torch.rand(2, 1, *size)
    with torch.inference_mode():
        expected, got = plain(image), exact(image)
    assert (expected - image).std() > 0.05
    assert exact.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (63, 65), pytest.param((2048, 2047), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make",
    [lambda: BioAttUNet(widths=(8, 12, 16)), lambda: lively_network(8), lambda: use_winograd(BioAtt(channels=32))],
)
def test_any_size_gives_a_finite_image_of_that_size(make, size):
    with torch.inference_mode():
        denoised = make().eval()(torch.rand(1, 1, *size), torch.full((1, 11), 1 / 11))
    assert denoised.shape == (1, 1, *size) and torch.isfinite(denoised).all()
