"""The candidates of a study: drawn within its limits and counted once, for all its workers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from nasdistill.common import locks
from nasdistill.common.errors import UserError
from nasdistill.common.files import write_whole
from nasdistill.common.json_files import read_or_set_aside
from nasdistill.common.seeds import seed_of
from nasdistill.models.counts import count_architecture, count_params
from nasdistill.results.experience import StoredUntrained, Untrained
from nasdistill.trials.context import StudyContext
from nasdistill.trials.costs import excess_over, least_figures

POOL = 200
"""Architectures within the limits that are drawn, once for a study."""
DRAWS = 1000
"""Architectures that are drawn for it at most."""
FILE = "candidates.json"


class Drawn(NamedTuple):
    """One of the pool.

    Attributes:
        parameters: Its values by dotted name, for the sampler.
        fingerprint: The architecture's.
        untrained: What is known of it.
    """

    parameters: Mapping[str, Any]
    fingerprint: str
    untrained: Untrained


class _StoredCandidate(BaseModel):
    parameters: dict[str, Any]
    fingerprint: str
    untrained: StoredUntrained


class _Stored(BaseModel):
    drawn_by: dict[str, Any]
    candidates: list[_StoredCandidate]


_STORED = TypeAdapter(_Stored)


def candidate_pool(context: StudyContext) -> list[Drawn]:
    """The candidates of a study; whoever needs them first draws and counts them for all workers.

    They lie in `candidates.json` in the study's folder. A file that is damaged, or was drawn by
    something else, is made again: the study's seed decides what is in it.
    """
    if context.pool is None:
        with locks.alone(context.folder / "candidates.lock"):
            context.pool = _read(context)
            if context.pool is None:
                context.pool = _draw(context)
                _write(context, context.pool)
    pool: list[Drawn] = context.pool
    return pool


def _drawn_by(context: StudyContext) -> dict[str, Any]:
    """What decides which candidates are drawn, and what is counted, in JSON values."""
    shape, limits = context.dataset.input, context.limits
    return {
        "seed": context.recipe.seed,
        "space": context.study.space.fingerprint,
        "limits": {k: limits[k] for k in ("params", "macs", "bytes") if k in limits},
        "input": [shape.channels, shape.height, shape.width],
        "classes": context.classes,
        **({"deploy": "int8"} if context.recipe.deploy == "int8" else {}),
    }


def _read(context: StudyContext) -> list[Drawn] | None:
    lost = "candidates are drawn and counted again"
    content = read_or_set_aside(context.folder / FILE, _STORED, context.warn, lost)
    if content is None or content["drawn_by"] != _drawn_by(context):
        return None
    return [
        Drawn(one["parameters"], one["fingerprint"], Untrained(**one["untrained"]))
        for one in content["candidates"]
    ]


def _write(context: StudyContext, pool: list[Drawn]) -> None:
    candidates = [{**one._asdict(), "untrained": asdict(one.untrained)} for one in pool]
    content = {"drawn_by": _drawn_by(context), "candidates": candidates}
    write_whole(context.folder / FILE, json.dumps(content))


def _draw(context: StudyContext) -> list[Drawn]:
    context.note(f"drawing and counting {POOL} candidates", stage="search")
    rng = random.Random(seed_of(context.recipe.seed, "candidates"))
    limits, shape, classes = context.limits, context.dataset.input, context.classes
    pool: dict[str, Drawn] = {}
    for _ in range(DRAWS):
        architecture, parameters = context.study.space.draw(rng)
        if architecture.fingerprint in pool:
            continue
        try:
            with locks.busy(context.latency_lock):  # who measures latency is not disturbed
                if count_params(architecture, shape, classes) > limits.get("params", math.inf):
                    continue
                counts = count_architecture(architecture, shape, classes)
        except UserError:  # a family of the user's own that cannot build this one
            continue
        if excess_over(least_figures(context.recipe, counts), limits):
            continue
        untrained = Untrained(
            architecture.values,
            counts.macs,
            counts.params,
            counts.depth,
            activations=counts.activations,
        )
        pool[architecture.fingerprint] = Drawn(parameters, architecture.fingerprint, untrained)
        if len(pool) == POOL:
            break
    return list(pool.values())
