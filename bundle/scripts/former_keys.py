"""Config keys of older versions and what took their place: a setting that is ignored in silence is a fault."""

from __future__ import annotations

from collections.abc import Iterable

#: Key to what took its place, or why there is nothing.
FORMER_KEYS = {
    "slices_per_batch": "batch_size says how many patches a step has, steps_per_epoch how many steps an epoch",
    "patches_per_slice": "batch_size says how many patches a step has, steps_per_epoch how many steps an epoch",
    "noise_gain": "it is augmentation#noise_gain",
    "shrink_probability": "patches are zoomed, see augmentation#zoom and augmentation#zoom_probability",
    "shrink_factors": "patches are zoomed, see augmentation#zoom and augmentation#zoom_probability",
    "noise_zoom": "the noise is matched to each series, augmentation#zoom and augmentation#filter_gain vary it",
    "filter_names": "the filter is matched to each series, augmentation#filter_gain varies it",
    "target_weights": "targets are without bias and are not cleaned (docs/adr/0014)",
    "targets": "targets are without bias and are not cleaned (docs/adr/0014)",
    "cleaning": "targets are without bias and are not cleaned (docs/adr/0014)",
    "routine_probability": "targets are without bias, so routine dose needs no patches of its own (docs/adr/0014)",
    "num_workers": "patches are cut on the device",
    "scope_only": "it is recipe_only",
    "initial_weights": "it is initialise_from",
    "validate_patients": "it is validation_patients",
    "validate_dose_fraction": "it is validation_dose_fraction",
    "validate_slices_per_patient": "it is validation_slices_per_patient",
    "bf16": "it is precision (auto, fp32 or bf16) but for training",
}
#: Options of the command that are gone, likewise.
FORMER_OPTIONS = {
    "--bf16": "auto is the default now, else --precision bf16",
    **dict.fromkeys(("--networks", "--priors", "--backbone"), "--study names the arms, of the bundle or a JSON file"),
    "--realisations": "each --seed is another realisation",
    "--format": "the suffix of the file says it, .onnx or .pt2; for TorchScript see monai.bundle ckpt_export",
    "--projector": "there is one projector, the fast one",
    **dict.fromkeys(
        ("--network", "--prior-form", "--prior-temperature", "--prior-preparation", "--prior-window"),
        "the recipe beside the weights says it",
    ),
    "--validate": "it is --validation for `bioatt train`, --patients for `bioatt evaluate`",
}
#: Config files that are gone, likewise.
FORMER_CONFIGS = {"second_stage.json": "training has one stage; shipped.json trains the weights that ship"}


def told(keys: Iterable[str]) -> str:
    """What became of those of `keys` that are gone, ``key is gone: what to do; ...``; nothing if none is."""
    return "; ".join(f"{key} is gone: {FORMER_KEYS[key]}" for key in keys if key in FORMER_KEYS)
