"""Finds small neural networks that stand in for a big one, and distils them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasdistill.api import distill, load, search
    from nasdistill.models.artifact import classify
    from nasdistill.space import SearchSpace

__version__ = "0.1.0"
__all__ = ["SearchSpace", "classify", "distill", "load", "search"]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import nasdistill` stays quick."""
    if name == "SearchSpace":
        from nasdistill.space import SearchSpace

        return SearchSpace
    if name == "classify":
        from nasdistill.models.artifact import classify

        return classify
    if name in __all__:
        from nasdistill import api

        return getattr(api, name)
    raise AttributeError(f"module 'nasdistill' has no attribute {name!r}")
