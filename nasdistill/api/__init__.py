"""What the command line does, as functions: the Python API."""

from nasdistill.api.evaluating import evaluate
from nasdistill.api.models import export, load, profile, spread
from nasdistill.api.places import REPORTS, STUDIES
from nasdistill.api.searching import SearchOutcome, distill, report, resume, search, studies
from nasdistill.api.teachers import teacher_evaluate, teacher_train

__all__ = [
    "REPORTS", "STUDIES", "SearchOutcome", "distill", "evaluate", "export", "load", "profile",
    "report", "resume", "search", "spread", "studies", "teacher_evaluate", "teacher_train",
]  # fmt: skip
