"""Models: families of architectures, and what is counted, measured, read and exported of them."""

from nasdistill.models.classifier import Classifier
from nasdistill.models.families import (
    FAMILIES,
    Build,
    build,
    family_names,
    register_families,
    register_nets,
)

__all__ = [
    "FAMILIES",
    "Build",
    "Classifier",
    "build",
    "family_names",
    "register_families",
    "register_nets",
]
