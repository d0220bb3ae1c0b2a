"""The body region of a slice: by the header if that names one, else by the slice's prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNKNOWN = "unknown"

#: Regions by the defined terms of BodyPartExamined (PS3.16 annex L) that name one of them. An organ tells what was
#: looked for and not what a slice shows, and terms over several regions (CHESTABDPELVIS) leave it open.
HEADER_REGIONS = {
    "HEAD": "head",
    "SKULL": "head",
    "BRAIN": "head",
    "CHEST": "chest",
    "THORAX": "chest",
    "ABDOMEN": "abdomen",
    "PELVIS": "pelvis",
}

#: Regions that the paper's descriptors vote for; spine and lymph nodes are everywhere and vote for none.
DESCRIPTOR_REGIONS = {
    "skull": "head",
    "ventricles": "head",
    "lungs": "chest",
    "mediastinum": "chest",
    "liver": "abdomen",
    "kidneys": "abdomen",
    "pancreas": "abdomen",
    "spleen": "abdomen",
    "abdominal aorta": "abdomen",
}


def region_of_header(body_part: str) -> str:
    """``head``, ``chest``, ``abdomen`` or ``pelvis`` by BodyPartExamined, else ``unknown``."""
    return HEADER_REGIONS.get(body_part.strip().upper(), UNKNOWN)


def region_of_prior(prior: np.ndarray, descriptors: Sequence[str]) -> str:
    """The region with more than half of a prior (K,), else ``unknown``: so a uniform prior votes for none.

    No descriptor stands for the pelvis, so no prior names it.
    """
    votes: dict[str, float] = {}
    for share, word in zip(prior, descriptors, strict=True):
        region = DESCRIPTOR_REGIONS.get(word, UNKNOWN)
        votes[region] = votes.get(region, 0.0) + float(share)
    region, share = max(votes.items(), key=lambda vote: vote[1])
    return region if share > 0.5 * float(np.sum(prior)) else UNKNOWN
