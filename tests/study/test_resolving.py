"""The space of a study follows from its pictures once they are read, and stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import TINY, OpenContext, write_blobs

from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.common.types import Input
from nasdistill.recipe import load_recipe
from nasdistill.results import keys
from nasdistill.space import SearchSpace
from nasdistill.study import Study
from nasdistill.study.resolving import resolve_space, settle_space

LARGE = """\
large:
  parameters:
    activation: relu
    dropout: 0.0
    layers: {choice: {one: {widths: [{int: [64, 128], step: 64}]}}}
"""


def study(**options: Any) -> Study:
    return Study.open(load_recipe("recipe.yaml", options), Path("studies"), "nasdistill search")


def spaces() -> SearchSpace:
    """Writes the small study's space with a tree for large pictures, and reads it."""
    Path("tiny.yaml").write_text(TINY + LARGE)
    return SearchSpace.load("tiny.yaml")


def test_resolution() -> None:
    space = SearchSpace.load("mobile")
    assert resolve_space(space, None) is None
    assert resolve_space(space, Input(3, 95, 200)) is space
    assert resolve_space(space, Input(3, 96, 200)) is space.large
    mlp = SearchSpace.load("mlp")
    assert resolve_space(mlp, None) is mlp


def test_large_pictures_have_the_large_tree(
    here: Path, opened: OpenContext, events: list[Event]
) -> None:
    space = spaces()
    assert not study().has(keys.SPACE_FINGERPRINT)  # the pictures are not read yet
    write_blobs(Path("blobs.npz"), size=96)
    Path("own.py").write_text(Path("own.py").read_text().replace("[label, 2", "[label, 0"))
    context = opened()
    assert context.study.space == space.large
    assert context.study.require(keys.SPACE_FINGERPRINT) == space.large.fingerprint
    assert context.study.require(keys.SPACE) == space.large.to_dict()
    assert study().space == space.large  # also before its data are read again
    texts = [event.text for event in events if "its tree for pictures from 96" in event.text]
    assert texts == ["space tiny: its tree for pictures from 96 pixels on"]
    opened()
    assert [event.text for event in events if "its tree for" in event.text] == texts  # once
    assert context.study.proposer().propose(0).architecture.values["layers"]["widths"][0] in (
        64,
        128,
    )


def test_small_pictures_keep_the_small_tree(here: Path, opened: OpenContext) -> None:
    before = SearchSpace.load("tiny.yaml")
    spaces()
    assert opened().study.space.fingerprint == before.fingerprint
    assert study().require(keys.SPACE_FINGERPRINT) == before.fingerprint


def test_a_study_goes_on_with_the_tree_that_it_was_made_with(here: Path) -> None:
    first = study()  # its space has one tree, as in earlier releases
    assert first.require(keys.SPACE_FINGERPRINT) == first.space.fingerprint
    space = spaces()
    again = study()
    settle_space(again, Input(1, 224, 224))
    assert again.space == space and again.space.fingerprint == first.space.fingerprint


def test_whoever_comes_later_takes_what_the_first_has_settled(here: Path) -> None:
    space = spaces()
    one, other = study(), study()
    settle_space(one, Input(1, 96, 96))
    settle_space(other, Input(1, 96, 96))
    assert one.space == other.space == space.large


def test_a_large_tree_that_has_changed(here: Path) -> None:
    spaces()
    settle_space(study(), Input(1, 96, 96))
    Path("tiny.yaml").write_text(TINY + LARGE.replace("[64, 128]", "[64, 192]"))
    with pytest.raises(
        UserError, match=r"'tiny.yaml' has changed .*\(parameters.layers.choice.one"
    ):
        study()
    Path("tiny.yaml").write_text((TINY + LARGE).replace("[relu, gelu]", "[relu, silu]"))
    assert study().space.count() == 2  # the other tree is none of its business
