"""The runs of the study: each trains one network on the patients of all folds but one and evaluates it on that one's.

Each finished run is one small JSON file; a run that is interrupted loses only itself. Workers are processes that take
runs from one list, so imports and the device are made ready once a worker.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scripts.ablation import record_name, swap_priors
from scripts.errors import BioAttError
from scripts.evaluation.lesions import Lesion, contrast_recovery
from scripts.evaluation.plane import Disc, PlaneSlice
from scripts.evaluation.truth import pooled, squared_error
from scripts.hu import VALID_RANGE_HU, hu_to_network, network_to_hu
from scripts.networks import BioAttUNet
from scripts.priors import DESCRIPTORS, RandomPrior, SliceKey
from scripts.staging import write_json
from scripts.training import PatchBatches, ProbedSquaredError, WeightAverage, clip_gradients
from scripts.training.pairs import CachedPair
from torch import Tensor, nn

from .pack import ALPHA2, DOSE_FRACTION, Pack, PackedSlice, read_pack

STUDY = Path(__file__).with_name("study.json")
#: A worker begins no run that would take longer than is left, by the last one and this much more.
MARGIN_SHARE = 1.1
#: So many runs that fail one after another end a worker.
MOST_FAILURES = 2


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: an arm, from a seed, with the patients of one fold left out to evaluate on."""

    arm: str
    attention: str
    prior: str
    seed: int
    fold: int

    def file(self, results: Path, settings: Mapping[str, Any], made: Mapping[str, Any]) -> Path:
        """Where its record is."""
        return results / record_name(self.arm, f"fold{self.fold}", self.seed, [asdict(self), settings, made])


