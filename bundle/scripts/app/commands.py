"""What the `bioatt` commands do: start the configs' workflows, or one of the rooms."""

from __future__ import annotations

import argparse
import json
import logging
import logging.config
import sys
from pathlib import Path
from typing import Any

from ..device import find_device, keep_freed_memory
from ..errors import BioAttError, find_bioatt_error
from ..progress import bar
from ..staging import check_output_file, staged_file
from ..workflow import BUNDLE_ROOT, CONFIGS, open_workflow, quiet_libraries, run_workflow
from .settings import read_settings


def run(options: argparse.Namespace) -> int:
    """Run the command that was parsed; return its exit code: 0, 1 if some series of several failed, 2 for bad input."""
    logging.config.fileConfig(CONFIGS / "logging.conf", disable_existing_loggers=False)
    quiet_libraries()
    keep_freed_memory()
    command = {
        "denoise": denoise,
        "explain": explain,
        "priors": priors,
        "data": data,
        "train": train,
        "evaluate": evaluate,
        "ablate": ablate,
        "simulate": simulate,
        "convert": convert,
        "export": export,
        "benchmark": benchmark,
        "demo": demo,
        "info": info,
    }[options.command]
    try:
        return command(options) or 0
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left", file=sys.stderr)
        return 130
    except Exception as error:
        ours = find_bioatt_error(error)
        if ours is None:
            raise
        print(f"error: {ours}", file=sys.stderr)
        return 2


def denoise(options: argparse.Namespace) -> int:
    """`bioatt denoise`: the inference workflow, for one input or for each of a list."""
    overrides = _inference_overrides(options) | {
        "report": options.report,
        "stable_uids": options.stable_uids,
        "keep_private": options.keep_private,
        "compile": options.compile,
        "progress": not options.quiet,
    }
    for name in ("batch_size", "series_description", "series_number_step"):
        if getattr(options, name) is not None:
            overrides[name] = getattr(options, name)
    configs = ["inference.json", *_network_config(options)]
    if options.cohort:
        from ..cohort import denoise_cohort

        return denoise_cohort(options.input, options.output, configs, overrides, resume=options.resume)
    if options.resume:
        raise BioAttError("--resume goes on with a list of series; give it together with --cohort")
    run_workflow("inference", configs, overrides)
    return 0


def explain(options: argparse.Namespace) -> None:
    """`bioatt explain`: attention maps of one slice, and what another prior changes."""
    from ..report.explain import run_explain

    overrides = _inference_overrides(options) | {"progress": False}
    parser = open_workflow("inference", ["inference.json", *_network_config(options)], overrides).parser
    names = ("data_list", "network", "provenance", "inferer", "reader")
    parts = {name: parser.get_parsed_content(name) for name in names}
    lines = run_explain(parts, options.output, options.slice, other=options.other, overwrite=options.overwrite)
    print("\n".join(lines))


def priors(options: argparse.Namespace) -> None:
    """`bioatt priors`: a table of priors, one row per slice."""
    import torch

    from ..priors import make_prior, write_prior_table
    from ..volumes import find_inputs, radiological_slices
    from ..volumes.reader import slice_keys_from_meta

    target = check_output_file(options.output, options.overwrite)
    inputs = find_inputs(options.input)
    said = {"preparation": options.prior_preparation, "window_hu": options.prior_window and tuple(options.prior_window)}
    source = make_prior(
        options.prior or "compact",
        **{key: value for key, value in said.items() if value},
        device=find_device(options.device or _default_device()),
    )
    rows = []
    for path in inputs:
        volume = radiological_slices(
            path,
            series=options.series,
            assume_hu=options.assume_hu,
            allow_gaps=options.allow_gaps,
            one_scan=options.one_scan,
            progress=True,
        )
        keys = slice_keys_from_meta(volume.meta, len(volume))
        with bar(len(volume), "priors") as advance:
            for i, key in enumerate(keys):  # one at a time, as inference on a CPU: batches differ in the last digits
                rows.append((key, source(torch.from_numpy(volume[i])[None], [key])[0]))
                advance(1)
    write_prior_table(target, rows, source)
    print(f"{len(rows)} slices, prior {source.model}: {target}")


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def data(options: argparse.Namespace) -> None:
    """`bioatt data`: what a data set holds, and what was refused."""
    from ..training.studies import describe, find_studies, write_key

    found = find_studies(options.data)
    if options.key:
        write_key(options.key, found)
    print(describe(found))


def train(options: argparse.Namespace) -> None:
    """`bioatt train`: the training workflow."""
    configs = ["train.json", *_network_config(options)]
    run_workflow("training", configs, _training_overrides(options), options.tracking)


def evaluate(options: argparse.Namespace) -> None:
    """`bioatt evaluate`: the evaluation workflow."""
    overrides = _result_overrides(options) | _training_overrides(options)
    if options.weights:
        overrides["weights"] = options.weights
    if not overrides.keys() & {"split_file", "validate_patients", "test_patients"}:
        # Not a new split: that could hand over patients these weights were trained on.
        kept = Path(options.weights or BUNDLE_ROOT / "models" / "model.pt").with_name("split.json")
        if not kept.exists():
            raise BioAttError(f"no patients to evaluate on: there is no {kept}; name some with --validate")
        overrides["split_file"] = str(kept)
    if options.network:
        overrides["network#network"] = "@network_def"
    run_workflow("evaluation", ["train.json", "evaluate.json", *_network_config(options)], overrides)


