"""Parameters, multiply-adds, bytes and latency: counted and measured, never predicted."""

from nasdistill.profile.counts import Counts, UncountedWarning, count, count_module
from nasdistill.profile.latency import ENGINES, Latency, measure

__all__ = [
    "ENGINES",
    "Counts",
    "Latency",
    "UncountedWarning",
    "count",
    "count_module",
    "measure",
]
