"""Figures of model card, README, docs/priors.md and metadata: ``python -m studies.model_card RESULTS``."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from scripts.errors import BioAttError
from scripts.networks import weights_sha256
from scripts.pages import table
from scripts.staging import staged_file
from scripts.workflow import BUNDLE_ROOT, CONFIGS

from .evidence import detection_page, operating_point_page, texture_page
from .evidence.alpha import flat_line
from .evidence.baselines_page import summary
from .evidence.plane import BM3D
from .evidence.plane_page import conclusion, front_table
from .evidence.quality import SMOOTH
from .evidence.quality_page import over_patients
from .evidence.tables import mean_with_interval
from .prior_study.page import attention_line, headline, robustness_line, short, use_line

ROOT = BUNDLE_ROOT.parent
README, PRIORS = ROOT / "README.md", ROOT / "docs" / "priors.md"
#: Measures of the card's first table, with their titles and formats.
COLUMNS = {"psnr_db": ("PSNR (dB)", ".2f"), "ssim": ("SSIM", ".4f"), "rmse_hu": ("RMSE (HU)", ".2f"),
           "noise_sd_hu": ("noise (HU)", ".1f")}  # fmt: skip
#: Measures that metadata.json names, with their digits.
EVAL_METRICS = {"psnr_db": 2, "ssim": 4}


def performance_table(quality: dict[str, Any]) -> str:
    """Low dose, denoised, and the filters, means over patients with their intervals, from quality.json."""
    mean = over_patients(quality)
    images = {"low": "low dose", "network": "denoised", SMOOTH: SMOOTH, "nlm": "non-local means"}
    rows = [
        (title, *(mean_with_interval(mean[image][key], form) for key, (_, form) in COLUMNS.items()))
        for image, title in images.items()
        if image in mean
    ]
    return table((f"mean of {len(quality['patients'])} patients", *(title for title, _ in COLUMNS.values())), rows)


def prior_table(quality: dict[str, Any]) -> str:
    """PSNR and SSIM of the same weights with other priors than they were trained with."""
    images = [name for name in next(iter(quality["patients"].values())) if name.startswith("network")]
    priors = [name.removeprefix("network, ").removesuffix(" prior") for name in images]
    priors[0] = quality["network"]["prior"]
    titles = [f"{title} {prior}" for title in ("PSNR", "SSIM") for prior in priors]
    measures = [(image, key, form) for key, form in (("psnr_db", ".2f"), ("ssim", ".4f")) for image in images]
    rows = [
        (patient, *(f"{mean[image][key]:{form}}" for image, key, form in measures))
        for patient, mean in quality["patients"].items()
    ]
    return table(("patient", *titles), rows)


def limits_list(parts: dict[str, dict[str, Any]]) -> str:
    """How many limits are kept, and each that is not, with what was measured; the plane's by their number."""
    plane = parts.get("plane", {}).get("limits", [])
    limits = [limit for name, part in parts.items() if name != "plane" for limit in part.get("limits", [])]
    broken = [limit for limit in limits if not limit["kept"]]
    lines = [f"Of {len(limits)} limits {len(limits) - len(broken)} are kept." + (" Not kept:" if broken else "")]
    for one in broken:
        value = "not measurable" if one["value"] is None else f"{one['value']:.3f}"
        lines.append(f"- {one['name']}: {value} {one['unit']}, required {one['comparison']} {one['bound']:g}")
    text = "\n".join(lines[:1] + [""] * bool(broken) + lines[1:])
    if not plane:
        return text
    kept = sum(limit["kept"] for limit in plane)
    return (
        f"{text}\n\nOf {len(plane)} limits on noise, contrast and error against the truth, by patient and strength, "
        f"{kept} are kept; docs/evidence/quality.md of the repository names the others."
    )


def lesion_line(plane: dict[str, Any]) -> str:
    """How much noise is left and contrast kept at each strength, over the patients left out."""
    lines = []
    for strength, of in plane["figures"]["network"].items():
        noise = [one["noise_left"] for one in of.values()]
        kept = {}
        for diameter in ("4", "6", "10", "15"):
            shares = [one["contrast"][diameter] for one in of.values() if diameter in one["contrast"]]
            kept[diameter] = f"{diameter} mm {min(shares):.0%} to {max(shares):.0%}"
        lines.append(f"- {strength}: noise {min(noise):.0%} to {max(noise):.0%}; {', '.join(kept.values())}")
    head = f"Noise left and contrast kept of discs of 20 to 40 HU at a dose of {plane['dose_fraction']:g}, by patient:"
    return "\n".join([head, "", *lines])


def study_summary(results: Path) -> dict[str, Any]:
    """The summary of the study of priors, which lies beside its page."""
    return json.loads((results.parent / "priors.json").read_text(encoding="utf-8"))


def eval_metrics(quality: dict[str, Any]) -> dict[str, float]:
    """The figures of metadata.json: means over the patients held out."""
    patients = quality["patients"].values()
    return {
        name: round(sum(one["network"][name] for one in patients) / len(patients), digits)
        for name, digits in EVAL_METRICS.items()
    }


