"""Quality beyond accuracy: a student held against its teacher, clean and corrupted."""

from nasdistill.evaluation.evaluate import evaluate, judge_final, write_quality
from nasdistill.evaluation.exam import CORRUPTED, Exam

__all__ = ["CORRUPTED", "Exam", "evaluate", "judge_final", "write_quality"]
