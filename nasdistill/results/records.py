"""Candidates, finals and studies as plain records and pandas frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasdistill.common.types import COSTS, Cost
from nasdistill.results.rungs import examples_of

if TYPE_CHECKING:
    import pandas as pd

State = Literal["running", "complete", "stopped", "rejected", "failed"]

DEPLOYED = "onnx-int8"
"""The format of the file that a final ships as in a study with `deploy: int8`."""
UNEVEN = 1.5
"""How many times its even share of the test split the largest class has in uneven ones."""

COUNTED: tuple[State, ...] = ("running", "complete", "stopped", "failed")
"""States that count against the study's total of trials."""


@dataclass(frozen=True)
class RungScore:
    """The score of a student at one rung, on the score half of the validation split.

    Attributes:
        rung: Index from 0.
        budget: Training examples that the scored copy has seen.
        accuracy: Share of right answers, in [0, 1].
        low: Lower end of the score's 95 % interval.
        high: Upper end of that interval.
        loss: Mean cross-entropy against the labels, in nats.
        seconds: Wall-clock seconds the rung took, its evaluation included.
        peers: Score of each student, where several teach each other; the best is `score`.
        balanced: Balanced accuracy, in [0, 1], in studies whose score it is; else None.
    """

    rung: int
    budget: int
    accuracy: float
    low: float
    high: float
    loss: float
    seconds: float
    peers: Sequence[float] = ()
    balanced: float | None = None

    @property
    def score(self) -> float:
        """The figure that trials are ranked by, in [0, 1]."""
        return self.accuracy if self.balanced is None else self.balanced

    @property
    def in_words(self) -> str:
        """The figures in words."""
        accuracy = f"accuracy {self.accuracy:.3f}"
        return accuracy if self.balanced is None else f"balanced {self.balanced:.3f}, {accuracy}"