def ablate(options: argparse.Namespace) -> None:
    """`bioatt ablate`: networks, priors, seeds and patients left out, in one table."""
    from ..ablation.run import matrix_of, read_matrix, run_ablation

    settings, backbone = read_settings(options.set), options.backbone or ""
    if options.study:
        matrix = read_matrix(options.study, settings, backbone)
    else:
        matrix = matrix_of(options.networks.split(","), options.priors.split(","), settings, backbone)
    run_ablation(
        options.data,
        Path(options.output),
        matrix,
        seeds=options.seeds,
        left_out=options.leave_out,
        records_dir=Path(options.records) if options.records else None,
        page=Path(options.page) if options.page else None,
    )


def simulate(options: argparse.Namespace) -> None:
    """`bioatt simulate`: a low-dose series from a routine one."""
    from .simulate_series import Simulation, simulate_series

    simulation = Simulation(
        dose_fraction=options.dose,
        filter_name=options.filter,
        photons=options.photons,
        electronic_sd=options.electronic,
        views=options.views,
        projector=options.projector,
        tube_current=options.tube_current,
        seed=options.seed,
        realisations=options.realisations,
    )
    lines = simulate_series(
        options.input,
        options.output,
        simulation,
        version=json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["version"],
        series=options.series,
        assume_hu=options.assume_hu,
        allow_gaps=options.allow_gaps,
        one_scan=options.one_scan,
        overwrite=options.overwrite,
        progress=not options.quiet,
    )
    print("\n".join(lines), options.output, sep="\n")


def convert(options: argparse.Namespace) -> None:
    """`bioatt convert`: the authors' checkpoint to this bundle's weights."""
    import torch

    from ..networks import Recipe, load_reference_checkpoint, write_recipe

    target = Path(options.output)
    beside = target.with_suffix(".json")
    if target.suffix != ".pt":
        raise BioAttError(f"{target} must end in .pt; name the weights file so")
    for path in (target, beside):
        check_output_file(path, options.overwrite)
    network = load_reference_checkpoint(options.input)
    with staged_file(target) as weights:
        torch.save(network.state_dict(), weights)
    write_recipe(target, Recipe(network_def=network.definition, prior="biomedclip", prior_preparation="minmax"))
    print(f"{network.title}: weights in {target}, their recipe in {beside}")


def export(options: argparse.Namespace) -> None:
    """`bioatt export`: the network as a file for other runtimes."""
    from ..networks.export import export_network

    target = check_output_file(options.output, options.overwrite)
    overrides = {"device": find_device("cpu"), "prior": "uniform"}  # the prior comes in from outside
    overrides |= {"weights": options.weights} if options.weights else {}
    workflow = open_workflow("inference", ["inference.json", *_network_config(options)], overrides)
    network = workflow.parser.get_parsed_content("network")
    made_by = workflow.parser.get_parsed_content("provenance").as_dict()
    record = {key: made_by[key] for key in ("bundle", "version", "network", "weights_sha256", "notice")}
    difference = export_network(network, target, options.format, record=record)
    print(f"{network.title}: {target}, within {difference:.1g} of PyTorch (network range)")


def benchmark(options: argparse.Namespace) -> None:
    """`bioatt benchmark`: how fast the networks and the whole way are on this machine."""
    from ..benchmark.run import run_benchmark

    lines = run_benchmark(
        options.output,
        shape=(options.size, options.size),
        repeats=options.repeats,
        slices=options.slices,
        series=options.series,
        threads=options.threads,
        processes=options.processes,
        training=options.training,
        compiled=options.compile,
        page=options.page,
    )
    print("\n".join(lines))


def demo(options: argparse.Namespace) -> None:
    """`bioatt demo`: a phantom at low dose, denoised."""
    from .demo import run_demo

    run_demo(Path(options.output))


def info(options: argparse.Namespace) -> None:
    """`bioatt info`: versions, weights, device and precision."""
    from .info import describe

    print(describe(options.json))


def _inference_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What `denoise` and `explain` both override."""
    return {
        "dataset_dir": options.input,
        "output_dir": options.output,
        "series": options.series,
        "assume_hu": options.assume_hu,
        "allow_gaps": options.allow_gaps,
        "one_scan": options.one_scan,
        "overwrite": options.overwrite,
        **_prior_overrides(options),
        **_result_overrides(options),
        **({"weights": options.weights} if options.weights is not None else {}),
        **({"device": find_device(options.device)} if options.device else {}),
    }


def _prior_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What is said of the prior; what is not is as the weights were trained."""
    said = {
        "prior": options.prior,
        "prior_preparation": options.prior_preparation,
        "prior_window_hu": options.prior_window and list(options.prior_window),
        "prior_form": options.prior_form,
        "prior_temperature": options.prior_temperature,
    }
    return {key: value for key, value in said.items() if value is not None}


def _result_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """How the result is anchored, and what the network runs in, for all commands with a network's result."""
    anchoring = {"strength": options.strength, "anchor_mm": options.anchor_mm, "grain": options.grain}
    return anchoring | ({"precision": options.precision} if options.precision else {})


def _training_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What `train` and `evaluate` both override."""
    return {
        "dataset_dir": options.data,
        "output_dir": options.output,
        **({"validate_patients": options.validate} if options.validate else {}),
        **read_settings(options.set),
    }


def _network_config(options: argparse.Namespace) -> list[str]:
    """The config that `--network` names, if it was given.

    Raises:
        BioAttError: the bundle has no such network.
    """
    known = sorted(path.stem.removeprefix("network_") for path in CONFIGS.glob("network_*.json"))
    if options.network and options.network not in known:
        raise BioAttError(f"--network {options.network}: there is none of that name; choose {', '.join(known)}")
    return [f"network_{options.network}.json"] if options.network else []