def read_study(overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """study.json: ``arms``, ``baselines``, ``seeds`` and ``settings``, with other settings where `overrides` say so.

    Raises:
        BioAttError: a setting is not known.
    """
    study = json.loads(STUDY.read_text(encoding="utf-8"))
    unknown = sorted(set(overrides or {}) - set(study["settings"]))
    if unknown:
        raise BioAttError(f"settings {', '.join(unknown)} are not known; there are {', '.join(study['settings'])}")
    study["settings"] |= overrides or {}
    return study


def plan(study: Mapping[str, Any], folds: int) -> list[Run]:
    """All runs: all arms of one seed and fold before the next, so that a part of them can be compared."""
    return [
        Run(arm=arm, attention=one["attention"], prior=one["prior"], seed=seed, fold=fold)
        for seed in range(study["seeds"])
        for fold in range(folds)
        for arm, one in study["arms"].items()
    ]


# One run.


def priors_of(pack: Pack, prior: str, fold: int) -> np.ndarray:
    """Priors of all slices, (n, K) or (n, K, h, w), by models that saw no patient of `fold`."""
    if prior == "uniform":
        return np.full((len(pack.slices), len(DESCRIPTORS)), 1.0 / len(DESCRIPTORS), np.float32)
    if prior == "random":
        keys = [SliceKey(index, one.uid) for index, one in enumerate(pack.slices)]
        return RandomPrior(0)(torch.zeros(len(keys), 1, 1), keys).numpy()
    if prior == "oracle":
        return pack.labels["oracle"]
    return pack.priors[f"{prior}_{fold}"]


def items_of(pack: Pack, prior: str, fold: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Items to train on and, of the patients of `fold`, to evaluate on, as `PatchBatches` takes them."""
    priors = priors_of(pack, prior, fold)
    train, evaluate = [], []
    for index, one in enumerate(pack.slices):
        pair = CachedPair(
            path=pack.pairs[index],
            priors=priors[index : index + 1],
            patient=one.patient,
            key=SliceKey(index, one.uid),
            uid=one.uid,
            dose_fractions=(DOSE_FRACTION,),
        )
        item = {"pair": pair, "patient": one.patient, "index": index}
        (evaluate if one.patient in pack.folds[fold] else train).append(item)
    return train, evaluate


def train(run: Run, items: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], device: torch.device) -> nn.Module:
    """Train a network from scratch; the running average of its weights is what comes back.

    Batches depend on seed and step alone and first weights on the seed, so arms differ in nothing else.
    """
    torch.manual_seed(run.seed)
    network = BioAttUNet(widths=settings["widths"], attention=run.attention)
    network = network.to(device, memory_format=torch.channels_last)
    batches = PatchBatches(
        items,
        batch_size=settings["batch_size"],
        patch_shape=settings["patch_shape"],
        steps=settings["steps"],
        augmentation=dict(settings["augmentation"]),
        seed=run.seed,
        device=device,
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=settings["learning_rate"])
    clip_gradients(optimizer, settings["gradient_norm"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings["steps"])
    loss = ProbedSquaredError(settings["structure_weight"])
    average = WeightAverage(network, settings["average_decay"])
    engine = SimpleNamespace(state=SimpleNamespace(iteration=0))
    average.start(engine)
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = network(batch["image"], batch["prior"])
        optimizer.zero_grad(set_to_none=True)
        loss(output.float(), batch["label"]).backward()
        optimizer.step()
        schedule.step()
        engine.state.iteration += 1
        average.update(engine)
    return average.network.eval()


def evaluate(
    network: nn.Module,
    pack: Pack,
    items: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    attends: bool,
) -> dict[str, Any]:
    """Figures by patient.

    Returns:
        Of each patient ``low`` and ``right``, the mean squared error against the truth in HU^2 of the low dose and the
        output in the body; with a prior also ``uniform`` and ``other region``, the same weights with another prior;
        ``contrast``, the share of the discs' contrast that is kept, by diameter; ``slices`` and ``discs``.
    """
    device = next(network.parameters()).device
    swapped = swap_priors(items, others) if attends else [None] * len(items)
    errors: dict[str, dict[str, list[tuple[float, int]]]] = {}
    kept: dict[str, dict[str, list[float]]] = {}
    for item, swap in zip(items, swapped, strict=True):
        one: PackedSlice = pack.slices[item["index"]]
        with np.load(item["pair"].path) as arrays:
            full, low, body = arrays["full"].astype(np.float32), arrays["low"][0].astype(np.float32), arrays["body"]
        seen = PlaneSlice(
            low_hu=low,
            anatomy_hu=full,
            spacing_mm=one.spacing_mm,
            insertions=[[Disc(Lesion(d, (row, column)), hu) for d, row, column, hu in one.discs]],
        )
        right = torch.from_numpy(item["pair"].priors)
        tests = {"right": right}
        if attends:
            tests |= {"uniform": torch.full_like(right, 1.0 / right.shape[1])}
            tests |= {"other region": torch.from_numpy(swap["pair"].priors)}
        plain, with_discs = seen.images()
        outputs = denoise(
            network, np.stack([plain] * len(tests) + [with_discs]), torch.cat([*tests.values(), right]), device
        )
        own = errors.setdefault(one.patient, {})
        for name, image in {"low": low, **dict(zip(tests, outputs, strict=False))}.items():
            own.setdefault(name, []).append(squared_error(image, full, low - full, ALPHA2, body))
        by_diameter = kept.setdefault(one.patient, {})
        for disc, part, profile in seen.cores[0]:
            share = contrast_recovery(outputs[-1][part] - outputs[0][part], profile, disc.contrast_hu)
            by_diameter.setdefault(f"{disc.lesion.diameter_mm:g}", []).append(share)
    return {
        patient: {
            **{name: pooled(values) for name, values in own.items()},
            "contrast": {diameter: float(np.mean(shares)) for diameter, shares in kept[patient].items()},
            "discs": {diameter: len(shares) for diameter, shares in kept[patient].items()},
            "slices": len(own["low"]),
        }
        for patient, own in errors.items()
    }


@torch.inference_mode()
def denoise(network: nn.Module, images_hu: np.ndarray, priors: Tensor, device: torch.device) -> np.ndarray:
    """Outputs (n, H, W) in HU of images (n, H, W), each with its prior."""
    shown = hu_to_network(torch.from_numpy(images_hu)[:, None].to(device).clamp(*VALID_RANGE_HU))
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        output = network(shown.contiguous(memory_format=torch.channels_last), priors.to(device))
    return network_to_hu(output.float())[:, 0].cpu().numpy()


def do_run(run: Run, pack: Pack, settings: Mapping[str, Any], file: Path, device: torch.device) -> None:
    """Train, evaluate, and write the record."""
    begin = time.perf_counter()
    items, evaluated = items_of(pack, run.prior, run.fold)
    network = train(run, items, settings, device)
    trained = time.perf_counter()
    patients = evaluate(network, pack, evaluated, items, attends=run.attention == "prior")
    told = {
        "settings": dict(settings),
        "made": dict(pack.made),
        "patients": patients,
        "seconds": {"train": round(trained - begin, 2), "evaluate": round(time.perf_counter() - trained, 2)},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_json(file, asdict(run) | told)


# Many runs.


def do_missing(
    pack_folder: Path,
    results: Path,
    study: Mapping[str, Any],
    *,
    scratch: Path,
    workers: int,
    limit_s: float,
    device: str,
) -> tuple[int, int]:
    """Do the runs that are missing in `results`, for `limit_s` seconds at most.

    Args:
        pack_folder: by `make_pack`.
        results: folder of the records.
        study: by `read_study`.
        scratch: where the pack is unpacked.
        workers: processes side by side.
        limit_s: no run begins that would end later; infinite for no limit.
        device: ``cuda`` or ``cpu``.

    Returns:
        How many runs are there, and how many there shall be.
    """
    deadline = time.time() + limit_s
    results.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    todo: Any = context.Queue()
    processes = [
        context.Process(
            target=_work, args=(todo, deadline, (pack_folder, scratch), study, device, workers), daemon=True
        )
        for _ in range(workers)
    ]
    for process in processes:
        process.start()  # they import while the pack is unpacked
    try:
        pack = read_pack(pack_folder, scratch)
        files = {run.file(results, study["settings"], pack.made): run for run in plan(study, len(pack.folds))}
        missing = [(run, file) for file, run in files.items() if not file.exists() and has_prior(pack, run)]
        for job in [*missing, *[None] * workers]:
            todo.put(job)
        for process in processes:
            process.join(max(0.0, deadline - time.time()) if limit_s < float("inf") else None)
    finally:
        for process in processes:
            process.kill()
    return sum(file.exists() for file in files), len(files)


def has_prior(pack: Pack, run: Run) -> bool:
    """Whether the prior of a run is made; says so if not."""
    known = run.prior in ("uniform", "random", "oracle") or f"{run.prior}_{run.fold}" in pack.priors
    if not known:
        print(f"{run.arm}, fold {run.fold}, seed {run.seed}: no prior in the pack; make it by the part `models`")
    return known


def _work(
    todo: Any, deadline: float, places: tuple[Path, Path], study: Mapping[str, Any], device_name: str, workers: int
) -> None:
    """What a worker does: run after run, until there is none, or no time for one."""
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.zeros(1, device=device)  # makes the context ready while there is nothing else to do
    if device.type == "cuda" or workers > 1:
        torch.set_num_threads(1)
    pack, longest, failures = None, 0.0, 0
    while failures < MOST_FAILURES and (job := todo.get()):
        begin = time.time()
        if begin + MARGIN_SHARE * longest > deadline:
            return
        run, file = job
        told = f"{run.arm}, fold {run.fold}, seed {run.seed}"
        try:
            pack = pack or read_pack(*places)
            do_run(run, pack, study["settings"], file, device)
            failures = 0
        except Exception:  # one run that fails must not take the others with it
            failures += 1
            print(f"failed: {told}\n{traceback.format_exc()}", flush=True)
        else:
            longest = max(longest, time.time() - begin)
            print(f"{told}: {time.time() - begin:.1f} s", flush=True)
