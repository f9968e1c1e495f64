"""What a student is asked to match: terms, their weights and schedules."""

from nasdistill.objective.build import TERMS, objective_of
from nasdistill.objective.logits import KL, Labels
from nasdistill.objective.objective import MAIN, Objective, Weighted
from nasdistill.objective.schedules import Schedule
from nasdistill.objective.terms import Outputs, Term

__all__ = [
    "KL", "MAIN", "TERMS", "Labels", "Objective", "Outputs", "Schedule", "Term", "Weighted",
    "objective_of",
]  # fmt: skip
