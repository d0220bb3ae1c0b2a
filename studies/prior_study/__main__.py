"""Run the remaining parts of the study "do priors help?".

PYTHONPATH=bundle python -m studies.prior_study pack DATA [DATA ...] PACK --work WORK
    once, where the data is: simulate, and write PACK, less than 40 MB
PYTHONPATH=bundle python -m studies.prior_study models PACK
    train the prior model of each fold, and add the priors to PACK
PYTHONPATH=bundle python -m studies.prior_study run PACK RESULTS
    the runs that are missing in RESULTS, one JSON file each; stop it and start it again at any time
PYTHONPATH=bundle python -m studies.prior_study page RESULTS PAGE.md
    the page of what is there, and that of the prior models where prior_models.json lies beside it
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from scripts.errors import BioAttError
from scripts.staging import staged_file, write_json

from .labels import LABELS
from .models import models_page, write_priors
from .pack import make_pack
from .page import write_page
from .runs import do_missing, read_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 done, 1 runs are missing, 2 input or usage."""
    chosen = _parser().parse_args(arguments)
    try:
        return {"pack": _pack, "models": _models, "run": _run, "page": _page}[chosen.part](chosen)
    except BioAttError as error:
        print(f"error: {error}")
        return 2


def _pack(chosen: argparse.Namespace) -> int:
    make_pack(
        chosen.data,
        chosen.labels,
        chosen.work,
        chosen.pack,
        folds=chosen.folds,
        slices=chosen.slices,
        views=chosen.views,
    )
    print(f"{chosen.pack}: {sum(one.stat().st_size for one in chosen.pack.iterdir()) / 1e6:.1f} MB")
    return 0


def _models(chosen: argparse.Namespace) -> int:
    with _scratch(chosen) as scratch:
        write_priors(chosen.pack, scratch, steps=chosen.steps, processes=chosen.processes)
    if chosen.page:
        records = json.loads((chosen.pack / "models.json").read_text(encoding="utf-8"))
        _write_models_page(chosen.page, records)
        write_json(chosen.page.with_suffix(".json"), records)
    return 0


def _run(chosen: argparse.Namespace) -> int:
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _scratch(chosen) as scratch:
        there, planned = do_missing(
            chosen.pack,
            chosen.results,
            _study(chosen),
            scratch=scratch,
            workers=chosen.workers or (10 if device == "cuda" else 1),
            limit_s=chosen.limit_s,
            device=device,
        )
    print(f"{there} of {planned} runs are there")
    return 0 if there == planned else 1


def _page(chosen: argparse.Namespace) -> int:
    write_page(chosen.results, _study(chosen), chosen.page)
    models = chosen.page.with_name("prior_models.json")
    if models.is_file():
        _write_models_page(models.with_suffix(".md"), json.loads(models.read_text(encoding="utf-8")))
    return 0


def _write_models_page(page: Path, records: dict[str, Any]) -> None:
    with staged_file(page) as partial:
        partial.write_text(models_page(records), encoding="utf-8")


@contextmanager
def _scratch(chosen: argparse.Namespace) -> Iterator[Path]:
    """Where the pack is unpacked: the folder that was named, which is kept, or one that is removed."""
    if chosen.scratch:
        yield chosen.scratch
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _study(chosen: argparse.Namespace) -> dict[str, Any]:
    settings = {}
    for word in chosen.set:
        name, _, value = word.partition("=")
        try:
            settings[name] = json.loads(value)
        except ValueError as error:
            raise BioAttError(
                f"--set wants NAME=VALUE with a value in JSON, got {word!r}; write e.g. steps=50"
            ) from error
    study = read_study(settings)
    return study | {"seeds": chosen.seeds or study["seeds"]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.prior_study", description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    pack = parts.add_parser("pack", help="make what the runs need")
    pack.add_argument("data", type=Path, nargs="+", help="folders with one folder a patient")
    pack.add_argument("pack", type=Path, help="folder of the result")
    pack.add_argument("--work", type=Path, required=True, help="folder for pairs, kept")
    pack.add_argument("--labels", type=Path, default=LABELS, help="(default: those of the shipped prior model)")
    pack.add_argument("--folds", type=int, default=4)
    pack.add_argument("--slices", type=int, default=10, help="of a patient, at most")
    pack.add_argument("--views", type=int, default=600, help="projection angles of the simulation")
    models = parts.add_parser("models", help="train the prior models, and add their priors")
    models.add_argument("pack", type=Path, help="folder that `pack` made")
    models.add_argument("--steps", type=int, default=500, help="of a training; 0: the shipped model, for all folds")
    models.add_argument("--processes", type=int, default=1, help="folds side by side")
    models.add_argument("--page", type=Path, help="write the page of the prior models here, figures beside it")
    models.add_argument("--scratch", type=Path, help="unpack PACK here and keep it")
    run = parts.add_parser("run", help="do the runs that are missing")
    page = parts.add_parser("page", help="write the page of what is there")
    run.add_argument("pack", type=Path, help="folder that `pack` made")
    for one in (run, page):
        one.add_argument("results", type=Path, help="folder of the finished runs")
        one.add_argument("--seeds", type=int, help="(default: study.json's)")
        one.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings than study.json's")
    run.add_argument("--scratch", type=Path, help="unpack PACK here and keep it")
    run.add_argument("--workers", type=int, default=0, help="processes side by side (default: 10 on a GPU, else 1)")
    run.add_argument("--limit-s", type=float, default=float("inf"), help="begin no run that would end later")
    run.add_argument("--device", choices=("cuda", "cpu"), help="(default: the GPU if there is one)")
    page.add_argument("page", type=Path, help="file to write; the plot beside it")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
