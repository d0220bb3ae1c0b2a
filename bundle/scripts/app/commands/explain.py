"""Show where the network attends in a slice, and what another prior changes.

For one slice, write the attention maps as pictures and NIfTI, and compare the result with its own prior, the uniform
prior and a prior of another region.
"""

from __future__ import annotations

import argparse

from ...errors import BioAttError
from ...provenance import NOT_FOR_DIAGNOSIS
from ..arguments import add_input, add_output, add_result, inference_overrides, priors_in_words, reading

EPILOG = f"{priors_in_words()}\nexample: bioatt explain study/series3 explained --slice 40\n\n{NOT_FOR_DIAGNOSIS}"


def add(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    add_output(parser)
    option = parser.add_argument
    option("--slice", type=int, required=True, metavar="N", help="number of the slice, from 0, inferior to superior")
    option("--other", default="", metavar="WORD", help="descriptor of the other region (default: the least likely)")
    add_result(parser)


def run(options: argparse.Namespace) -> None:
    from ...report.explain import check_prior_attention, explain_slice, table, write_explained
    from ...volumes import radiological_slices
    from ...workflow import open_workflow

    overrides = inference_overrides(options) | {"progress": False}
    parser = open_workflow("inference", ["inference.json"], overrides).parser
    inputs, network, provenance, inferer = map(
        parser.get_parsed_content, ("data_list", "network", "provenance", "inferer")
    )
    check_prior_attention(network)
    if len(inputs) != 1:
        raise BioAttError(f"the input holds {len(inputs)} NIfTI files; name the one whose slice is to be explained")
    volume = radiological_slices(inputs[0]["image"], **reading(options))
    one = explain_slice(volume, options.slice, network, inferer, options.other)
    write_explained(one, options.output, provenance, overwrite=options.overwrite)
    print(*table(one), "", f"slice {options.slice}: maps, pictures and figures in {options.output}", sep="\n")
