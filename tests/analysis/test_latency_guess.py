"""The order of architectures by latency before they are measured."""

from __future__ import annotations

import random

import numpy as np

from nasdistill.analysis.latency_guess import guess_latency
from nasdistill.analysis.rank_correlation import kendall
from nasdistill.results.experience import Untrained


def drawn(count: int) -> list[Untrained]:
    """Architectures whose MACs, activations and depth have nothing to do with one another."""
    rng = random.Random(0)
    return [
        Untrained(
            {}, rng.randrange(10**5, 10**7), 1, rng.randrange(5, 60), None, rng.randrange(10**6)
        )
        for _ in range(count)
    ]


def test_before_anything_is_measured_each_count_makes_slower() -> None:
    least = Untrained({}, 1000, 1, 5, None, 100)
    for more in (
        Untrained({}, 2000, 1, 5, None, 100),
        Untrained({}, 1000, 1, 6, None, 100),
        Untrained({}, 1000, 1, 5, None, 200),
    ):
        fast, slow = guess_latency([least, more], [])
        assert fast < slow
    assert len(guess_latency([], [(least, 1.0)])) == 0


def test_what_was_measured_teaches_which_count_matters() -> None:
    pool = drawn(60)
    for ms in (
        lambda one: 0.01 * one.depth,
        lambda one: 1e-6 * one.macs,
        lambda one: 1e-6 * (one.activations or 0),
    ):
        truth = [ms(one) for one in pool[16:]]
        untaught = kendall(list(guess_latency(pool[16:], [])), truth) or 0.0
        measured = [(one, ms(one)) for one in pool[:16]]
        taught = kendall(list(guess_latency(pool[16:], measured)), truth) or 0.0
        assert taught > max(0.7, untaught + 0.1)


def test_activations_that_nobody_counted_and_equal_ones_make_no_difference() -> None:
    alike = [Untrained({}, 1000, 1, 5), Untrained({}, 1000, 1, 5)]
    assert np.ptp(guess_latency(alike, [(one, 1.0) for one in alike * 2])) == 0
    slower = Untrained({}, 2000, 1, 5, None, 10)
    fast, slow = guess_latency([alike[0], slower], [])
    assert fast < slow
