"""What a student is asked to match: terms, their weights and schedules."""

from nasdistill.objective.objective import Objective, Weighted
from nasdistill.objective.schedules import Schedule
from nasdistill.objective.terms import KL, TERMS, Labels, Outputs, Term

__all__ = ["KL", "TERMS", "Labels", "Objective", "Outputs", "Schedule", "Term", "Weighted"]