@dataclass(frozen=True)
class Candidate:
    """One trial as the results know it.

    Attributes:
        number: The trial's number in the Optuna study.
        state: `complete` climbed every rung; `stopped` was stopped at one; `rejected` broke a
            limit before training; `failed` ended with an error (`reason`).
        architecture: The architecture's JSON object (`family`, `values`).
        fingerprint: The architecture's fingerprint.
        parameters: Sampled values by dotted parameter name.
        params: Number of parameters.
        macs: Multiply-adds of one forward pass of one image.
        bytes: Size of the stored weights, in bytes.
        latency: Batch-1 latency in milliseconds, from repeated measurements beside the teacher;
            None where it was not measured.
        rungs: Scores so far, in order.
        reason: Why it was rejected, stopped or failed.
        seconds: Wall-clock seconds by stage (`latency`, `rungs`).
        saved: Training examples that stopping it saved.
        micro_batch: Examples that the student saw at once because whole batches did not fit in
            memory; None where they did. Batch norm then saw each micro-batch by itself.
        depth: Convolutions and linear layers; None in studies that did not count them.
        activations: Numbers that operators write for one image; None in studies that did not
            count them.
        passed: Rungs at which it was judged, and from which it went on.
        zero_cost: Figures of its untrained student; None where they were not measured.
        foretold: What earlier full runs made expect of it before it was trained, in standard
            deviations of theirs; None where it was not drawn for that.
    """

    number: int
    state: State
    architecture: Mapping[str, Any]
    fingerprint: str
    parameters: Mapping[str, Any]
    params: int | None = None
    macs: int | None = None
    bytes: int | None = None
    latency: float | None = None
    rungs: tuple[RungScore, ...] = ()
    reason: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    saved: int = 0
    micro_batch: int | None = None
    depth: int | None = None
    activations: int | None = None
    passed: int = 0
    zero_cost: Mapping[str, float] | None = None
    foretold: float | None = None

    @property
    def score(self) -> float | None:
        """Score at the last rung reached, in [0, 1]."""
        return self.rungs[-1].score if self.rungs else None

    @property
    def examples(self) -> int:
        """Training examples that its scores took: trunk and cool-downs."""
        return examples_of([rung.budget for rung in self.rungs]) if self.rungs else 0

    def cost(self, name: Cost) -> float | None:
        """The value of one cost: milliseconds for `latency`, a count otherwise."""
        value = getattr(self, name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Final:
    """A fully distilled, tested, exported and re-measured candidate.

    Attributes:
        rank: From 1, the order of the table of finals.
        number: The trial it came from.
        folder: The folder of its files.
        metrics: The content of its metrics.json.
    """

    rank: int
    number: int
    folder: Path
    metrics: Mapping[str, Any]

    @property
    def recommended(self) -> bool:
        """Whether the audit half of the validation split chose this one."""
        return bool(self.metrics.get("recommended", False))

    @property
    def deployed(self) -> Mapping[str, Any] | None:
        """The file that it ships as, with its figures; None where fp32 does.

        Without figures if that file could not be made.
        """
        if self.metrics.get("deploy", "fp32") == "fp32":
            return None
        file: Mapping[str, Any] = self.metrics.get("files", {}).get(DEPLOYED, {})
        return file

    @property
    def test_score(self) -> Tested:
        """The figure on the test split that stands beside trials' scores, of what ships."""
        if self.deployed is None:
            return tested_by_score(self.metrics)
        teacher = tested_by_score(self.metrics).teacher
        by_score = {**self.deployed, "score": self.metrics.get("score")}
        return replace(tested_by_score(by_score), teacher=teacher)

    @property
    def audit_score(self) -> float:
        """The score on the audit half, in [0, 1], of what ships; 0 where that was not made."""
        if self.deployed is None:
            return audit_score(self.metrics)
        return float(self.deployed.get("audit_score") or 0.0)

    @property
    def limits(self) -> Mapping[str, Mapping[str, Any]]:
        """The checked limits of what ships, by name: `limit`, `value`, `ok`."""
        limits: Mapping[str, Mapping[str, Any]] = self.metrics.get("limits") or {}
        return {**limits, **((self.deployed or {}).get("limits") or {})}

    @property
    def unevenly_tested(self) -> bool:
        """Whether accuracy alone says too little: of uneven classes, or where that is its score."""
        majority = self.metrics.get("majority")
        if majority is None:
            return False
        balanced = self.metrics["score"] == "balanced-accuracy"
        return balanced or bool(majority["share"] >= UNEVEN * majority["even"])

    @property
    def broken_limits(self) -> tuple[str, ...]:
        """Names of the limits that what ships breaks; `int8` where that file was not made."""
        broken = (name for name, limit in self.limits.items() if not limit["ok"])
        if self.deployed is not None and self.deployed.get("audit_score") is None:
            return (*broken, "int8")
        return tuple(broken)


@dataclass(frozen=True)
class Tested:
    """A final on the test split, by the study's score.

    Attributes:
        name: `test accuracy`, or `balanced test accuracy`.
        share: In [0, 1]; None where it was not tested.
        interval: Its 95 % interval.
        teacher: The teacher's; None where that cannot be run.
    """

    name: str
    share: float | None
    interval: Sequence[float] | None
    teacher: float | None

    @property
    def retention(self) -> float | None:
        """The share of the teacher's figure that was kept."""
        if self.share is None or self.teacher is None:
            return None
        return self.share / max(self.teacher, 1e-9)


def tested_by_score(metrics: Mapping[str, Any]) -> Tested:
    """A final's figure on the test split, by the study's score, from its metrics.json."""
    if metrics.get("score") == "balanced-accuracy":
        key, name = "balanced_", "balanced test accuracy"
    else:
        key, name = "", "test accuracy"
    return Tested(
        name,
        metrics.get(f"test_{key}accuracy"),
        metrics.get(f"test_{key}interval"),
        metrics.get(f"teacher_test_{key}accuracy"),
    )


def audit_score(metrics: Mapping[str, Any]) -> float:
    """A final's score on the audit half, in [0, 1], from its metrics.json."""
    balanced = metrics.get("score") == "balanced-accuracy"
    score: float = metrics["audit_balanced_accuracy" if balanced else "audit_accuracy"]
    return score


@dataclass(frozen=True)
class StudyRecord:
    """A whole study as the report reads it.

    Attributes:
        name: The study's name.
        folder: `studies/<name>`.
        state: `searching`, `distilling` or `complete`.
        recipe: The resolved recipe.
        command: The command line that made the study.
        teacher: The teacher's card: name, params, macs, bytes, test and validation accuracy,
            calibration error, and (where measured) `latency` in milliseconds.
        data: Name, classes, input shape and number of examples by split.
        machine: Processor, cores, memory, accelerator.
        versions: Versions of Python and of the packages that matter.
        limits: Upper limits by cost name, and `accuracy` (lower).
        rungs: Budget of each rung, in training examples.
        stages: Wall-clock seconds by stage over the whole study, added up over workers.
        savings: Examples not trained on, or not computed by the teacher, by what saved them:
            `stopping`, `cache`, `gates`.
        candidates: All trials, by number.
        finals: By rank.
        experience: Full runs of earlier studies that it learnt from (`results.experience.stored`);
            None in studies that did not.
        first_weights: Origin of the weights that students begin with, by model.
        damage: What of its files and trials could not be read, and is left out: a sentence each.
    """

    name: str
    folder: Path
    state: Literal["searching", "distilling", "complete"]
    recipe: Mapping[str, Any]
    command: str
    teacher: Mapping[str, Any]
    data: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    limits: Mapping[str, float]
    rungs: tuple[int, ...]
    stages: Mapping[str, float]
    savings: Mapping[str, float]
    candidates: Sequence[Candidate]
    finals: Sequence[Final]
    experience: Mapping[str, Any] | None = None
    first_weights: Mapping[str, str] = field(default_factory=dict)
    damage: Sequence[str] = ()


@dataclass(frozen=True)
class DamagedStudy:
    """A study of which nothing can be read.

    Attributes:
        name: The study's name.
        folder: Its folder.
        reason: The file that is damaged, and what is wrong with it.
    """

    name: str
    folder: Path
    reason: str


def candidates_frame(candidates: Sequence[Candidate]) -> pd.DataFrame:
    """One row per trial: number, state, costs, score, micro-batch, counts, rungs, parameters."""
    import pandas as pd

    rows = []
    for candidate in candidates:
        row: dict[str, Any] = {"trial": candidate.number, "state": candidate.state}
        row |= {"fingerprint": candidate.fingerprint, "score": candidate.score}
        row |= {cost: candidate.cost(cost) for cost in COSTS}
        row |= {"micro_batch": candidate.micro_batch}
        row |= {"depth": candidate.depth, "activations": candidate.activations}
        row |= {f"score_{rung.rung}": rung.score for rung in candidate.rungs}
        rows.append(row | dict(candidate.parameters))
    return pd.DataFrame(rows)
