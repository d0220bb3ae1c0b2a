"""Train the compact prior model: a small CLIP for machines where BiomedCLIP cannot be loaded.

    PYTHONPATH=bundle python -m studies.compact_prior --data DIR [DIR ...] --out bundle/models/prior --seed 0

Each DIR holds one folder a patient with one DICOM series, or with one folder a series. The labels say from which to
which z (mm, the third value of ImagePositionPatient) each descriptor is visible. The result is a folder in
open_clip's local-dir form.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scripts.dicom import find_series
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS, make_prior
from scripts.staging import staged_folder
from scripts.volumes import radiological_slices
from torch.nn import functional

from .compact_prior_evaluation import LabelledSlices, evaluate, patient_of, read_labels, visible_at, write_readme

TRAIN_SHAPE = 256  # pixels of a slice while training; half of a CT slice
THICKEST_MM = 5.0  # slices farther apart are not averaged with their neighbour: it shows other anatomy
HELD_OUT = ("CRLM-CT-1004", "CRLM-CT-1006", "LIDC-IDRI-0003", "HCC_015", "C3L-00189", "ACRIN-NSCLC-FDG-PET-042")
PHRASES = ("{}", "{}", "{}", "{}", "axial ct with {}", "ct of the {}")  # mostly the bare word, as the prior asks it

MODEL_CFG = {
    "embed_dim": 64,
    "vision_cfg": {"layers": [1, 2, 2, 1], "width": 16, "head_width": 64, "image_size": 128},
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 259,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "hf_tokenizer_name": ".",
    },
}
PREPROCESS_CFG = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def read_patient(folder: Path, ranges: Sequence[tuple[str, float, float]], name: str = "") -> LabelledSlices:
    """Read the one series of a folder, turned as the bundle turns it, and label its slices.

    `name` is that of the labels (default: the folder's).

    Raises:
        BioAttError: the folder holds no series, or several.
    """
    series = find_series(folder)
    if len(series) != 1:
        raise BioAttError(f"{folder} must hold one CT series, found {len(series)}; keep one")
    volume = radiological_slices(folder)
    hu = torch.from_numpy(np.stack([volume[index] for index in range(len(volume))]))
    affine = np.asarray(volume.meta["affine"])
    z_mm = affine[2, 3] + affine[2, 2] * np.arange(len(hu))
    return LabelledSlices(name or folder.name, hu, z_mm, visible_at(ranges, z_mm))


# Augmentation: parameters are drawn in one step and applied in another.


def draw_views(count: int, generator: torch.Generator, closest: torch.Tensor | float = 0.8) -> dict[str, torch.Tensor]:
    """Draw how `count` slices are shown: window, gamma, noise, kernel, position. Every value is a `(count,)` tensor.

    `closest` `(count,)` is the smallest zoom: the share of the image's side that is left to see.
    """

    def uniform(lower: float, upper: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (upper - lower) + lower

    lower, width = uniform(-260, -80), uniform(320, 560)
    whole = uniform(0, 1) < 0.2  # a window over nearly everything, as min-max scaling of a slice makes it
    closest = torch.as_tensor(closest).expand(count)
    return {
        "lower_hu": torch.where(whole, uniform(-2048, -900), lower),
        "width_hu": torch.where(whole, uniform(1900, 4200), width),
        "gamma": uniform(0.8, 1.25),
        "noise_hu": 160 * uniform(0, 1) ** 2 * (uniform(0, 1) < 0.8),  # at half of a CT slice's pixels
        "smooth": uniform(0, 1).round(),
        "streak": (uniform(0, 1) < 0.2).float(),
        "blur": uniform(-0.8, 1) * (uniform(0, 1) < 0.5),  # below 0 it sharpens
        "hide_table": uniform(0, 1) < 0.5,
        "angle_rad": uniform(-0.17, 0.17),
        "zoom_x": closest * (1.3 / closest) ** uniform(0, 1),
        "stretch": uniform(0.85, 1.18),
        "shift_x": uniform(-0.12, 0.12),
        "shift_y": uniform(-0.12, 0.12),
        "noise_seed": torch.randint(2**31, (1,), generator=generator),
    }


def show(hu: torch.Tensor, body: torch.Tensor, views: Mapping[str, torch.Tensor], shape: int) -> torch.Tensor:
    """Make images `(B, shape, shape)` in [0, 1] of HU `(B, 2 shape, 2 shape)`, as `views` says.

    Left and right are never swapped: the side of the liver is part of what is to be recognised.
    """
    column = {name: value.view(-1, 1, 1) for name, value in views.items()}
    hu = torch.where(column["hide_table"] & ~body, torch.full_like(hu, -1024.0), hu)
    hu = torch.lerp(hu, functional.avg_pool2d(hu[:, None], 3, stride=1, padding=1)[:, 0], column["blur"])
    hu = hu + column["noise_hu"] * _noise(hu.shape, views, int(views["noise_seed"]))
    image = ((hu - column["lower_hu"]) / column["width_hu"]).clip(0, 1)
    cos, sin = views["angle_rad"].cos(), views["angle_rad"].sin()
    zoom_x, zoom_y = views["zoom_x"], views["zoom_x"] * views["stretch"]
    theta = torch.stack(
        [
            torch.stack([cos * zoom_x, -sin * zoom_y, views["shift_x"]], 1),
            torch.stack([sin * zoom_x, cos * zoom_y, views["shift_y"]], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, [len(hu), 1, shape, shape], align_corners=False)
    image = functional.avg_pool2d(image[:, None], 3, stride=1, padding=1)  # against aliasing: every second pixel stays
    return functional.grid_sample(image, grid, align_corners=False)[:, 0] ** column["gamma"]


def _noise(shape: Sequence[int], views: Mapping[str, torch.Tensor], seed: int) -> torch.Tensor:
    """Noise of variance 1: white, blurred (a soft kernel), or in horizontal streaks (shoulders), as drawn."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    for drawn, kernel in ((views["streak"] > 0, (1, 9)), ((views["streak"] == 0) & (views["smooth"] > 0), (3, 3))):
        padding = (kernel[0] // 2, kernel[1] // 2)
        pooled = functional.avg_pool2d(noise[drawn][:, None], kernel, stride=1, padding=padding)[:, 0]
        noise[drawn] = pooled * (kernel[0] * kernel[1]) ** 0.5
    return noise


def body_mask(hu: torch.Tensor) -> torch.Tensor:
    """The patient without the table: the largest piece above -300 HU of each slice, holes filled. bool, as `hu`."""
    from scipy import ndimage

    mask = np.zeros(hu.shape, dtype=bool)
    for index, image in enumerate(hu.numpy()):
        pieces, count = ndimage.label(ndimage.binary_opening(image > -300, iterations=2))
        if count:
            sizes = np.bincount(pieces.ravel())[1:]
            mask[index] = ndimage.binary_fill_holes(pieces == 1 + sizes.argmax())
    return torch.from_numpy(ndimage.binary_dilation(mask, np.ones((1, 3, 3)), iterations=2))


# The model and its training.


def write_skeleton(folder: Path) -> None:
    """Write everything of the local-dir form but the weights: open_clip_config.json and the tokenizer's files.

    The tokenizer is byte-level without merges: 256 bytes, padding 0, start 257, end 258. The end has the highest
    number, because open_clip reads the sentence's embedding at the token of the highest number.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = {"<pad>": 0}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[symbol] = len(vocabulary)
    vocabulary |= {"<start>": 257, "<end>": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 257), ("<end>", 258)]
    )
    tokenizer.add_special_tokens(["<pad>", "<start>", "<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def train(patients: Sequence[LabelledSlices], folder: Path, *, steps: int, seed: int, batch_size: int = 16) -> None:
    """Train on `patients` and put open_clip_model.safetensors (float16) into `folder`, which holds the skeleton.

    The loss of a slice is the cross entropy of its target and the softmax over the descriptors' texts, so the prior
    is calibrated to the soft target. What is kept is the running average of the weights.
    """
    import open_clip
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # open_clip draws its first weights from the global generator
        network = open_clip.model.CLIP(**copy.deepcopy(MODEL_CFG))
    network = network.to(memory_format=torch.channels_last)  # a third less time on processors
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    slices = _pool(patients)
    for step in range(steps):
        images, target = _batch(slices, batch_size, generator)
        phrase = PHRASES[int(torch.randint(len(PHRASES), (1,), generator=generator))]
        texts = network.encode_text(tokenizer([phrase.format(word) for word in DESCRIPTORS]), normalize=True)
        logits = network.logit_scale.exp() * network.encode_image(images, normalize=True) @ texts.T
        loss = functional.cross_entropy(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} of {steps}: cross entropy {loss.item():.3f}", flush=True)
    state = average.module.state_dict()
    halves = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
    save_file({name: v.contiguous() for name, v in halves.items()}, str(folder / "open_clip_model.safetensors"))


def _pool(patients: Sequence[LabelledSlices]) -> dict[str, torch.Tensor]:
    """All slices in one pool, smaller. A patient is drawn as the root of the number of their slices: many slices
    tell more than few, but neighbours tell the same; several series of one patient are one patient."""
    hu = [functional.avg_pool2d(p.hu[:, None].clip(-2048, 3071), p.hu.shape[-1] // TRAIN_SHAPE)[:, 0] for p in patients]
    body = torch.cat([body_mask(h) for h in hu])
    starts = np.cumsum([0] + [len(p.hu) for p in patients[:-1]])
    total: dict[str, int] = {}
    for p in patients:
        total[patient_of(p.patient)] = total.get(patient_of(p.patient), 0) + len(p.hu)
    return {
        "hu": torch.cat(hu),
        "body": body,
        "target": torch.cat([p.target for p in patients]),
        "above": torch.cat([_above(p) + int(s) for p, s in zip(patients, starts, strict=True)]),
        "weight": torch.cat([torch.full((len(p.hu),), total[patient_of(p.patient)] ** -0.5) for p in patients]),
        "closest": _closest(body),
    }


def _above(patient: LabelledSlices) -> torch.Tensor:
    """Index of the slice above each; its own where there is none, or none within `THICKEST_MM`."""
    index = torch.arange(len(patient.hu))
    apart_mm = np.diff(patient.z_mm, append=np.inf)
    return torch.where(torch.from_numpy(np.abs(apart_mm) <= THICKEST_MM), index + 1, index)


def _closest(body: torch.Tensor) -> torch.Tensor:
    """The smallest zoom that keeps a body `(B, h, w)` in view; 0.8 for large ones, of which a little may be cut."""
    place = torch.linspace(-1, 1, body.shape[-1]).abs()
    reach = torch.maximum((body.any(1) * place).amax(1), (body.any(2) * place).amax(1))
    return (1.1 * reach).clip(0.35, 0.8)


def _batch(
    slices: Mapping[str, torch.Tensor], size: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw augmented images `(size, 3, h, w)` and targets; a third are averaged with the slice above (thicker)."""
    index = torch.multinomial(slices["weight"], size, replacement=True, generator=generator)
    share = torch.rand(size, generator=generator) * 0.5 * (torch.rand(size, generator=generator) < 0.33)
    above = slices["above"][index]
    hu = torch.lerp(slices["hu"][index], slices["hu"][above], share[:, None, None])
    target = torch.lerp(slices["target"][index], slices["target"][above], share[:, None])
    views = draw_views(size, generator, slices["closest"][index])
    images = show(hu, slices["body"][index], views, MODEL_CFG["vision_cfg"]["image_size"])
    images = ((images - PREPROCESS_CFG["mean"][0]) / PREPROCESS_CFG["std"][0])[:, None].expand(-1, 3, -1, -1)
    return images.contiguous(memory_format=torch.channels_last), target


def build(
    data: Path | Sequence[Path],
    out: Path,
    labels: Path,
    held_out: Sequence[str],
    *,
    seed: int,
    steps: int,
    only: Sequence[str] | None = None,
    previous: Path | None = None,
) -> dict[str, object]:
    """Read, train, evaluate and write the folder `out`, whole or not at all; return the figures.

    Args:
        data: folder, or folders, with one folder a patient.
        out: folder of the model, replaced whole.
        labels: labels.csv.
        held_out: patients to evaluate only.
        seed: of first weights and draws.
        steps: of training.
        only: the labelled series to use (default: all).
        previous: folder of an older model, evaluated on the patients held out for comparison.

    Raises:
        BioAttError: a series of the labels has no folder in `data`, or a patient held out has no labels.
    """
    ranges = read_labels(labels)
    ranges = {name: ranges[name] for name in only or ranges}
    roots = [data] if isinstance(data, Path) else list(data)
    folders = {name: next((root / name for root in roots if (root / name).is_dir()), None) for name in ranges}
    missing = sorted(set(held_out) - {patient_of(name) for name in ranges})
    missing += [name for name, folder in folders.items() if folder is None]
    if missing:
        where = ", ".join(str(root) for root in roots)
        raise BioAttError(
            f"{', '.join(missing)}: not in {labels} or no folder of {where}; correct labels or --held-out"
        )
    patients = [read_patient(folder, ranges[name], name) for name, folder in folders.items() if folder]
    evaluated = [p for p in patients if patient_of(p.patient) in held_out]
    known = [p for p in patients if patient_of(p.patient) not in held_out]
    with staged_folder(out, overwrite=True) as folder:
        write_skeleton(folder)
        shutil.copyfile(labels, folder / "labels.csv")
        constant = torch.cat([p.target for p in known]).mean(0)
        old = make_prior(f"local-dir:{previous}") if previous else None
        before = {p.patient: evaluate(old, p, constant) for p in evaluated} if old else {}
        train(known, folder, steps=steps, seed=seed)
        source = make_prior(f"local-dir:{folder}")
        record = {
            "seed": seed,
            "steps": steps,
            "digest": source.digest,
            "held_out": {p.patient: evaluate(source, p, constant) for p in evaluated},
            "trained_on": {p.patient: evaluate(source, p, constant) for p in known},
            "previous_digest": old.digest if old else None,
            "previous": before,
        }
        (folder / "figures.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        write_readme(folder, record, MODEL_CFG["vision_cfg"]["image_size"])
        for file in folder.iterdir():
            file.chmod(0o644)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 done, 2 input or usage."""
    parser = argparse.ArgumentParser(prog="python -m studies.compact_prior", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with one folder a patient")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, replaced whole")
    parser.add_argument("--labels", type=Path, help="default: labels.csv in --out")
    parser.add_argument("--held-out", nargs="*", default=HELD_OUT, help="patients that are only evaluated")
    parser.add_argument("--previous", type=Path, help="folder of an older model to compare with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    chosen = parser.parse_args(arguments)
    labels = chosen.labels or chosen.out / "labels.csv"
    torch.set_num_threads(1)  # sums in another order give another model
    try:
        record = build(
            chosen.data,
            chosen.out,
            labels,
            chosen.held_out,
            seed=chosen.seed,
            steps=chosen.steps,
            previous=chosen.previous,
        )
    except BioAttError as error:
        print(f"error: {error}")
        return 2
    print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
