"""Numbers as short text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nasdistill.common import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (812, "812"),
        (999.4, "999"),
        (999.6, "1k"),
        (81_234, "81.2k"),
        (1_050_000, "1.05M"),
        (999_600_000, "1G"),
        (-2_500, "-2.5k"),
    ],
)
def test_count_has_three_digits_and_a_suffix(value: float, text: str) -> None:
    assert formats.count(value) == text


def test_size_is_in_powers_of_1000() -> None:
    assert formats.size(12) == "12 B"
    assert formats.size(325_100) == "325 kB"
    assert formats.size(2_000_000_000) == "2 GB"


def test_shares_become_per_cent() -> None:
    assert formats.percent(0.9062) == "90.6 %"
    assert formats.percent(0.9062, digits=0) == "91 %"
    assert formats.interval((0.898, 0.914)) == "89.8–91.4 %"
    assert formats.interval(()) == formats.NONE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.42, "0.42 s"),
        (38, "38 s"),
        (59.4, "59 s"),
        (59.5, "1 min 0 s"),
        (252, "4 min 12 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert formats.seconds(value) == text


def test_cost_is_in_its_unit() -> None:
    assert formats.cost("params", 81_234) == "81.2k"
    assert formats.cost("macs", 1_050_000) == "1.05M"
    assert formats.cost("bytes", 325_100) == "325 kB"
    assert formats.cost("latency", 1.254) == "1.25 ms"
    assert formats.cost("accuracy", 0.9) == "90.0 %"


def test_times_and_counted() -> None:
    assert formats.times(13.14) == "13.1×"
    assert formats.counted(1, "final") == "1 final"
    assert formats.counted(2, "final") == "2 finals"
    assert formats.counted(60_000, "example") == "60,000 examples"


@pytest.mark.parametrize(
    "function",
    [
        formats.count,
        formats.size,
        formats.percent,
        formats.interval,
        formats.milliseconds,
        formats.seconds,
        formats.times,
    ],
)
def test_nothing_known_is_a_dash(function: Callable[[None], str]) -> None:
    assert function(None) == formats.NONE
