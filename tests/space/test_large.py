"""Spaces whose tree depends on the size of the pictures."""

from __future__ import annotations

import pytest

from nasdistill.common.errors import UserError
from nasdistill.space import SearchSpace

TWO = """\
name: two
family: mlp
description: A few.
parameters:
  width: {int: [4, 8]}
start:
  - {width: 4}
large:
  parameters:
    width: {int: [16, 64], step: 16}
    deep: {choice: [1, 2]}
  start:
    - {width: 16, deep: 1}
    - {width: 64, deep: 2}
"""

FINGERPRINTS = {
    "mlp": "62116df06f58d79b",
    "mobile": "8d3900fbf0fbf4cf",
    "resnet": "df1df3c9ed6ec97e",
    "vit": "2297c00edc9c4e77",
}
"""Of the trees for small pictures as 0.1 had them: experience and studies go by these."""


def test_a_tree_for_large_pictures() -> None:
    space = SearchSpace.from_yaml(TWO, "two.yaml")
    small, large = space.for_pictures(95), space.for_pictures(96)
    assert small is space and large is space.large and large.for_pictures(28) is large
    assert (small.count(), large.count()) == (5, 4 * 2)
    assert [dict(start) for start in large.start] == [
        {"width": 16, "deep": 1},
        {"width": 64, "deep": 2},
    ]
    assert (large.name, large.family, large.description) == ("two", "mlp", "A few.")
    assert space.variants() == (small, large) and large.variants() == (large,)
    assert "pictures from 96 pixels on: another tree" in space.tree()[-1]
    assert not any("pictures from" in line for line in large.tree())


def test_the_small_tree_is_what_it_was_without() -> None:
    alone = SearchSpace.from_yaml(TWO.partition("large:")[0], "two.yaml")
    space = SearchSpace.from_yaml(TWO, "two.yaml")
    assert alone.large is None and alone.for_pictures(224) is alone
    assert alone.fingerprint == space.fingerprint != space.for_pictures(224).fingerprint
    assert alone.to_dict() == space.to_dict()


@pytest.mark.parametrize("name", list(FINGERPRINTS))
def test_shipped_spaces_for_small_pictures_stay(name: str) -> None:
    space = SearchSpace.load(name)
    assert space.for_pictures(95).fingerprint == FINGERPRINTS[name]
    large = space.for_pictures(96)
    assert (large is space) == (name == "mlp") and large.family == space.family


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("    deep:", "    depe: {iint: [1, 2]}\n    deep:", "two.yaml:11: large.parameters.depe"),
        ("deep: 2", "deep: 3", "two.yaml:14: large.start.1.deep: found 3; allowed: 1, 2"),
        (
            "  start:\n    - {width: 16",
            "  begin: 1\n  start:\n    - {width: 16",
            "two.yaml:12: large.begin: unknown key",
        ),
        ("large:\n  parameters:", "large:\n  parameter:", "large.parameters: this key is missing"),
        ("large:", "lagre:", "two.yaml:8: lagre: unknown key; did you mean 'large'?"),
    ],
)
def test_errors_in_the_tree_for_large_pictures(old: str, new: str, reason: str) -> None:
    assert TWO.count(old) == 1
    with pytest.raises(UserError) as error:
        SearchSpace.from_yaml(TWO.replace(old, new), "two.yaml")
    assert reason in str(error.value)


def test_large_that_is_no_tree() -> None:
    text = TWO.partition("large:")[0] + "large: 3\n"
    with pytest.raises(UserError, match="large: found 3; allowed: description, parameters, start"):
        SearchSpace.from_yaml(text, "two.yaml")


def test_what_is_distilled_is_checked_in_both() -> None:
    text = TWO.replace("    deep:", "    distillation: {alpha: {float: [0.5, 2.0]}}\n    deep:")
    with pytest.raises(
        UserError, match=r"large.parameters.distillation.alpha: found values outside"
    ):
        SearchSpace.from_yaml(text, "two.yaml")
