"""Search spaces: a tree of nodes read from YAML, and the points of it. No torch."""

from nasdistill.space.nodes import Suggest
from nasdistill.space.space import Architecture, SearchSpace

__all__ = ["Architecture", "SearchSpace", "Suggest"]
