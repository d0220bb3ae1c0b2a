"""What the configs call besides components: checks before the work, provenance, and how errors end a run."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow, run
from monai.bundle.config_item import ComponentLocator

from .device import keep_freed_memory
from .dicom import KnownSeries, check_stable_uids
from .errors import BioAttError, find_bioatt_error
from .former_keys import FORMER_CONFIGS, told
from .inference import InferenceSummary
from .networks import Denoiser, weights_sha256
from .ownership import check_replaceable_report
from .priors import PriorSource
from .provenance import Provenance
from .strengths import Strength, as_strength
from .volumes.formats import format_of
from .volumes.save import check_places
from .volumes.volume import find_inputs, load_volume

logger = logging.getLogger(__name__)

BUNDLE_ROOT = Path(__file__).resolve().parents[1]
CONFIGS = BUNDLE_ROOT / "configs"
#: Overrides that are words of users: paths, names of series, text. They are never code.
_WORDS = {"dataset_dir", "output_dir", "series", "series_description", "weights", "prior"}
#: Options of `python -m monai.bundle run` itself; all others override a config.
RUN_OPTIONS = {*inspect.signature(run).parameters, *inspect.signature(ConfigWorkflow).parameters} - {"override"}


def begin() -> None:
    """First step of each workflow: one-line errors, no override that names nothing, no switch that is a word.

    MONAI accepts a mistyped override in silence and goes on with the default. Does nothing where the workflow was
    not started by ``python -m monai.bundle run``; `bioatt` does the same for itself.

    Raises:
        BioAttError: an override that no config knows, or a switch that is neither True nor False.
    """
    quiet_libraries()
    program = Path(sys.argv[0] if sys.argv else "")
    if program.parts[-3:] != ("monai", "bundle", "__main__.py"):
        return
    keep_freed_memory()
    sys.excepthook = _one_line_excepthook
    options = _options(sys.argv[1:])
    if "args_file" in options:
        options = ConfigParser.load_config_file(options["args_file"]) | options
    files = _config_files(options["config_file"])
    check_configs(files)
    check_overrides(options.keys() - RUN_OPTIONS, files)
    check_switches(options, files)
    check_tracking(options.get("tracking"))


def run_workflow(
    run_id: str, config_names: Sequence[str], overrides: dict[str, Any], tracking: str | None = None
) -> ConfigWorkflow:
    """Run a workflow of the bundle's configs, as `python -m monai.bundle run` does, and return it with its parts."""
    workflow = open_workflow(run_id, config_names, overrides, tracking)
    sys.path[:] = dict.fromkeys(sys.path)  # each run of MONAI's adds the bundle's folder once more
    workflow.run()
    workflow.finalize()
    return workflow


def open_workflow(
    run_id: str, config_names: Sequence[str], overrides: dict[str, Any], tracking: str | None = None
) -> ConfigWorkflow:
    """A workflow of the bundle's configs, ready to run; its parts are made when they are asked for.

    Args:
        run_id: ``inference``, ``training`` or ``evaluation``.
        config_names: files in configs/, later ones override earlier ones.
        overrides: config keys and values; a value may be a ready object, such as a network. Paths, series, description
            and prior are taken as they are, whatever they begin with.
        tracking: ``mlflow``, or a JSON file with MONAI's settings of a tracker; None tracks nothing.
    """
    check_tracking(tracking)
    files = [str(CONFIGS / name) for name in config_names]
    for file in files:
        if not Path(file).is_file():
            known = ", ".join(sorted(path.name for path in CONFIGS.glob("*.json")))
            why = FORMER_CONFIGS.get(Path(file).name, f"it has {known}")
            raise BioAttError(f"no config {Path(file).name} in the bundle; {why}")
    check_overrides(overrides, files)
    workflow = ConfigWorkflow(
        config_file=files,
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        run_id=run_id,
        workflow_type=None,
        tracking=tracking,
        bundle_root=str(BUNDLE_ROOT),
        **{key: _literal(value) if key in _WORDS else value for key, value in overrides.items()},
    )
    workflow.initialize()
    return workflow


def _literal(value: Any) -> Any:
    """A word that MONAI takes as it is: one that begins with $, @ or % would be code, a reference or a file."""
    if not isinstance(value, str) or not value.startswith(("$", "@", "%")):
        return value
    return "$" + repr(value).replace("@", "\\x40")  # references are looked for in the text of code


