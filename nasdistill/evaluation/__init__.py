"""Quality beyond accuracy: a student held against its teacher, clean and corrupted."""

from nasdistill.evaluation.comparison import CORRUPTED, Exam
from nasdistill.evaluation.evaluate import evaluate, judge_final, write_quality

__all__ = ["CORRUPTED", "Exam", "evaluate", "judge_final", "write_quality"]
