"""The report of a run: one page of HTML, readable without a network, on paper and by the colour-blind."""

from .handler import RunReport
