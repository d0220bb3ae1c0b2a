"""Figures of the model card and the metadata, taken from result files: ``python -m scripts.model_card EVIDENCE``."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from .commands import BUNDLE_ROOT, CONFIGS
from .data.studies import pseudonym_of
from .networks import weights_sha256
from .staging import staged_file

#: Measures of the card's first table, with their titles and formats.
COLUMNS = {"psnr_db": ("PSNR (dB)", ".2f"), "ssim": ("SSIM", ".4f"), "rmse_hu": ("RMSE (HU)", ".2f"),
           "noise_sd_hu": ("noise (HU)", ".1f")}  # fmt: skip
PRIORS = ("compact", "uniform", "random")


def performance_table(evaluation: dict[str, Any], names: dict[str, str]) -> str:
    """Low dose and denoised per patient, from an evaluation.json; `names` says who stands behind a pseudonym."""
    titles = [f"{title} low | denoised" for title, _ in COLUMNS.values()]
    lines = ["| patient | slices | " + " | ".join(titles) + " |", "|---" * (2 + 2 * len(COLUMNS)) + "|"]
    for patient, mean in evaluation["patients"].items():
        cells = [f"{mean[image][key]:{form}}" for key, (_, form) in COLUMNS.items() for image in ("low", "denoised")]
        lines.append(f"| {names.get(patient, patient)} | {mean['slices']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def prior_table(evaluations: dict[str, dict[str, Any]], names: dict[str, str]) -> str:
    """PSNR and SSIM of the same weights with other priors than they were trained with."""
    titles = [f"{title} {prior}" for title in ("PSNR", "SSIM") for prior in evaluations]
    lines = ["| patient | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    for patient in next(iter(evaluations.values()))["patients"]:
        cells = [
            f"{one['patients'][patient]['denoised'][key]:{form}}"
            for key, form in (("psnr_db", ".2f"), ("ssim", ".4f"))
            for one in evaluations.values()
        ]
        lines.append(f"| {names.get(patient, patient)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fill(text: str, sections: dict[str, str]) -> str:
    """Put each section between its markers ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        ValueError: a marker is missing.
    """
    for name, content in sections.items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", lambda m, c=content: m[1] + c + m[2], text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"the model card has no place for {name}")
    return text


def main() -> None:
    """Write the tables, the checksum and eval_metrics from an evidence folder's evaluation_PRIOR.json files."""
    parser = argparse.ArgumentParser(prog="python -m scripts.model_card", description=__doc__)
    parser.add_argument("evidence", type=Path, help="folder with evaluation_compact.json and so on")
    parser.add_argument("--name", nargs="*", default=[], help="folder names behind the pseudonyms, of public patients")
    options = parser.parse_args()
    names = {pseudonym_of(name): name for name in options.name}
    evaluations = {one: json.loads((options.evidence / f"evaluation_{one}.json").read_text()) for one in PRIORS}
    card, metadata = BUNDLE_ROOT / "docs" / "README.md", CONFIGS / "metadata.json"
    sections = {
        "weights": f"`models/model.pt`, sha256 `{weights_sha256(BUNDLE_ROOT / 'models' / 'model.pt')}`",
        "performance": performance_table(evaluations["compact"], names),
        "priors": prior_table(evaluations, names),
    }
    filled = fill(card.read_text(), sections)
    means = evaluations["compact"]["overall"]["denoised"]
    described = metadata.read_text()
    for measure, digits in (("psnr_db", 2), ("ssim", 4)):
        value = round(means[measure]["mean"], digits)
        described, count = re.subn(rf'("eval_metrics": {{[^}}]*"{measure}": )[0-9.]+', rf"\g<1>{value}", described)
        if count != 1:
            raise ValueError(f"metadata.json has no place for {measure} in eval_metrics")
    with staged_file(card) as new_card, staged_file(metadata) as new_metadata:
        new_card.write_text(filled)
        new_metadata.write_text(described)


if __name__ == "__main__":
    main()
