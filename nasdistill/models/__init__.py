"""From an architecture to a module: families, and what is counted, read and exported of it."""

from nasdistill.models.classifier import Classifier
from nasdistill.models.families import FAMILIES, Build, build, families, register_families

__all__ = ["FAMILIES", "Build", "Classifier", "build", "families", "register_families"]
