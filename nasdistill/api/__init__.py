"""The Python API: each command as a function."""

from nasdistill.api.auditing import AuditOutcome, audit
from nasdistill.api.evaluating import evaluate
from nasdistill.api.exporting import export
from nasdistill.api.joining import enter, join
from nasdistill.api.models import (
    cut_space,
    load,
    pretrained_weights,
    profile,
    spread,
)
from nasdistill.api.searching import SearchOutcome, distill, report, resume, search, studies
from nasdistill.api.teacher_training import teacher_train
from nasdistill.api.teachers import teacher_evaluate, teacher_record
from nasdistill.api.tuning import TuneOutcome, tune
from nasdistill.common.files import REPORTS, STUDIES

__all__ = [
    "REPORTS",
    "STUDIES",
    "AuditOutcome",
    "SearchOutcome",
    "TuneOutcome",
    "audit",
    "cut_space",
    "distill",
    "enter",
    "evaluate",
    "export",
    "join",
    "load",
    "pretrained_weights",
    "profile",
    "report",
    "resume",
    "search",
    "spread",
    "studies",
    "teacher_evaluate",
    "teacher_record",
    "teacher_train",
    "tune",
]
