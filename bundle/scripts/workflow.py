"""What the configs call besides components: checks before the work, provenance, and how errors end a run."""

from __future__ import annotations

import ast
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from .data.save import check_places
from .data.volume import find_inputs, is_nifti, series_folders
from .dicom import select_series
from .errors import BioAttError, find_bioatt_error
from .networks import weights_sha256
from .priors import PriorSource
from .provenance import Provenance

logger = logging.getLogger(__name__)

#: Options of `python -m monai.bundle run` itself; all others override a config.
RUN_OPTIONS = {
    "run_id",
    "init_id",
    "final_id",
    "meta_file",
    "config_file",
    "logging_file",
    "tracking",
    "args_file",
    "workflow_type",
    "properties_path",
}


def begin(config_keys: Sequence[str] = ()) -> None:
    """First step of each workflow: one-line errors, and no override that names nothing.

    MONAI accepts a mistyped override in silence and goes on with the default. Does nothing where the workflow was
    not started by ``python -m monai.bundle run``; `bioatt` does the same for itself.

    Args:
        config_keys: keys to accept besides those in the config files.

    Raises:
        BioAttError: an override that no config knows.
    """
    quiet_libraries()
    if not _is_monai_bundle(sys.argv[0] if sys.argv else ""):
        return
    sys.excepthook = _one_line_excepthook
    options = _options(sys.argv[1:])
    if "args_file" in options:
        options = _read_json(options["args_file"]) | options
    check_overrides(options.keys() - RUN_OPTIONS, _config_files(options.get("config_file", "")), config_keys)


def quiet_libraries() -> None:
    """Keep what libraries say about themselves, and no user can change, out of the terminal."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="NvImgCodec")
    for name in ("monai.data.nvimgcodec_pydicom_plugin", "monai.bundle.workflows"):
        logging.getLogger(name).setLevel(logging.ERROR)


def check_overrides(
    overrides: Iterable[str], config_files: Sequence[str | os.PathLike[str]], also: Sequence[str] = ()
) -> None:
    """Refuse an override whose key is in none of the config files.

    Args:
        overrides: keys such as ``prior`` or ``network_def#channels`` (``::`` is MONAI's other spelling of ``#``).
        config_files: the configs, in any order.
        also: further keys that are welcome.

    Raises:
        BioAttError: names the key and those that resemble it.
    """
    import difflib

    configs = [_read_json(file) for file in config_files]
    known = {key for config in configs for key in config} | set(also)
    for override in overrides:
        parts = override.replace("::", "#").split("#")
        if parts[0] not in known or not any(_has(config, parts) for config in configs):
            close = difflib.get_close_matches(parts[0], sorted(known - {parts[0]}), n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(known))}"
            raise BioAttError(f"unknown config override --{override}: no config has this key; {hint}")


def check_inference(
    dataset_dir: str, output_dir: str, *, series: str = "", overwrite: bool = False
) -> list[dict[str, str]]:
    """Look at input and output before anything is loaded, and return the data list of the inference workflow.

    Raises:
        BioAttError: see `find_inputs`, `select_series` and `check_places`.
    """
    inputs = find_inputs(dataset_dir)
    check_places(dataset_dir, output_dir, overwrite)
    for path in inputs:
        if not is_nifti(path):
            select_series(path, series or None)
    return [{"image": str(path)} for path in inputs]


def check_training(dataset_dir: str, train_patients: Sequence[str], validate_patients: Sequence[str]) -> None:
    """Refuse patients that both train and validate, or no patients to validate on.

    Raises:
        BioAttError: names them.
    """
    both = sorted(set(train_patients) & set(validate_patients))
    if both:
        raise BioAttError(f"patients {', '.join(both)} are in train_patients and validate_patients; keep them in one")
    if not validate_patients:
        known = ", ".join(series_folders(dataset_dir))
        raise BioAttError(f"validate_patients is empty; name patients to leave out of training, of {known}")


def make_provenance(network: nn.Module, weights: str, prior_source: PriorSource, version: str) -> Provenance:
    """Put together what is recorded with every result.

    Args:
        network: the network that runs.
        weights: path of its weights file.
        prior_source: where its priors come from.
        version: the bundle's version, from metadata.json.
    """
    logger.info("prior: %s", prior_source.model)
    return Provenance(
        version=str(version),
        network=getattr(network, "title", type(network).__name__),
        weights_sha256=weights_sha256(weights),
        prior=prior_source.name,
        prior_model=prior_source.model,
    )


def _one_line_excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print our error as one line and end with 2; let any other end as it would."""
    ours = find_bioatt_error(error)
    if ours is None:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {ours}", file=sys.stderr, flush=True)
    raise SystemExit(2)  # Python ends with this code when the hook raises it


def _is_monai_bundle(program: str) -> bool:
    return Path(program).parts[-3:] == ("monai", "bundle", "__main__.py")


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """The ``--key value`` and ``--key=value`` options of a command line."""
    options: dict[str, str] = {}
    for position, word in enumerate(arguments):
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            options[key] = value if equals else following
    return options


def _config_files(option: str | Sequence[str]) -> list[str]:
    """One file, or a list of them spelt as Python spells it."""
    if isinstance(option, str) and option.lstrip().startswith(("[", "(")):
        option = ast.literal_eval(option)
    return [option] if isinstance(option, str) else [str(file) for file in option]


def _read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def _has(config: Any, parts: Sequence[str]) -> bool:
    """Whether a config has the nested key; any argument may be added to a component (``_target_``)."""
    for part in parts:
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return isinstance(config, dict) and "_target_" in config
    return True
