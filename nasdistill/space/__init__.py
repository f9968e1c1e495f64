"""Search spaces: a tree of nodes read from YAML, and the points of it. No torch."""

from nasdistill.space.nodes import Suggest
from nasdistill.space.space import LARGE_PIXELS, Architecture, SearchSpace

__all__ = ["LARGE_PIXELS", "Architecture", "SearchSpace", "Suggest"]
