"""The stored attributes of a study and its trials, each named once: the format on disk.

They lie in the study's Optuna storage, as user attributes. A name with `{}` stands for several of a
kind, told apart by what `Key.of` puts in its place. What is not listed here is not ours; studies of
earlier releases hold `race`, `raced_from` and `race:{}` as well, which nobody reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

Value = TypeVar("Value", covariant=True)


@dataclass(frozen=True)
class Key(Generic[Value]):
    """One stored attribute, of the type in brackets where it is declared.

    Attributes:
        name: As it is stored.
        content: What it holds, and its unit.
        writer: The module that writes it.
        readers: Those that read it.
    """

    name: str
    content: str
    writer: str
    readers: str

    def of(self, *parts: object) -> Key[Value]:
        """The key of one of a kind."""
        return replace(self, name=self.name.format(*parts))

    def get(self, attributes: Mapping[str, Any]) -> Value | None:
        """Its value among some attributes; None where it is not there."""
        value: Value | None = attributes.get(self.name)
        return value

    def among(self, attributes: Mapping[str, Any]) -> dict[tuple[str, ...], Value]:
        """All attributes of this kind, by what tells them apart."""
        pattern = re.compile(re.escape(self.name).replace(r"\{\}", "(.+?)"))
        matches = ((pattern.fullmatch(name), value) for name, value in attributes.items())
        return {match.groups(): value for match, value in matches if match is not None}


# fmt: off
# -- of a study ----------------------------------------------------------------------------------

RECIPE = Key[dict[str, Any]](
    "recipe", "the resolved recipe", "study.study", "study.study, study.place, results.loading"
)
SPACE = Key[dict[str, Any]](
    "space", "the search space as a tree",
    "study.resolving", "study.resolving",
)
SPACE_FINGERPRINT = Key[str](
    "space_fingerprint", "its fingerprint", "study.resolving", "study.resolving"
)
COMMAND = Key[str]("command", "the command line", "study.study", "results.loading")
CREATED = Key[float](
    "created", "seconds since 1970", "study.study", "trials.experience"
)
STATE = Key[str](
    "stage", "searching, distilling or complete",
    "api.stages, finals.leading", "api.stages, results.loading",
)
IMPORT_FINGERPRINT = Key[str](
    "import_fingerprint", "hash of the --import file", "trials.plugins", "trials.plugins"
)
DATA = Key[dict[str, Any]](
    "data", "name, classes, input, examples, fingerprint, notes", "trials.context, api.moving",
    "trials.context, results.loading, api.searching",
)
TEACHER = Key[dict[str, Any]](
    "teacher", "card of the main teacher",
    "trials.teacher_pool, api.moving", "trials.context, results.loading",
)
FURTHER_TEACHER = Key[dict[str, Any]](
    "teacher:{}", "card of a further teacher, by its name", "trials.teacher_pool, api.moving",
    "trials.teacher_pool",
)
TABLE = Key[str]("table:{}", "hash of a teacher's table", "trials.context", "trials.context")
FIRST_WEIGHTS = Key[dict[str, str]](
    "first_weights", "origin of the weights that students begin with, by model",
    "trials.beginning", "trials.beginning, results.loading",
)
MACHINE = Key[dict[str, Any]](
    "machine", "processor, cores, memory, accelerator", "trials.context", "results.loading"
)
VERSIONS = Key[dict[str, str]](
    "versions", "of Python and packages", "trials.context", "results.loading"
)
RUNGS = Key[list[int]](
    "rungs", "budgets, in training examples", "trials.context", "results.loading"
)
FINAL_EXAMPLES = Key[int](
    "final_examples", "training examples of a full run", "trials.context", "api.searching"
)
TEACHER_LATENCY = Key[float | None](
    "teacher_latency", "median at batch 1, in milliseconds", "trials.context", "trials.context"
)
LIMITS = Key[dict[str, float]](
    "limits", "upper by cost (counts, milliseconds); accuracy: lower, in [0, 1]",
    "trials.context", "finals.leading, api.searching, results.loading",
)
ASSISTANT_ARCHITECTURES = Key[list[dict[str, Any]]](
    "assistants:architectures", "JSON of each", "trials.context", "finals.training"
)
ASSISTANTS = Key[list[dict[str, Any]]](
    "assistants", "who taught each, parameters, accuracies", "finals.training", "finals.training"
)
PRECISION = Key[Any](
    "precision:{}", "fp32, bf16 or bf16-mixed, of a kind of student or a teacher",
    "trials.autotune, trials.teacher_evaluation", "trials.autotune, trials.teacher_evaluation",
)
INFERENCE = Key[list[Any]](
    "inference:{}", "[images in a pass, channels last], of a kind of student or a teacher",
    "trials.autotune, trials.teacher_evaluation", "trials.autotune, trials.teacher_evaluation",
)
GRAPHED = Key[float](
    "captured:{}", "times as fast in a CUDA graph, of a kind of student", "trials.autotune",
    "trials.autotune",
)
COMPILED = Key[bool](
    "compiled:{}", "whether a run of finals is compiled", "trials.autotune", "trials.autotune"
)
MICRO_BATCH = Key[int](
    "micro_batch:{}", "examples, of a run of finals", "finals.training", "finals.training"
)
PROCESSES = Key[int](
    "processes:{}", "that a run of finals was trained by, at the most",
    "finals.several, finals.training", "finals.several, finals.training",
)
CONCURRENT_STUDENTS = Key[int](
    "at_once", "students trained at the same time on this card", "workers.calibration",
    "workers.process, workers.ray",
)
EXPERIENCE = Key[dict[str, Any]](
    "experience", "setting at hand, and earlier full runs (results.experience)",
    "study.experience",
    "study.experience, trials.experience, trials.screening, results.loading",
)
EXHAUSTED_AT = Key[int](
    "exhausted_at", "total of trials at which the space had nothing new",
    "trials.loop", "finals.leading",
)
FINALS = Key[list[int]](
    "finals", "trials distilled in full, by rank",
    "finals.leading, api.stages", "finals.leading, api.stages, api.searching, finals.pipeline",
)
CHOSEN_FROM = Key[list[int]](
    "chosen_from", "trials ended, finals wanted",
    "finals.leading", "finals.leading",
)
FINAL_FAILED = Key[str | None](
    "final_failed:{}", "why a trial's final failed; null once it is tried again",
    "finals.pipeline, api.searching", "finals.pipeline, finals.leading",
)
FINALS_LEASE = Key[dict[str, Any] | None](
    "finals_lease", "of the process that makes the finals", "study.claims", "study.claims"
)
SHARED_LEASE = Key[dict[str, Any] | None](
    "shared_lease:{}", "of the process that makes what hosts without a disk in common share",
    "study.study", "study.study",
)
SECONDS = Key[float](
    "seconds:{}:{}", "wall-clock seconds of a stage, by worker", "study.study", "results.loading"
)
SAVED = Key[int](
    "saved:{}:{}", "examples not asked of a teacher, by worker", "trials.loop", "results.loading"
)

STUDY_KEYS: tuple[Key[Any], ...] = (
    RECIPE, SPACE, SPACE_FINGERPRINT, COMMAND, CREATED, STATE, IMPORT_FINGERPRINT, DATA, TEACHER,
    FURTHER_TEACHER, TABLE, FIRST_WEIGHTS, MACHINE, VERSIONS, RUNGS, FINAL_EXAMPLES,
    TEACHER_LATENCY, LIMITS, ASSISTANT_ARCHITECTURES, ASSISTANTS, PRECISION, INFERENCE, GRAPHED,
    COMPILED, MICRO_BATCH, PROCESSES, CONCURRENT_STUDENTS, EXPERIENCE, EXHAUSTED_AT, FINALS,
    CHOSEN_FROM, FINAL_FAILED, FINALS_LEASE, SHARED_LEASE, SECONDS, SAVED,
)

# -- of a trial ----------------------------------------------------------------------------------

ARCHITECTURE = Key[str]("architecture", "canonical JSON", "study.sampling", "results.loading")
FINGERPRINT = Key[str](
    "fingerprint", "the architecture's", "study.sampling",
    "study.study, study.sampling, results.loading",
)
PARAMS = Key[int]("params", "parameters", "study.study", "results.loading")
MACS = Key[int]("macs", "multiply-adds of one image", "study.study", "results.loading")
BYTES = Key[int](
    "bytes", "of the stored weights, or of the int8 file where that ships",
    "study.study, trials.trial", "results.loading",
)
DEPTH = Key[int]("depth", "convolutions and linear layers", "study.study", "results.loading")
ACTIVATIONS = Key[int](
    "activations", "numbers that operators write for one image", "study.study", "results.loading"
)
ZERO_COST = Key[dict[str, float]](
    "zero_cost", "figures of the untrained student (models.zero_cost)",
    "trials.trial", "results.loading",
)
FORETOLD = Key[float](
    "foretold", "what earlier full runs made expect of it, in their standard deviations",
    "trials.proposals", "results.loading",
)
TRIAL_STATE = Key[str](
    "state", "running, complete, stopped, rejected, failed or withdrawn", "study.study",
    "study.study, results.loading",
)
REASON = Key[str]("reason", "why it ended", "study.study", "results.loading")
TOKEN = Key[str]("token", "of the claim", "study.study", "study.study")
LEASE = Key[dict[str, Any]](
    "lease", "worker, host, process, generation, until", "study.study",
    "study.study, study.leases"
)
CLAIM = Key[dict[str, Any]](
    "claim_{}_{}", "lease of who takes it up, by generation and worker", "study.study",
    "study.study",
)
DEATHS = Key[dict[str, int]](
    "deaths", "of its process since its last rung", "study.study", "study.study, study.leases"
)
LATENCY = Key[float]("latency", "at batch 1, in milliseconds", "trials.trial", "results.loading")
TRIAL_SECONDS = Key[float](
    "seconds_{}", "wall-clock seconds of a stage", "trials.trial", "results.loading"
)
TRIAL_MICRO_BATCH = Key[int](
    "micro_batch", "examples the student sees at once", "trials.trial", "results.loading"
)
SCORE = Key[float](
    "score_{}", "score at a rung, in [0, 1]: for those who read the storage with pandas",
    "study.study", "nobody",
)
RUNG = Key[dict[str, Any]](
    "rung_{}", "a RungScore", "study.study", "study.leases, results.loading"
)
PASSED = Key[int](
    "passed", "rungs at which it was judged and went on", "study.study", "results.loading"
)
STOPPED_AT = Key[int](
    "stopped_at", "the rung",
    "study.study", "nobody",
)
EXAMPLES_SAVED = Key[int](
    "saved", "training examples that stopping it saved", "study.study", "results.loading"
)

TRIAL_KEYS: tuple[Key[Any], ...] = (
    ARCHITECTURE, FINGERPRINT, PARAMS, MACS, BYTES, DEPTH, ACTIVATIONS, ZERO_COST, FORETOLD,
    TRIAL_STATE, REASON, TOKEN, LEASE, CLAIM, DEATHS, LATENCY, TRIAL_SECONDS, TRIAL_MICRO_BATCH,
    SCORE, RUNG, PASSED, STOPPED_AT, EXAMPLES_SAVED,
)
# fmt: on


def unlisted(names: Iterable[str], keys: Iterable[Key[Any]]) -> list[str]:
    """Those of some stored names that no key stands for."""
    known = list(keys)
    return [name for name in names if not any(key.among({name: None}) for key in known)]
