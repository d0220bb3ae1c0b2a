"""The shipped network beside networks of another form, trained on the same targets and data, and anchored alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from scripts.errors import BioAttError
from scripts.evaluation.handlers import read_curve
from scripts.priors import SliceKey
from scripts.workflow import CONFIGS

from .bench import Bench
from .denoisers import open_network
from .limits import Limit
from .methods import anchored, gaussians
from .plane import GAUSSIAN, EvaluatedNetwork, Found, above_gaussian, filter_figures

#: The configs of the first training of the shipped weights; and what a baseline's has in their place, besides its form.
RECIPE = (CONFIGS / "train.json", CONFIGS / "shipped.json")
LENGTH = Path(__file__).with_name("redcnn32.json")
#: The network without an anchor.
BARE = "bare"
#: Slice whose time is taken, and how often.
TIMED_SHAPE, TIMES = (512, 512), 5


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A network of the comparison.

    Args:
        name: in the tables.
        weights: its weights file.
        network_config: a config whose network_def fits the weights; inference.json's own if empty.
        curve: curve.csv of its training; None where it is not at hand.
        batch_size: patches a step of that training.
    """

    name: str
    weights: Path
    network_config: str = ""
    curve: Path | None = None
    batch_size: int = 0


def baseline(text: str) -> Contestant:
    """A baseline as the command line spells it, ``NAME=WEIGHTS.pt:NETWORK.json``; without config, of our own form.

    Raises:
        BioAttError: it is not spelt so, or the weights are missing.
    """
    name, equals, files = text.partition("=")
    weights, _, config = files.partition(":")
    if not name or not equals or not weights:
        raise BioAttError(
            f"--baseline {text}: expected NAME=WEIGHTS.pt:NETWORK.json, e.g. redcnn=r.pt:network_redcnn.json"
        )
    if not Path(weights).is_file():
        raise BioAttError(f"--baseline {text}: there is no {weights}; `make baselines` trains it")
    path, curve = Path(config), Path(weights).with_name("curve.csv")
    return Contestant(
        name=name,
        weights=Path(weights),
        network_config=str(path.resolve()) if config and path.is_file() else config,
        curve=curve if curve.is_file() else None,
        batch_size=setting("batch_size", *RECIPE, *([LENGTH] if config else [])),
    )


def setting(key: str, *configs: Path) -> Any:
    """A setting of a training's configs, each of which overrides those before it."""
    return ConfigParser(ConfigParser.load_config_files([str(path) for path in configs]))[key]


def measure_baselines(
    bench: Bench, networks: Sequence[Contestant], strengths: Mapping[str, tuple[float, float]], prior: str = "uniform"
) -> dict[str, Any]:
    """The plane and the error against the truth of networks side by side, and what a slice costs.

    Args:
        bench: patients left out of all trainings.
        networks: ours first.
        strengths: name to (anchor in mm, share of the grain); each network is also evaluated bare.
        prior: as everywhere; networks without attention do not look at it.

    Returns:
        ``patients``; ``settings``; ``figures`` by network, setting and patient (see `patient_figures`), and of the
        Gaussian; ``networks``: their records, with ``seconds_a_slice``; ``curves``: validated epochs of each training
        whose curve is there; ``patches_a_step``; ``limits``: the first network against the others of another form.
    """
    settings = {BARE: (0.0, 0.0), **strengths}
    ways = {name: anchored(*numbers) for name, numbers in settings.items()}
    found: Found = {GAUSSIAN: filter_figures(bench, gaussians())}
    records = {}
    for one in networks:
        network = EvaluatedNetwork(one.name, one.weights, one.network_config, prior, ways, settings)
        found[one.name] = network.evaluated(bench)
        records[one.name] = timed(one, prior)
    forms = {name: record["network"].partition("(")[0] for name, record in records.items()}
    ours, *others = records
    return {
        "dose_fraction": bench.patients[0].dose_fraction,
        "patients": {one.name: one.about() for one in bench.patients},
        "settings": {name: list(numbers) for name, numbers in settings.items()},
        "figures": found,
        "networks": records,
        "curves": {one.name: validated(one.curve) for one in networks if one.curve},
        "patches_a_step": {one.name: one.batch_size for one in networks if one.curve},
        "limits": [
            limit.as_dict() for name in others if forms[name] != forms[ours] for limit in limits(found, ours, name)
        ],
    }


def timed(one: Contestant, prior: str) -> dict[str, Any]:
    """The record of a network, with the least processor time of one core for one slice among several, in s."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        opened = open_network(one.weights, network_config=one.network_config, prior=prior, strength=None, device="cpu")
        slice_hu = np.random.default_rng(0).normal(40.0, 30.0, TIMED_SHAPE).astype(np.float32)
        prior_of_slice = opened.prior(slice_hu, SliceKey(index=0, sop_instance_uid=""))
        seconds = []
        for _ in range(TIMES):
            began = time.process_time()
            opened.output(slice_hu, prior_of_slice)
            seconds.append(time.process_time() - began)
    finally:
        torch.set_num_threads(threads)
    return opened.record | {"seconds_a_slice": min(seconds)}


def limits(found: Found, ours: str, theirs: str) -> list[Limit]:
    """Ours has less error and keeps more of the least contrast above a Gaussian, on every patient and setting."""
    made = []
    for name, of in found[ours].items():
        for patient, one in of.items():
            other, told = found[theirs][name][patient], f"{patient}, {name}: {{}} of {ours} over that of {theirs}"
            for region in ("body", "edges"):
                ratio = one["error_hu2"][region] / other["error_hu2"][region]
                made.append(Limit(told.format(f"error of {region}"), ratio, "<", 1.0, ""))
            points = [above_gaussian(found, figures, patient, "4") for figures in (one, other)]
            lead = f"{patient}, {name}: 4 mm above a Gaussian, {ours} less {theirs}"
            made.append(Limit(lead, points[0] - points[1], ">=", 0.0, "points"))
    return made


def validated(curve: Path) -> list[dict[str, float]]:
    """Steps, PSNR and the low dose's PSNR of the epochs of a curve.csv that were validated."""
    return [
        {"steps": int(row["iteration"]), **{key: float(row[key]) for key in ("psnr_db", "low_psnr_db")}}
        for row in read_curve(curve)
        if row["psnr_db"]
    ]
