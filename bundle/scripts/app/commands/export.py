"""Write the network as ONNX.

Write the network for other runtimes, and compare it with PyTorch. Inputs are image (B, 1, H, W) in network range, (HU +
500) / 500, and prior (B, 11); B, H and W are free.
"""

from __future__ import annotations

import argparse

from ...device import find_device
from ...provenance import NOT_FOR_DIAGNOSIS
from ...staging import check_output_file
from ..arguments import add_weights, given

EPILOG = NOT_FOR_DIAGNOSIS


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUT", help="the file, .onnx")
    add_weights(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def run(options: argparse.Namespace) -> None:
    from ...networks.export import export_network
    from ...workflow import open_workflow

    target = check_output_file(options.output, options.overwrite)
    overrides = {"device": find_device("cpu"), "prior": "uniform"}  # the prior comes in from outside
    workflow = open_workflow("inference", ["inference.json"], overrides | given(options, "weights"))
    network = workflow.parser.get_parsed_content("network")
    made_by = workflow.parser.get_parsed_content("provenance").as_dict()
    record = {key: made_by[key] for key in ("bundle", "version", "network", "weights_sha256", "notice")}
    recipe = workflow.parser.get_parsed_content("recipe")
    descriptors = workflow.parser.get_parsed_content("prior_descriptors")
    record |= {"prior": recipe.prior, "prior_descriptors": ", ".join(descriptors)}
    difference = export_network(network, target, record=record)
    print(f"{network.title}: {target}, within {difference:.1g} of PyTorch (network range)")
