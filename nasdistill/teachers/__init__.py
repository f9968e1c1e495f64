"""Teachers: frozen models, the targets they give, and where their weights come from."""

from nasdistill.teachers.heads import head_of, replace_head
from nasdistill.teachers.teacher import KINDS, SHIPPED, LogitPrecision, Teacher, load_teacher
from nasdistill.teachers.weights import weights_hash

__all__ = [
    "KINDS",
    "SHIPPED",
    "LogitPrecision",
    "Teacher",
    "head_of",
    "load_teacher",
    "replace_head",
    "weights_hash",
]
