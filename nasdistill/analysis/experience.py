"""What earlier full runs say of an architecture that has not been trained yet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nasdistill.analysis.forecast import PRIOR, Array, standardised
from nasdistill.results.experience import EarlierRun, Untrained, read_stored

FEWEST = 8
"""Full runs in one setting from which on they are believed."""
PENALTY = {"architecture": 10.0, "own": 20.0, "costs": 3.0, "untrained": 3.0}
"""Ridge penalty of a weight, in runs, by what it weighs. `own`: what the setting at hand has
different from all the others (Daumé III, "Frustratingly Easy Domain Adaptation", 2007)."""
SCORE_AGREES = 0.3
"""Assumed correlation of a short run's score with full accuracy, against which the record of
earlier full runs is weighed: at 5 % of a full run it is 0.25 to 0.48 in the table of `mobile`, and
0.65 in that of `resnet`."""
MOST = 4.0
"""Largest weight beside a score's of 1."""
PSEUDO_RUNS = 8.0
"""Weight of the record over all settings against that in the one at hand, in runs."""
MOST_ROWS = 30_000
"""Architectures whose values are remembered at once."""
LEAST_ERROR = 5e-4
"""Error rates below it cannot be told apart on a few thousand examples."""


@dataclass(frozen=True)
class Experience:
    """A ridge regression of full runs' errors on what architectures are.

    The label is −log(1 − accuracy), whose differences mean alike on easy data and on hard ones;
    each setting has its own mean. Weights are drawn towards those of the forecast's prior for MACs
    and depth, and towards zero for everything else (Hoerl and Kennard, 1970); what the setting at
    hand has different is a second set of weights.

    Attributes:
        weight: How much a guess counts beside a score, both in standard deviations; 0 where nothing
            was learnt.
        record: Correlation of guesses with what became of the runs, each left out of its own guess.
        count: Earlier full runs.
    """

    weight: float = 0.0
    record: float = 0.0
    count: int = 0
    _columns: _Columns | None = None
    _weights: Array = field(default_factory=lambda: np.empty(0))
    _deviations: Array = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, runs: Sequence[EarlierRun], setting: str, *, zero_cost: bool = True) -> Experience:
        """Learns from full runs.

        Args:
            runs: In any settings; one that has a single run teaches nothing.
            setting: The one at hand.
            zero_cost: Whether figures of untrained students count, for guesses about architectures
                of which they are known.
        """
        sizes = Counter(run.setting for run in runs)
        if max(sizes.values(), default=0) < FEWEST:
            return cls(count=len(runs))
        runs = [run for run in runs if sizes[run.setting] > 1]
        labels_N = np.array([-math.log(max(LEAST_ERROR, 1 - run.accuracy)) for run in runs])
        columns = _Columns.of([run.of for run in runs], zero_cost)
        x_NF = columns.design([run.of for run in runs])
        settings_N = np.array([run.setting for run in runs])
        share_N = np.zeros(len(runs))
        for name in sizes:  # each setting's mean is its own
            inside = settings_N == name
            if inside.any():
                x_NF[inside] -= x_NF[inside].mean(axis=0)
                labels_N[inside] -= labels_N[inside].mean()
                share_N[inside] = 1 / inside.sum()
        labels_N /= np.std(labels_N) or 1.0
        own_N = settings_N == setting
        x_ND = np.hstack([x_NF, x_NF * own_N[:, None]])
        prior_D = columns.prior()
        inverse_DD = np.linalg.inv(x_ND.T @ x_ND + np.diag(columns.penalties()))
        weights_D = prior_D + inverse_DD @ x_ND.T @ (labels_N - x_ND @ prior_D)
        leverage_N = share_N + np.einsum("nd,de,ne->n", x_ND, inverse_DD, x_ND)
        # What a run's error would be, had it taught nothing (Allen's PRESS, 1974).
        error_N = (labels_N - x_ND @ weights_D) / np.maximum(1e-6, 1 - leverage_N)
        record = _record(labels_N - error_N, labels_N, own_N)
        both_FD = np.hstack([np.eye(x_NF.shape[1])] * 2)
        variance_F = np.einsum("fd,de,fe->f", both_FD, inverse_DD, both_FD)
        return cls(
            _weight(record),
            record,
            len(runs),
            columns,
            both_FD @ weights_D,
            np.sqrt(variance_F * np.mean((labels_N - x_ND @ weights_D) ** 2)),
        )

    @classmethod
    def stored(cls, content: Mapping[str, Any] | None) -> Experience:
        """Learns from what a study stores; see `results.experience.stored`.

        Raises:
            DamagedFileError: If that cannot be read.
        """
        return cls() if content is None else cls.of(*read_stored(content))

    def guess(self, untrained: Sequence[Untrained]) -> Array:
        """Foretells full runs in the setting at hand.

        Args:
            untrained: The architectures.

        Returns:
            float64 `[N]`, in standard deviations of earlier full runs; only differences mean
            anything. All zero where nothing was learnt.
        """
        if self._columns is None or not untrained:
            return np.zeros(len(untrained))
        guess_N: Array = self._columns.design(untrained) @ self._weights
        return guess_N

    def most_telling(self, count: int) -> list[Telling]:
        """What tells most of an architecture's full run, the most telling first."""
        if self._columns is None:
            return []
        rows = zip(self._columns.names, self._weights, self._deviations, strict=True)
        telling = [Telling(name, float(w), float(d)) for name, w, d in rows]
        return sorted(telling, key=lambda one: -abs(one.weight))[:count]


