"""One study's whole configuration: YAML and flags in, a validated object out. No torch."""

from nasdistill.common.values import Budget
from nasdistill.common.yaml import line_of, parse_yaml, read_yaml
from nasdistill.recipe.objective import (
    FeedOptions,
    ObjectiveOptions,
    StageOptions,
    SyntheticOptions,
)
from nasdistill.recipe.reading import FLAGS, from_stored, load_recipe
from nasdistill.recipe.recipe import (
    FREE,
    LEARNING_RATES,
    MOVABLE,
    UNNAMED,
    Recipe,
    Rungs,
    changed_keys,
)
from nasdistill.recipe.teachers import IterateOptions, TeacherOptions

__all__ = [
    "LEARNING_RATES",
    "FLAGS",
    "FREE",
    "MOVABLE",
    "UNNAMED",
    "Budget",
    "FeedOptions",
    "IterateOptions",
    "ObjectiveOptions",
    "Recipe",
    "Rungs",
    "StageOptions",
    "SyntheticOptions",
    "TeacherOptions",
    "changed_keys",
    "from_stored",
    "line_of",
    "load_recipe",
    "parse_yaml",
    "read_yaml",
]