class RepeatedInference:
    """The inference workflow on one input after another; what depends on settings alone is made once, for all.

    Example:
        >>> inference = RepeatedInference()
        >>> inference.load({"prior": "uniform"})
        >>> inference.run({"dataset_dir": "series3", "output_dir": "series3_denoised"})["slices"]
        100
    """

    def __init__(self) -> None:
        self._asked = ""
        self._configs: Sequence[str] = ()
        self._settings: dict[str, Any] = {}
        self._processes = ExitStack()

    def load(self, settings: Mapping[str, Any], config_names: Sequence[str] = ("inference.json",)) -> None:
        """Load what `settings`, overrides of these configs, ask for, unless it is loaded already.

        Raises:
            BioAttError: network or prior cannot be loaded, or a setting that is about no input is wrong.
        """
        asked = json.dumps([dict(settings), list(config_names)], sort_keys=True, default=str)
        if asked == self._asked:
            return
        self._asked, self._settings = "", {}  # what was loaded before is freed first
        self._processes.close()
        parser = open_workflow("inference", config_names, dict(settings)).parser
        names = ("network", "prior_source", "file_processes", "provenance", "inferer", "derived_rules")
        parts = {name: parser.get_parsed_content(name) for name in names}
        self._processes.enter_context(parts["file_processes"])
        self._asked, self._configs, self._settings = asked, config_names, {**settings, **parts}

    def run(self, places: Mapping[str, Any]) -> dict[str, Any]:
        """Denoise one input; `places` are overrides as well. Return the figures of `InferenceSummary`.

        Raises:
            BioAttError: it cannot be denoised.
        """
        workflow = run_workflow("inference", self._configs, {**self._settings, **places})
        handlers = workflow.parser.get_parsed_content("handlers")
        return next(one for one in handlers if isinstance(one, InferenceSummary)).figures()


def check_tracking(tracking: str | dict[str, Any] | None) -> None:
    """Refuse to track by MLflow where it is not installed.

    Raises:
        BioAttError: says how to install it.
    """
    if tracking == "mlflow" and importlib.util.find_spec("mlflow") is None:
        raise BioAttError("tracking by mlflow needs its package; python -m pip install 'mlflow>=3.13'")


def quiet_libraries() -> None:
    """Keep what libraries say about themselves, and no user can change, out of the terminal."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="NvImgCodec")
    loud = "monai.data.nvimgcodec_pydicom_plugin monai.bundle.workflows onnx_ir onnxscript matplotlib.font_manager"
    for name in loud.split():
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("SupervisedEvaluator", "SupervisedTrainer"):
        logging.getLogger(f"ignite.engine.engine.{name}").addFilter(_is_no_raised_error)


def _is_no_raised_error(record: logging.LogRecord) -> bool:
    """Ignite logs the text of any error, which can hold values of a header, and raises it anyway."""
    return "is terminating due to exception" not in str(record.msg)


def check_overrides(overrides: Iterable[str], config_files: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse an override whose key is in none of the config files.

    Args:
        overrides: keys such as ``prior`` or ``network_def#channels`` (``::`` is MONAI's other spelling of ``#``).
        config_files: the configs, in any order.

    Raises:
        BioAttError: names the key and those that resemble it.
    """
    import difflib

    configs = [ConfigParser.load_config_file(file) for file in config_files]
    known = {key for config in configs for key in config}
    for override in overrides:
        parts = override.replace("::", "#").split("#")
        if "#".join(parts) not in known and not any(_has(config, parts) for config in configs):
            if former := told([parts[0]]):
                raise BioAttError(f"config override --{override}: {former}")
            close = difflib.get_close_matches(parts[0], sorted(known - {parts[0]}), n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(known))}"
            raise BioAttError(f"unknown config override --{override}: no config has this key; {hint}")


