"""A MONAI Deploy application: a folder of DICOM in, one CT series of it, denoised by the bundle, as DICOM out."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from denoise_operator import DenoiseSeriesOperator
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator


class DenoiseApp(Application):
    """The SDK finds the studies and selects by rule; the bundle reads, denoises and writes.

    ::

        DICOMDataLoaderOperator -> DICOMSeriesSelectorOperator -> DenoiseSeriesOperator

    The SDK's own way to a volume is not taken: it turns MONOCHROME1 around, drops slices without a position, gives all
    slices the data type of the first, and there is no writer of CT series. Rules and settings stand in app.yaml.
    """

    def compose(self) -> None:
        """Put the operators in a row."""
        context = Application.init_app_context(self.argv)
        _keep_headers_out_of_the_log()
        config = _read_config()
        source = Path(context.input_path)
        loader = DICOMDataLoaderOperator(
            self, CountCondition(self, 1), input_folder=source, must_load=False, name="loader"
        )
        selector = DICOMSeriesSelectorOperator(
            self, rules=json.dumps(config["selection"]), all_matched=True, name="selector"
        )
        denoiser = DenoiseSeriesOperator(
            self,
            input_folder=source,
            output_folder=Path(context.output_path) / "denoised",
            models_folder=Path(context.model_path),
            settings=config.get("denoise") or {},
            name="denoiser",
        )
        self.add_flow(loader, selector, {(loader.output_name, selector.input_name_study_list)})
        self.add_flow(selector, denoiser, {(selector.output_name_selected_series, denoiser.input_name)})


def main() -> int:
    """Run the application; return 0, or 2 for bad input or settings, told in one line."""
    try:
        DenoiseApp().run()
    except Exception as error:
        message = DenoiseSeriesOperator.one_line(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def _read_config() -> dict[str, Any]:
    """The application's configuration, which a package keeps outside the application's folder."""
    beside = Path(__file__).with_name("app.yaml")
    return yaml.safe_load(Path(os.environ.get("HOLOSCAN_CONFIG_PATH", beside)).read_text(encoding="utf-8"))


def _keep_headers_out_of_the_log() -> None:
    """The SDK's operators log values of DICOM headers, through the root logger, at level INFO."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("scripts").setLevel(logging.INFO)
