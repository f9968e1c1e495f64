"""Names of classes: which mean the same class."""

from __future__ import annotations

import unicodedata

import pytest

from nasdistill.common.class_names import are_numbers, differences, match_classes
from nasdistill.data.sources import FASHION_CLASSES


@pytest.mark.parametrize(
    ("names", "others", "found"),
    [
        ("abcd", "dcba", [3, 2, 1, 0]),
        (["a", "b", "c", "d", "e"], ["a", "b", "d", "dd", "e"], [0, 1, 3, None, 4]),
        (["T-shirt/top", "Bag"], ["Bag", "T-shirt_top"], [1, 0]),
        (["T-shirt/top", "Bag"], ["Bag", "T-shirttop"], [1, 0]),
        (["yes/no?", "CON."], ["con", "yes no"], [1, 0]),
        (["Ankle boot"], ["ankle_boot"], [0]),
        (["é"], [unicodedata.normalize("NFD", "é")], [0]),
        (["AC∕DC"], ["ac\uff0fdc"], [0]),
        # An exact name comes first, and what leaves a choice is not guessed.
        (["a", "A"], ["A", "a"], [1, 0]),
        (["a_b", "a-b"], ["a b"], [None]),
        (["a", "b"], ["A", "a b", "c"], [0, None, None]),
        (["x", "x"], ["x", "x"], [0, 1]),
        (["crane", "crane", "owl"], ["owl", "crane", "crane"], [2, None, None]),
    ],
)
def test_the_same_class_under_two_names(
    names: list[str], others: list[str], found: list[int | None]
) -> None:
    assert match_classes(list(names), list(others)) == found


def test_numbers_sorted_as_text_are_found() -> None:
    names = [str(i) for i in range(12)]
    assert match_classes(names, sorted(names)) == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]


def test_what_differs_is_told_on_each_side() -> None:
    assert differences(["a", "b", "c/d"], ["c_d", "a", "bb"]) == (["b"], ["bb"])
    assert differences(FASHION_CLASSES, sorted(FASHION_CLASSES)) == ([], [])


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["0", "1", "2"], True),
        (["0", "1", "10", "2"], False),
        (["1", "2"], False),
        (["n01440764", "n01443537"], True),
        (["n01443537", "n01440764"], False),
        (["cat", "dog"], False),
    ],
)
def test_names_that_only_number_the_classes(names: list[str], numbers: bool) -> None:
    assert are_numbers(names) is numbers
