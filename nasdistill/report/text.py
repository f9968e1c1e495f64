"""Costs of candidates and architectures as short text. Escaping is up to the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasdistill.common import formats
from nasdistill.common.types import Cost
from nasdistill.results import Candidate

COST_TITLES: dict[Cost, str] = {
    "params": "parameters",
    "macs": "MACs",
    "latency": "latency, batch 1 (ms)",
    "bytes": "size of the weights (bytes)",
}


def costs(candidate: Candidate) -> str:
    """All known costs of a candidate in one line."""
    known = [
        (candidate.params, f"{formats.count(candidate.params)} params"),
        (candidate.macs, f"{formats.count(candidate.macs)} MACs"),
        (candidate.bytes, formats.size(candidate.bytes)),
        (candidate.latency, formats.milliseconds(candidate.latency)),
    ]
    return " · ".join(text for value, text in known if value is not None) or "costs unknown"


def architecture(tree: Mapping[str, Any], lines: int = 9, width: int = 78) -> list[str]:
    """An architecture in a few lines: the family and its scalars, then a line per list entry.

    Args:
        tree: The architecture's JSON object (`family`, `values`).
        lines: The most lines returned; those left out are counted in the last.
        width: The most characters of a line.
    """
    values = tree.get("values", {})
    head, body = [str(tree.get("family", "?"))], list[str]()
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Sequence) and not isinstance(value, str):
            body += [f"{name}.{i}: {_inline(item)}" for i, item in enumerate(value)]
        elif isinstance(value, Mapping):
            body.append(f"{name}: {_inline(value)}")
        else:
            head.append(f"{name} {value}")
    result = [", ".join(head), *body]
    if len(result) > lines:
        result = [*result[: lines - 1], f"… and {len(result) - lines + 1} more"]
    return [shortened(line, width) for line in result]


def shortened(text: str, width: int) -> str:
    """A text of at most `width` characters, its end cut off where it is longer."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        branch = [str(value["type"])] if "type" in value else []
        rest = [f"{key} {_inline(item)}" for key, item in value.items() if key != "type"]
        return ", ".join(branch + rest)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return str(value)