def check_configs(config_files: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse config files with settings of older versions that nothing reads any more.

    Raises:
        BioAttError: names them all, and what took their place.
    """
    for file in config_files:
        keys = set(ConfigParser.load_config_file(file)) - {"bf16"}  # that of training is read
        if former := told(sorted(keys)):
            raise BioAttError(f"config {Path(file).name} is of an older version: {former}")


def check_switches(overrides: Mapping[str, Any], config_files: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse a word where the configs have true or false: MONAI's command line reads ``false`` as one, which is true.

    Args:
        overrides: values by key; as the command line has them, or from a file of arguments.
        config_files: the configs, in any order.

    Raises:
        BioAttError: names the key, and how it is spelt.
    """
    switches = {
        key
        for file in config_files
        for key, value in ConfigParser.load_config_file(file).items()
        if isinstance(value, bool)
    }
    for key in sorted(switches & overrides.keys()):
        value = overrides[key]
        alone = value == "" or str(value).startswith("--")  # the option without a value, which is True
        if not alone and str(value) not in ("True", "False"):
            raise BioAttError(f"--{key} {value}: expected True or False (case-sensitive)")


def check_inference(
    dataset_dir: str,
    output_dir: str,
    *,
    series: str | int = "",
    assume_hu: bool = False,
    allow_gaps: bool = False,
    one_scan: bool = False,
    overwrite: bool = False,
    stable_uids: bool = False,
    report_file: str = "",
    known: KnownSeries | None = None,
) -> list[dict[str, str]]:
    """Look at input and output before anything is loaded, and return the data list of the inference workflow.

    What is unusual about a DICOM series is logged here, if it is then `known`, else where it is read.

    Raises:
        BioAttError: the report exists; see also `find_inputs`, `select_series` and `check_places`.
    """
    dataset_dir, output_dir, series = str(dataset_dir), str(output_dir), str(series)
    inputs = find_inputs(dataset_dir, series)
    check_places(dataset_dir, output_dir, overwrite)
    if report_file and not overwrite and Path(report_file).exists():
        raise BioAttError(f"report {report_file} exists; name another output folder, or replace both with --overwrite")
    if report_file:
        check_replaceable_report(report_file)
        beside = next(p for p in Path(report_file).absolute().parents if p.exists())
        if not os.access(beside, os.W_OK | os.X_OK):
            raise BioAttError(
                f"report {report_file} cannot be written in {beside}: no permission; name a folder within the output "
                f"folder instead, such as {Path(output_dir) / 'denoised'}, or leave out --report"
            )
    for path in inputs:
        is_file = format_of(path) is not None
        if is_file and (series or len(inputs) > 1):  # a lone file is read right away: one look is enough
            load_volume(path, series=series, assume_hu=assume_hu)
        elif not is_file:
            allowed = {"allow_gaps": allow_gaps, "assume_hu": assume_hu, "one_scan": one_scan}
            found = (known or KnownSeries()).select(path, series or None, tell=known is not None, **allowed)
            if stable_uids:
                check_stable_uids(found)
    return [{"image": str(path)} for path in inputs]


def runs_in_label() -> bool:
    """Whether MONAI Label runs the workflow: it serves many, so a decoder must not take it down."""
    return "monailabel" in sys.modules


def report_file(report: bool, output_dir: str) -> str:
    """Where the report goes: beside the output folder, which programs that send DICOM want to be DICOM alone."""
    return f"{Path(output_dir)}.html" if report else ""


def check_training(output_dir: str) -> None:
    """Refuse a folder with finished weights.

    Raises:
        BioAttError: names them.
    """
    finished = Path(output_dir) / "model.pt"
    if finished.exists():
        raise BioAttError(f"{finished} holds the weights of a finished training; name another output folder")


def check_prior_fits(network: Denoiser, prior_source: PriorSource) -> None:
    """Refuse a prior over another number of descriptors than the network has attention maps for.

    Raises:
        BioAttError: both numbers.
    """
    wanted = network.num_descriptors
    if wanted != len(prior_source.descriptors):
        raise BioAttError(
            f"the network has maps for {wanted} descriptors, the prior {prior_source.name} has "
            f"{len(prior_source.descriptors)}; set prior_descriptors to the words the network was trained with"
        )


def make_provenance(
    network: Denoiser,
    weights: str,
    prior_source: PriorSource,
    version: str,
    strength: Strength | str,
    precision: str = "",
) -> Provenance:
    """Put together what is recorded with every result.

    Args:
        precision: what it runs in, ``fp32`` or ``bf16``; empty where nobody said.
    """
    check_prior_fits(network, prior_source)
    logger.info("prior: %s", prior_source.model)
    return Provenance(
        version=str(version),
        network=network.title,
        weights_sha256=weights_sha256(weights),
        prior=prior_source.name,
        prior_model=prior_source.model,
        prior_digest=prior_source.digest,
        strength=as_strength(strength),
        precision=precision,
    )


def _one_line_excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print our error as one line and exit with code 2; leave any other as it is."""
    ours = find_bioatt_error(error)
    if ours is None:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {ours}", file=sys.stderr, flush=True)
    raise SystemExit(2)  # Python ends with this code when the hook raises it


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """The ``--key value`` and ``--key=value`` options of a command line."""
    options: dict[str, str] = {}
    for position, word in enumerate(arguments):
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            options[key.replace("-", "_")] = value if equals else following  # as Fire reads them
    return options


def _config_files(option: str | Sequence[str]) -> list[str]:
    """One file, or several: a list as Python spells it, or separated by commas."""
    if isinstance(option, str):
        option = ast.literal_eval(option) if option.lstrip().startswith(("[", "(")) else option.split(",")
    return [str(file) for file in option]


def _has(config: Any, parts: Sequence[str]) -> bool:
    """Whether a config has the nested key, or a component that would take it as an argument."""
    for position, part in enumerate(parts):
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return position == len(parts) - 1 and isinstance(config, dict) and _takes(config, part)
    return True


def _takes(config: dict[str, Any], argument: str) -> bool:
    """Whether the component that a config describes has an argument of that name."""
    component = ConfigComponent(config, locator=ComponentLocator(excludes=["metadata"]))
    if not ConfigComponent.is_instantiable(config):
        return False
    arguments = inspect.signature(locate(component.resolve_module_name())).parameters.values()
    return any(one.name == argument or one.kind is inspect.Parameter.VAR_KEYWORD for one in arguments)
