"""The operator that hands the selected series to the bundle's own inference workflow."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from monai.deploy.core import ExecutionContext, Fragment, InputContext, Operator, OperatorSpec, OutputContext


class DenoiseSeriesOperator(Operator):
    """Denoises one selected CT series as `bioatt denoise` does, with the same config, reader, network and writer.

    Named input:
        study_selected_series_list: list of StudySelectedSeries, by DICOMSeriesSelectorOperator.

    Args:
        input_folder: where the series lies; it is read from there, not from the SDK's objects.
        output_folder: for the derived series; new, or empty.
        models_folder: the bundle, or a folder with the bundle in it, as a package has it.
        settings: keys of the bundle's inference.json and their values.

    Raises:
        BioAttError: no bundle, no usable CT series is selected, several are, or the bundle refuses the one.
    """

    input_name = "study_selected_series_list"

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        input_folder: Path,
        output_folder: Path,
        models_folder: Path,
        settings: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        self.input_folder = input_folder
        self.output_folder = output_folder
        self.models_folder = models_folder
        self.settings = settings
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input, no output: the result is on disk."""
        spec.input(self.input_name)

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Denoise the one selected series."""
        studies = op_input.receive(self.input_name) or []
        selected = {one.series.SeriesInstanceUID for study in studies for one in study.selected_series}
        place_bundle(self.models_folder)
        places = {
            "dataset_dir": str(self.input_folder),
            "output_dir": str(self.output_folder),
            "series": choose_series(self.input_folder, selected),
        }
        importlib.import_module("scripts.workflow").run_workflow(
            "inference", ["inference.json"], {"progress": False, **self.settings, **places}
        )

    @staticmethod
    def one_line(error: BaseException) -> str | None:
        """What the bundle says about bad input or settings; None if `error` is another one."""
        errors = sys.modules.get("scripts.errors")
        ours = errors.find_bioatt_error(error) if errors else None
        return None if ours is None else str(ours)


def place_bundle(models_folder: Path) -> None:
    """Make the bundle in `models_folder` importable as ``scripts``.

    Raises:
        FileNotFoundError: there is none.
    """
    places = [models_folder, *sorted(one for one in models_folder.iterdir() if one.is_dir())]
    bundles = [place for place in places if (place / "configs" / "inference.json").is_file()]
    if not bundles:
        raise FileNotFoundError(f"no bundle in {models_folder}; name the bundle's folder with -m")
    if str(bundles[0]) not in sys.path:
        sys.path.insert(0, str(bundles[0]))


def choose_series(folder: Path, selected: set[str]) -> str:
    """SeriesInstanceUID of the one series that the rules select and that the bundle can use.

    Raises:
        BioAttError: none, or several.
    """
    errors = importlib.import_module("scripts.errors")
    refused: list[Exception] = []
    found = importlib.import_module("scripts.dicom").find_series(folder, refused)
    usable = [one.series_instance_uid for one in found if one.series_instance_uid in selected]
    if len(usable) == 1:
        return usable[0]
    if not usable:
        why = f": {refused[0]}" if refused else ""
        raise errors.BioAttError(
            f"the rules select no usable CT series of {len(found)} in {folder}{why}; change selection in app.yaml"
        )
    raise errors.BioAttError(
        f"the rules select {len(usable)} CT series in {folder}: {', '.join(usable)}; narrow selection in app.yaml"
    )
