"""The terms of a recipe: read by the options that stand beside each term in `losses`.

PyTorch comes with `losses`, so it is imported where a recipe names terms, and only there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, PlainValidator, SerializeAsAny, TypeAdapter, ValidationInfo

from nasdistill.common.types import Closed

if TYPE_CHECKING:
    from nasdistill.losses import Term


def known_terms() -> Mapping[str, type[Term]]:
    """All terms, by the names that recipes use."""
    from nasdistill.losses import TERMS

    return TERMS


@cache
def _adapter(options: tuple[type[Closed], ...]) -> TypeAdapter[Closed]:
    """A reader of options, whose class is chosen by their `term`."""
    union: Any = Union[options]  # noqa: UP007 - of a tuple
    return TypeAdapter(Annotated[union, Field(discriminator="term")])


def _read(value: Any, info: ValidationInfo) -> Closed:
    """The options of one term; errors keep their places, below that of the term."""
    adapter = _adapter(tuple(term.Options for term in known_terms().values()))
    if info.mode == "json":
        return adapter.validate_json(json.dumps(value), strict=True)
    return adapter.validate_python(value)


TermOptions = Annotated[SerializeAsAny[Closed], PlainValidator(_read)]
