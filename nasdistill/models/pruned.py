"""The family `pruned`: a net of another family with some of its channels and blocks left out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from nasdistill.common.types import Input
from nasdistill.models.pruning import Structure, cut, structure_of
from nasdistill.space import Architecture

FAMILY = "pruned"
PRETRAINED = "pretrained"
"""The family of named nets, some of whose architectures are cuts of these."""
IMPORTED = "import"
"""The family of bases that a function of the user's own file builds."""
MOST_CUTS = 8
"""How often a net may have been cut, each time from one that had been cut before."""
_MOST_KEPT = 16
_structures: OrderedDict[tuple[str, Input, int], Structure] = OrderedDict()


def build(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds the base with random weights and cuts it by numbers of channels alone.

    Args:
        architecture: Its values are `base` (an architecture: `family` and `values`) and `keep`, see
            `pruning.counts_of`.
        input: The image.
        classes: Number of logits.
    """
    return build_cut(architecture, input, classes)


def build_cut(architecture: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds a cut of another net; see `build`, and `pretrained.build` for named ones."""
    base, keep = base_of(architecture), keep_of(architecture)
    net = build_base(base, input, classes)
    if keep:
        cut(net, structure_for(base, input, classes, net), keep)
    return net


def keep_of(architecture: Architecture) -> Mapping[str, Any]:
    """What an architecture keeps of its base, see `pruning.counts_of`; empty if all of it."""
    values = architecture.values
    kept = values["model"].get("keep", {}) if architecture.family == PRETRAINED else values["keep"]
    if not isinstance(kept, Mapping):
        raise ValueError("keep: an object is expected")
    return kept


def base_of(architecture: Architecture) -> Architecture:
    """The architecture that one of this family, or of named nets, is cut from.

    It may be of this family, too.

    Raises:
        ValueError: If there is none, or it was cut too often.
    """
    values = architecture.values
    if architecture.family == PRETRAINED:
        model = values["model"]
        if not isinstance(model.get("type"), str) or not {"type", "keep"} >= set(model):
            raise ValueError("model: a name is expected, or an object with type and keep alone")
        return Architecture(PRETRAINED, {"model": model["type"]})
    if set(values) != {"base", "keep"}:
        raise ValueError(f"base and keep are expected, found {', '.join(map(str, values))[:80]}")
    base = values["base"]
    if not isinstance(base, Mapping) or set(base) != {"family", "values"}:
        raise ValueError("base: an object with family and values alone is expected")
    family, inner = base["family"], base["values"]
    if not isinstance(family, str) or not isinstance(inner, Mapping):
        raise ValueError("base: family must be a text and values an object")
    if sum(each.get("family") == FAMILY for each in _bases(architecture)) >= MOST_CUTS:
        raise ValueError(f"base: it was cut more than {MOST_CUTS} times")
    return Architecture(family, inner)


def whole_of(architecture: Architecture) -> Architecture:
    """The architecture of no such family that one of this family goes back to."""
    *_, last = _bases(architecture)
    return Architecture(last["family"], last["values"])


def _bases(architecture: Architecture) -> Iterator[Mapping[str, Any]]:
    """The base, the base of that, and so on, as they are written."""
    values: Any = architecture.values
    while isinstance(values, Mapping) and isinstance(values.get("base"), Mapping):
        yield values["base"]
        values = values["base"].get("values")


def build_base(base: Architecture, input: Input, classes: int) -> nn.Module:
    """Builds the net that students are cut from, with random weights.

    Raises:
        UserError: If it cannot be built.
    """
    from nasdistill.models import families  # which holds this family

    if base.family == IMPORTED:
        return families.build_imported(base.values.get("name"), input, classes)
    return families.build(base, input, classes)


def has_imported_base(architecture: Architecture) -> bool:
    """Whether an architecture is cut from a net that a user's own file builds."""
    own = any(base.get("family") == IMPORTED for base in _bases(architecture))
    return architecture.family == FAMILY and own


def structure_for(
    base: Architecture, input: Input, classes: int, net: nn.Module | None = None
) -> Structure:
    """What can be cut from a base; traced once in a process.

    Args:
        base: The architecture.
        input: The image.
        classes: Number of logits.
        net: What it builds, where that is there already; as built, on any device.

    Raises:
        UserError: If it cannot be built or traced.
    """
    key = (base.to_json(), input, classes)
    if key not in _structures:
        whole = build_base(base, input, classes) if net is None else net
        _structures[key] = structure_of(whole, input)
        if len(_structures) > _MOST_KEPT:
            _structures.popitem(last=False)
    _structures.move_to_end(key)
    return _structures[key]
