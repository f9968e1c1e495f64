"""The search space of a study: what fits its pictures or its teacher, the same ever after."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event, silent
from nasdistill.common.types import Input
from nasdistill.results import keys
from nasdistill.space import LARGE_PIXELS, SearchSpace

if TYPE_CHECKING:
    from nasdistill.study.study import Study

MakeSpace: TypeAlias = Callable[[SearchSpace], SearchSpace]


def resolve_space(space: SearchSpace, pictures: Input | None) -> SearchSpace | None:
    """The space that is searched, of those that a name stands for.

    Args:
        space: As its file is read.
        pictures: Their shape as students see them; None where no data were read yet.

    Returns:
        None where that depends on what is not known yet.
    """
    if space.large is None:
        return space
    return None if pictures is None else space.for_pictures(min(pictures.size))


def settle_space(
    study: Study,
    pictures: Input | None = None,
    make: MakeSpace | None = None,
    emit: Emit = silent,
) -> None:
    """Fixes a study's space as soon as it is known, and from then on holds it to that.

    A study of an earlier release keeps the variant that it was made with, whatever its pictures.

    Args:
        study: Its `space` becomes the one that is searched.
        pictures: See `resolve_space`.
        make: Makes the tree of a space that needs a net for it; None where no data were read yet.
        emit: Told once for a study where its pictures are large ones, which have their own tree.

    Raises:
        UserError: If the space has changed since the study was made; the message says where.
    """
    if not study.has(keys.SPACE_FINGERPRINT):
        space = resolve_space(study.space, pictures)
        if space is not None and space.needs_base:
            space = None if make is None else make(space)
        if space is None:
            return
        if space is study.space.large:
            text = f"space {space.name}: its tree for pictures from {LARGE_PIXELS} pixels on"
            emit(Event("note", text, stage="search"))
        study.write(keys.SPACE, space.to_dict())
        study.write(keys.SPACE_FINGERPRINT, space.fingerprint)
    study.space = _same_space(study)


def _same_space(study: Study) -> SearchSpace:
    """The variant of a study's space that it was made with."""
    tree, stored = study.read(keys.SPACE) or {}, study.require(keys.SPACE_FINGERPRINT)
    variants = study.space.variants()
    if study.space.needs_base and "template" in tree:
        variants = (study.space.with_tree_of(tree),)
    for variant in variants:
        # A tree that was made from a net is the stored one; its YAML may say something else by now.
        same_template = variant.to_dict().get("template") == tree.get("template")
        if variant.fingerprint == stored and same_template:
            return variant
    changes = [_differences(tree, variant.to_dict(), "") for variant in variants]
    changed = min(changes, key=len)
    places = f" ({'; '.join(changed[:3])}{'; …' if len(changed) > 3 else ''})" if changed else ""
    raise UserError(
        f"study {study.folder.name!r}: the search space {study.recipe.space_name!r} has changed "
        f"since the study was made{places}. Put it back, or give another --study NAME"
    )


def _differences(old: Any, new: Any, place: str) -> list[str]:
    """The places at which two trees of JSON values differ, in words."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = {key: (old.get(key), new.get(key)) for key in {**old, **new}}
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = dict(enumerate(zip(old, new, strict=True)))
    else:
        return [] if old == new else [f"{place}: was {_short(old)}, now {_short(new)}"]
    differences: list[str] = []
    for key, (before, after) in pairs.items():
        differences += _differences(before, after, f"{place}.{key}" if place else str(key))
    return differences


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
