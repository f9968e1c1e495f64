"""Quality beyond accuracy: a student compared with its teacher, clean and corrupted."""

from nasdistill.evaluation.comparison import CORRUPTED, Comparison
from nasdistill.evaluation.evaluate import evaluate, judge_final, write_quality

__all__ = ["CORRUPTED", "Comparison", "evaluate", "judge_final", "write_quality"]
