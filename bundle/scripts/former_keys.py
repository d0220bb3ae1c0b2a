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
#: Options that are gone, likewise: of all commands, or after the name of one.
FORMER_OPTIONS = {
    "--bf16": "auto is the default now, else --precision bf16",
    **{f"ablate --{name}": "--study names the arms, of the bundle or a JSON file" for name in ("networks", "priors")},
    "ablate --backbone": "--study names the arms, of the bundle or a JSON file",
    "ablate --records": "finished runs are in OUT/runs",
    "ablate --page": "the page is OUT/README.md",
    "simulate --realisations": "each --seed is another realisation",
    "export --format": "it writes ONNX; for TorchScript see monai.bundle ckpt_export",
    "--projector": "there is one projector, the fast one",
    **{
        f"{command} --{option}": "the recipe beside the weights says it"
        for command in ("denoise", "explain", "evaluate", "export")
        for option in ("network", "prior-form", "prior-temperature", "prior-preparation", "prior-window")
    },
    "serve --hold-broken": "failed/ keeps a series that cannot be read, with the reason",
    **{f"benchmark --{name}": "`make benchmark` measures it" for name in ("training", "processes", "page")},
    "--validate": "it is --validation for `bioatt train`, --patients for `bioatt evaluate`",
}
#: Config files that are gone, likewise.
FORMER_CONFIGS = {"second_stage.json": "training has one stage; shipped.json trains the weights that ship"}


def told(keys: Iterable[str]) -> str:
    """What became of those of `keys` that are gone, ``key is gone: what to do; ...``; nothing if none is."""
    return "; ".join(f"{key} is gone: {FORMER_KEYS[key]}" for key in keys if key in FORMER_KEYS)