class Telling(NamedTuple):
    """One thing that is known of an architecture, and the difference that it makes.

    Attributes:
        name: A cost, a zero-cost figure, or a value by its path; `*` stands for every place in a
            row, and `=` for a choice.
        weight: What one standard deviation of it adds, in standard deviations of full runs.
        deviation: Of the weight's error.
    """

    name: str
    weight: float
    deviation: float


def _weight(record: float) -> float:
    """A guess's weight beside a score's of 1, by what each explains of what is left unexplained."""
    known = min(0.99, max(0.0, record))
    odds = known / (1 - known**2)
    return min(MOST, odds / (SCORE_AGREES / (1 - SCORE_AGREES**2)))


@dataclass(frozen=True)
class _Columns:
    """The columns of a regression, and what is needed to make them of other architectures.

    Attributes:
        names: Of each, rising within its kind.
        kinds: Of each, as in `PENALTY`.
        means: float64 `[F]`, of the architectures learnt from; what one lacks counts as the mean.
        deviations: float64 `[F]`.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    means: Array
    deviations: Array
    _rows: dict[int, tuple[Untrained, list[float]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, untrained: Sequence[Untrained], zero_cost: bool) -> _Columns:
        """The columns that vary among these architectures."""
        rows = [dict(_figures(one)) for one in untrained]
        kinds, names, means, deviations = [], [], [], []
        for key in sorted({key for row in rows for key in row}):
            values = np.array([row.get(key, _absent(key)) for row in rows])
            deviation = float(np.nanstd(values))
            if deviation > 1e-9 and (zero_cost or key[0] != "untrained"):
                kinds.append(key[0])
                names.append(key[1])
                means.append(float(np.nanmean(values)))
                deviations.append(deviation)
        return cls(tuple(names), tuple(kinds), np.array(means), np.array(deviations))

    def design(self, untrained: Sequence[Untrained]) -> Array:
        """float64 `[N, F]`, in standard deviations of the architectures learnt from."""
        values_NF = np.array([self._row(one) for one in untrained])
        z_NF: Array = np.nan_to_num((values_NF - self.means) / self.deviations)
        return z_NF

    def _row(self, one: Untrained) -> list[float]:
        """Its values; a study asks about the same thousands of trials again and again."""
        known = self._rows.get(id(one.values))
        if known is not None and known[0].values is one.values and known[0] == one:
            return known[1]
        figures = dict(_figures(one))
        keys = zip(self.kinds, self.names, strict=True)
        row = [figures.get(key, _absent(key)) for key in keys]
        if len(self._rows) >= MOST_ROWS:  # of trials under way, which are read again and again
            self._rows.clear()
        self._rows[id(one.values)] = one, row
        return row

    def penalties(self) -> Array:
        """float64 `[2 F]`: of what all settings share, and of what one has different."""
        shared = [PENALTY[kind] for kind in self.kinds]
        return np.array([*shared, *[PENALTY["own"]] * len(shared)])

    def prior(self) -> Array:
        """float64 `[2 F]`: MACs and depth, as the forecast has them."""
        _, *weights = PRIOR
        known = dict(zip(("macs", "params", "depth"), weights, strict=True))
        total = math.hypot(*weights) * 2
        shared = [
            known.get(name, 0.0) / total if kind == "costs" else 0.0
            for kind, name in zip(self.kinds, self.names, strict=True)
        ]
        return np.array([*shared, *[0.0] * len(shared)])


def _absent(key: tuple[str, str]) -> float:
    """What stands for a value that an architecture does not have: 0 for a choice not made."""
    return 0.0 if "=" in key[1] else math.nan


def _figures(one: Untrained) -> Iterator[tuple[tuple[str, str], float]]:
    """Kind, name and value of everything that is known of an architecture."""
    yield ("costs", "macs"), math.log(max(1, one.macs))
    yield ("costs", "params"), math.log(max(1, one.params))
    yield ("costs", "depth"), float(one.depth)
    for name, value in (one.zero_cost or {}).items():
        yield ("untrained", name), value
    values: dict[str, list[float]] = {}
    for path, value in _leaves(one.values, ()):
        # A value at its own place, and one that is the same wherever it stands in a row.
        anywhere = tuple("*" if isinstance(key, int) else key for key in path)
        for keys in {path, anywhere}:
            name = ".".join(map(str, keys))
            if isinstance(value, bool | str):
                values.setdefault(f"{name}={value}", []).append(1.0)
            else:
                values.setdefault(name, []).append(float(value))
    for name, numbers in values.items():
        yield ("architecture", name), sum(numbers) if "=" in name else sum(numbers) / len(numbers)


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    match value:
        case Mapping():
            for key, inner in value.items():
                yield from _leaves(inner, (*path, key))
        case list() | tuple():
            for index, inner in enumerate(value):
                yield from _leaves(inner, (*path, index))
        case _:
            yield path, value


def _record(guesses_N: Array, labels_N: Array, own_N: Array) -> float:
    """Correlation of guesses with labels, that in the setting at hand counting by its runs."""
    everywhere = _correlation(guesses_N, labels_N)
    own = int(own_N.sum())
    if own < 3 or own == len(own_N):
        return everywhere
    here = _correlation(guesses_N[own_N], labels_N[own_N])
    return (own * here + PSEUDO_RUNS * everywhere) / (own + PSEUDO_RUNS)


def _correlation(a_N: Array, b_N: Array) -> float:
    return float(np.mean(standardised(a_N) * standardised(b_N)))
