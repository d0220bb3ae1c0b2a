"""The body region of a slice: by the header if that names one, else by the slice's prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNKNOWN = "unknown"

#: Regions by the defined terms of BodyPartExamined (PS3.16 annex L) that name one of them. An organ tells what was
#: looked for and not what a slice shows, and terms over several regions (CHESTABDPELVIS) leave it open.
HEADER_REGIONS = {
    **dict.fromkeys(("HEAD", "SKULL", "BRAIN"), "head"),
    **dict.fromkeys(("CHEST", "THORAX"), "chest"),
    "ABDOMEN": "abdomen",
    "PELVIS": "pelvis",
}

#: Regions that the paper's descriptors vote for; spine and lymph nodes are everywhere and vote for none.
DESCRIPTOR_REGIONS = {
    **dict.fromkeys(("skull", "ventricles"), "head"),
    **dict.fromkeys(("lungs", "mediastinum"), "chest"),
    **dict.fromkeys(("liver", "kidneys", "pancreas", "spleen", "abdominal aorta"), "abdomen"),
}

#: Share of a prior that must stand above the uniform one before it names a region.
LEAST_EXCESS = 0.1


def region_of_header(body_part: str) -> str:
    """``head``, ``chest``, ``abdomen`` or ``pelvis`` by BodyPartExamined, else ``unknown``."""
    return HEADER_REGIONS.get(body_part.strip().upper(), UNKNOWN)


def region_of_prior(prior: np.ndarray, descriptors: Sequence[str]) -> str:
    """The region with more than half of what a prior (K,) gives above the uniform share 1/K, else ``unknown``.

    A prior that is nearly uniform (less than `LEAST_EXCESS` above it in all) votes for none. No descriptor stands for
    the pelvis, so no prior names it.
    """
    shares = np.asarray(prior, dtype=np.float64) / np.sum(prior)
    excess = np.clip(shares - 1 / len(shares), 0, None)
    votes: dict[str, float] = {}
    for above, word in zip(excess, descriptors, strict=True):
        region = DESCRIPTOR_REGIONS.get(word, UNKNOWN)
        votes[region] = votes.get(region, 0.0) + float(above)
    region, vote = max(votes.items(), key=lambda pair: pair[1])
    return region if vote > 0.5 * excess.sum() and excess.sum() > LEAST_EXCESS else UNKNOWN
