"""Convert a checkpoint of the paper's authors to weights of this bundle.

Read a checkpoint in one of the authors' four layouts and write it as weights of this bundle, with their recipe (.json)
beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import BioAttError
from ...staging import check_output_file, staged_file


def add(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("input", metavar="CHECKPOINT", help="the authors' .pth file")
    option("output", metavar="WEIGHTS.pt", help="the file to write")
    option("--overwrite", action="store_true", help="replace the file")


def run(options: argparse.Namespace) -> None:
    import torch

    from ...networks import Recipe, load_reference_checkpoint, read_recipe, write_recipe

    target = Path(options.output)
    beside = target.with_suffix(".json")
    if target.suffix != ".pt":
        raise BioAttError(f"{target} must end in .pt; name the weights file so")
    check_output_file(target, options.overwrite)
    check_output_file(beside, options.overwrite, lambda _: read_recipe(target), f"the recipe of {target}")
    network = load_reference_checkpoint(options.input)
    with staged_file(target) as weights:
        torch.save(network.state_dict(), weights)
    write_recipe(target, Recipe(network_def=network.definition, prior="biomedclip", prior_preparation="minmax"))
    print(f"{network.title}: weights in {target}, their recipe in {beside}")
