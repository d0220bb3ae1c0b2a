"""Writes docs/reference: the command line from its parser, the config keys from the configs and the code they name."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

DOCS = Path(__file__).resolve().parent
BUNDLE = DOCS.parent / "bundle"
CONFIGS = BUNDLE / "configs"
WHOLE = ("inference.json", "train.json")
MADE_BY = "<!-- made by `make reference`; change the parser, the configs or the docstrings instead -->"

#: Keys that belong to no argument of ours, or to several in different ways.
KEYS = {
    "bundle_root": "the bundle's folder; the default suits a run that starts there",
    "overwrite": "replace an existing folder that holds results of BioAtt alone",
    "report": "write a report beside the results",
    "cache_dir": "where the pairs are kept; made if missing",
    "device": "what the networks run on",
    "prior": "where the anatomical prior comes from: what `--prior` takes, see [commands](commands.md#bioatt-denoise)",
    "weights": "the weights file",
    "bf16": "train the network in bfloat16",
    "precision": "of the network: `auto` (bf16 on GPUs and processors where it is faster), `fp32` or `bf16`",
    "seed": "of splits, simulated noise, patches and first weights",
    "progress": "show progress bars",
    "steps_per_epoch": "steps, one batch each, that count as an epoch",
    "structure_weight": "of the error of weak structures, in shares of the squared error; 0 leaves it out",
    "average_decay": "of the running average of the weights; 0 keeps the last weights themselves",
    "processes": "studies that are simulated at a time",
    "learning_rate": "of the optimiser, at the start",
    "gradient_norm": "gradients are clipped to this norm; 0 clips nothing",
    "val_interval": "epochs between validations",
    "checkpoint_interval": "epochs between checkpoints",
    "resume": "go on from `checkpoint.pt` in `output_dir`",
    "tensorboard": "write TensorBoard's files",
    "split_fractions": "shares of patients in the training, validation and test splits",
    "split_file": "where the split is kept; shared by several runs, it gives them the same patients",
    "validation_dose_fraction": "full-dose fraction of the simulated low doses of the validation split",
    "validation_slices_per_patient": "slices per patient of the validation split; 0 for all",
    "summary_path": "where the figures per patient are written",
    "slices_path": "where the figures per slice are written",
    "imports": "what is imported before the config is read",
    "run": "the steps that run where no other key is named",
    "training": "the steps of `monai.bundle run training`",
    "evaluation": "the steps of `monai.bundle run evaluation`",
    "inference": "the steps of `monai.bundle run inference`",
    "network": "the network on its device, with weights where it runs inference",
    "initialise_from": "a weights file that the training starts from; empty: from scratch",
    "compile": "compile the network with torch.compile before it runs",
    "recipe_only": "the steps that write the recipe of OUT/model.pt without a training",
    "clipped_optimizer": "the optimiser, which clips gradients before each step",
}

#: Keys of one config, which mean something else in the other or go to arguments that are described for programs.
KEYS_OF = {
    "inference.json": {
        "dataset_dir": "a DICOM series, a file of another format, or a folder of such files",
        "output_dir": "the folder that is made; must not exist, unless `overwrite`",
        "series": "SeriesInstanceUID or SeriesNumber, if a folder holds several",
        "assume_hu": "accept values as HU even if they do not look like it or have no unit",
        "allow_gaps": "continue although slices of a DICOM series are missing",
        "one_scan": "treat images of several studies or series as one scan, for de-identified data",
        "isolated": "decode in a separate process even where that is no faster: a crash ends only that",
        "strength": "`low`, `standard` or `high`, see docs/anchoring.md",
        "anchor_mm": "SD of the anchor's Gaussian in mm, instead of that of `strength`; null takes that",
        "grain": "share of the fine noise added back, from 0 to 1, instead of that of `strength`; null takes that",
        "restore": "share of the detail that is restored, from 0 (none) to 1 (all); null is the default, 1",
        "batch_size": "slices that the network takes at a time",
        "summary": "print the summary of the run at its end",
    },
    "train.json": {
        "dataset_dir": "DATA, one folder or a list of them, see docs/data.md",
        "output_dir": "the folder that is made",
        "batch_size": "patches of a step, over all processes",
    },
}


def commands_page() -> str:
    """All commands of `bioatt` with their arguments."""
    from scripts.app.command_line import build_parser
    from scripts.pages import table

    parser = build_parser()
    (commands,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    titles = {one.dest: one.help for one in commands._choices_actions}
    parts = [f"# Command line\n\n{MADE_BY}\n\n{parser.description} {_sentence(parser.epilog)}"]
    parts.append(table(("command", ""), [(f"[{n}](#bioatt-{n})", t) for n, t in titles.items()]))
    for name, command in commands.choices.items():
        arguments = sorted(command._actions, key=lambda one: bool(one.option_strings))  # those without a name first
        rows = [_argument_row(one) for one in arguments if one.help != argparse.SUPPRESS and one.dest != "help"]
        parts.append(f"## bioatt {name}\n\n{_sentence(command.description)}\n\n{table(('argument', ''), rows)}")
        if command.epilog:
            parts.append("\n".join(f"    {line}".rstrip() for line in command.epilog.strip().splitlines()))
    return "\n\n".join(parts) + "\n"


def _argument_row(action: argparse.Action) -> tuple[str, str]:
    value = action.metavar if action.metavar is not None else "" if action.nargs == 0 else action.dest.upper()
    value = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else value
    value = " ".join(value) if isinstance(value, tuple) else value
    many = " ..." if action.nargs in ("+", "*") else ""
    words = ", ".join(f"{option} {value}".strip() for option in action.option_strings) or value
    needed = " (required)" if action.required and action.option_strings else ""
    return f"`{words}{many}`", f"{_cell(action.help or '')}{needed}"


def configs_page() -> str:
    """All keys of the configs: settings with their defaults, parts with what they are, and the overrides."""
    from scripts.pages import table

    parts = [
        f"# Config keys\n\n{MADE_BY}\n\nEach setting is a key: `--KEY VALUE` of `monai.bundle run`, `--set KEY=VALUE`\n"
        "of `bioatt train` and `bioatt evaluate`. A part can be replaced as a whole or by its arguments, e.g.\n"
        "`network_def#attention=spatial`. A default in `$...` is computed, `@KEY` stands for another key."
    ]
    for name in WHOLE:
        config = json.loads((CONFIGS / name).read_text())
        settings = [(f"`{key}`", _value(value), meaning(name, config, key)) for key, value in _settings(config)]
        components = [(f"`{key}`", f"`{part['_target_']}`", _what(part)) for key, part in _components(config)]
        parts.append(f"## {name}\n\n" + table(("setting", "default", ""), settings))
        parts.append(table(("part", "made by", ""), components))
    parts.append(
        "## Overrides\n\nGiven after the config they change: `--config_file \"['train.json','resume.json']\"`."
    )
    for file in sorted(CONFIGS.glob("*.json")):
        if file.name not in (*WHOLE, "metadata.json"):
            rows = [(f"`{key}`", _value(value)) for key, value in json.loads(file.read_text()).items()]
            parts.append(f"### {file.name}\n\n" + table(("key", "value"), rows))
    return "\n\n".join(parts) + "\n"


def meaning(name: str, config: dict[str, Any], key: str) -> str:
    """What a setting of the config means: from `KEYS_OF` or `KEYS`, else from the docstring of its argument of ours."""
    words = KEYS | KEYS_OF[name]
    if key in words:
        return words[key]
    for part in _dictionaries(config):
        for argument, value in part.items():
            if value == f"@{key}" and part.get("_target_", "").startswith("scripts."):
                text = _arguments(locate(part["_target_"])).get(argument, "")
                if text:
                    return _cell(text)
    return ""


def _settings(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    sections = {key for key, value in config.items() if isinstance(value, dict)}
    return ((key, value) for key, value in config.items() if key not in sections and not _holds_parts(value))


def _components(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Parts by their key; those inside a list by its key and their number."""
    for key, value in config.items():
        for number, one in enumerate(value) if _holds_parts(value) else [(None, value)]:
            name = f"{prefix}{key}" if number is None else f"{prefix}{key}#{number}"
            if isinstance(one, dict) and "_target_" in one:
                yield name, one
                nested = {k: v for k, v in one.items() if isinstance(v, dict) or _holds_parts(v)}
                yield from _components(nested, f"{name}#")
            elif isinstance(one, dict):
                yield from _components(one, f"{name}#")


def _holds_parts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) and "_target_" in one for one in value)


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dictionaries(one)


def _what(part: dict[str, Any]) -> str:
    """First sentence of the docstring, where the part is ours."""
    name = part["_target_"]
    networks = locate("scripts.networks")
    found = locate(name) if name.startswith("scripts.") else getattr(networks, name, None)
    return _cell(inspect.getdoc(found).split("\n\n")[0]) if found else ""


def _arguments(component: Any) -> dict[str, str]:
    """Texts of the ``Args:`` section of a docstring, by argument."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(component) or "", re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    for names, text in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {6,}.*)*)", section[1] if section else "", re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def _value(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(one, str) and len(one) > 20 for one in value):
        return "<br>".join(f"`{one}`" for one in value)
    text = json.dumps(value)
    return f"`{text}`" if len(text) < 100 else "see the file"


def _cell(text: str) -> str:
    return " ".join(text.replace("%%", "%").replace("``", "`").split()).replace("|", "\\|")


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


PAGES = {"commands.md": commands_page, "configs.md": configs_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (DOCS / "reference").mkdir(exist_ok=True)
        (DOCS / "reference" / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(BUNDLE))
    main()