def sections(results: Path) -> dict[str, str]:
    """What stands between the card's markers, from the folder of results.

    Raises:
        BioAttError: quality.json is of other weights than those shipped.
    """
    parts = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    quality, shipped = parts["quality"], weights_sha256(BUNDLE_ROOT / "models" / "model.pt")
    if quality["network"]["weights_sha256"] != shipped:
        raise BioAttError(f"{results} is of other weights than models/model.pt; run `make evidence` again")
    return {
        "weights": f"`models/model.pt`, sha256 `{shipped}`",
        "performance": performance_table(quality),
        "limits": "\n\n".join(
            [limits_list(parts), detection_page.summary(parts["detection"]), lesion_line(parts["plane"])]
        ),
        "priors": prior_table(quality),
        "study": f"- {short(study_summary(results))}; docs/evidence/priors.md in the repository has all arms.",
        "baselines": f"{summary(parts['baselines'])} (docs/evidence/baselines.md in the repository).",
    }


def readme_sections(results: Path) -> dict[str, str]:
    """What stands between the markers of the repository's README: conclusion, table, and the limits not kept."""
    plane, alpha, baselines, phantom, detection = (
        json.loads((results / f"{name}.json").read_text())
        for name in ("plane", "alpha", "baselines", "phantom", "detection")
    )
    return {
        "plane": f"{conclusion(plane['figures'])}\n\n{front_table(plane)}",
        "texture": f"- {texture_page.coarser(phantom)} {texture_page.coarse_noise(phantom)}\n"
        f"- {detection_page.no_help(detection)} ([texture and detectability](docs/evidence/texture.md)).\n"
        f"- {detection_page.no_dose(detection)}",
        "limits": f"{broken_limits(plane['limits'])}\n- {flat_line(alpha)}",
        "study": f"- {short(study_summary(results))} ([figures](docs/evidence/priors.md)); the shipped weights use the "
        "uniform one.",
        "baselines": f"- {summary(baselines)} ([figures](docs/evidence/baselines.md)).",
    }


def priors_sections(results: Path) -> dict[str, str]:
    """What stands between the markers of docs/priors.md: the findings of the study, and of an anchor for the lungs."""
    found = study_summary(results)
    return {
        "study": "\n\n".join([headline(found), robustness_line(found), attention_line(found), use_line(found)]),
        "operating point": operating_point_page.summary(
            json.loads((results / "operating_point.json").read_text(encoding="utf-8"))
        ),
    }


def broken_limits(limits: list[dict[str, Any]]) -> str:
    """Three plain lines: how far bone edges, BM3D and a random prior go beyond what is promised."""

    def worst(ending: str) -> tuple[float, int, int]:
        of = [one for one in limits if ending in one["name"]]
        patients = {one["name"].split(",")[0] for one in of if not one["kept"]}
        return max(one["value"] for one in of), len(patients), len({one["name"].split(",")[0] for one in of})

    edge, prior = worst("bone edge wider"), worst("error of body changed")
    bm3d = worst(f"error of body over that of {BM3D}")
    lines = [
        f"Bone edges come out up to {edge[0]:.2f} mm wider than they went in; over 0.02 mm on {edge[1]} of {edge[2]} "
        "patients.",
        f"BM3D, given the noise spectrum, has less error in the body on {bm3d[1]} of {bm3d[2]} patients: ours is "
        f"up to {bm3d[0] - 1:.0%} higher at high.",
        f"A random prior changes the error by up to {prior[0]:.1%}"
        + (f", by over 2% on {prior[1]} of {prior[2]} patients." if prior[1] else f" on {prior[2]} patients."),
    ]
    return "\n".join(f"- {line}" for line in lines)


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
            raise ValueError(f"there is no place for {name}: it needs <!-- {name} --> and <!-- /{name} -->")
    return text


def main() -> None:
    """Write the tables, the checksum and eval_metrics from the folder of results."""
    parser = argparse.ArgumentParser(prog="python -m studies.model_card", description=__doc__)
    parser.add_argument("results", type=Path, help="folder with quality.json and so on")
    options = parser.parse_args()
    card, metadata = BUNDLE_ROOT / "docs" / "README.md", CONFIGS / "metadata.json"
    filled = fill(card.read_text(), sections(options.results))
    started = fill(README.read_text(), readme_sections(options.results))
    told = fill(PRIORS.read_text(), priors_sections(options.results))
    described = metadata.read_text()
    for measure, value in eval_metrics(json.loads((options.results / "quality.json").read_text())).items():
        described, count = re.subn(rf'("eval_metrics": {{[^}}]*"{measure}": )[0-9.]+', rf"\g<1>{value}", described)
        if count != 1:
            raise ValueError(f"metadata.json has no place for {measure} in eval_metrics")
    for path, text in {card: filled, README: started, PRIORS: told, metadata: described}.items():
        with staged_file(path) as new:
            new.write_text(text)


if __name__ == "__main__":
    main()
