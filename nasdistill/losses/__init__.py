"""Terms that a student is to match, their weights and schedules."""

from nasdistill.losses.factory import TERMS, objective_of
from nasdistill.losses.logits import KL, Labels
from nasdistill.losses.objective import MAIN, Objective, Weighted
from nasdistill.losses.schedules import Schedule
from nasdistill.losses.term import Term
from nasdistill.models.hooks import Outputs

__all__ = [
    "KL",
    "MAIN",
    "TERMS",
    "Labels",
    "Objective",
    "Outputs",
    "Schedule",
    "Term",
    "Weighted",
    "objective_of",
]
