"""The forms of what a study stores: files are checked against them when they are read.

Only what something reads is named; what else a file holds is left alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]


class LatencyRow(BaseModel):
    """The latency of one model at one batch size."""

    model: str
    engine: str
    batch: int
    threads: int
    median_ms: Number
    q1_ms: Number
    q3_ms: Number


class CheckedLimit(BaseModel):
    """One limit of a study, and the value of a final."""

    limit: Number
    value: Number
    ok: bool


class Baseline(BaseModel):
    """The same architecture trained in another way: on labels alone, or from fresh weights."""

    test_accuracy: Share
    test_interval: Interval


class Step(BaseModel):
    """One full training on the way to a final."""

    taught_by: str
    params: int
    score_accuracy: Share
    audit_accuracy: Share
    assistant: int | None = None
    chosen: bool = False


class Majority(BaseModel):
    """The worth of an answer that is always the most frequent class."""

    class_: str = Field(alias="class")
    share: Share
    even: Share


class FileLatencyRow(BaseModel):
    """The latency of a file at one batch size, and that of fp32 beside it."""

    engine: str
    batch: int
    threads: int
    median_ms: Number
    q1_ms: Number
    q3_ms: Number
    fp32_ms: Number


class ProvenPreparation(BaseModel):
    """What a file that prepares pictures itself makes of them, beside Pillow."""

    pictures: int
    apart: int
    largest_difference: float
    pillow: str


class ShippedFile(BaseModel):
    """A file of a final in one format, or why there is none."""

    failed: str | None = None
    file: str = ""
    parts: list[str] = []
    engine: str = ""
    bytes: int = 0
    pictures: int = 0
    largest_difference: float | None = None
    mean_difference: float | None = None
    test_accuracy: Share | None = None
    test_interval: Interval | None = None
    test_balanced_accuracy: Share | None = None
    audit_score: Share | None = None
    loss_points: Number | None = None
    agreement: Share | None = None
    latency: list[FileLatencyRow] = []
    preparation: ProvenPreparation | None = None
    limits: dict[str, CheckedLimit] = {}
    problems: list[str] = []
    remarks: dict[str, Any] = {}


class FullRun(BaseModel):
    """The part of a final's metrics.json that tells of its full run."""

    trial: int
    score: Literal["accuracy", "balanced-accuracy"] = "accuracy"
    audit_accuracy: Share
    audit_balanced_accuracy: Share | None = None

    @model_validator(mode="after")
    def _scored(self) -> FullRun:
        if self.score == "balanced-accuracy" and self.audit_balanced_accuracy is None:
            raise ValueError("score is balanced-accuracy, audit_balanced_accuracy is missing")
        return self


class FinalMetrics(FullRun):
    """The content of a final's metrics.json."""

    test_accuracy: Share
    test_interval: Interval
    test_balanced_accuracy: Share | None = None
    test_balanced_interval: Interval | None = None
    teacher_test_accuracy: Share | None
    teacher_test_balanced_accuracy: Share | None = None
    majority: Majority | None = None
    untested_classes: list[str] = []
    retention: Number | None
    agreement: Share | None = None
    class_relation_preservation: float | None = None
    ece: float | None = None
    teacher_ece: float | None = None
    params: int
    macs: int
    bytes: int
    onnx_bytes: int | None = None
    teacher_params: int | None = None
    compression: Number | None
    speedup: Number | None
    latency: list[LatencyRow]
    limits: dict[str, CheckedLimit]
    seconds: dict[str, Number]
    baseline: Baseline | None = None
    fresh: Baseline | None = None
    begin: str = "fresh"
    begin_weights: str | None = None
    steps: list[Step] = []
    checkpoint: str = ""
    epochs: Number | None = None
    micro_batch: int | None = None
    processes: int = 1
    batch_norm_examples: int | None = None
    synthetic_images: int | None = None
    onnx_max_abs_difference: float | None = None
    files: dict[str, ShippedFile] = {}
    deploy: Literal["fp32", "int8"] = "fp32"


class Recommended(BaseModel):
    """The content of recommended.json."""

    rank: int


class StoredTeacher(BaseModel):
    """The card of a study's teacher."""

    name: str = ""
    params: int | None = None
    macs: int | None = None
    bytes: int | None = None
    validation_accuracy: Share | None = None
    validation_balanced_accuracy: Share | None = None
    ece: Number | None = None


class StoredStudy(BaseModel):
    """The attributes of a study that a record is made of; see `keys`."""

    stage: Literal["searching", "distilling", "complete"] = "searching"
    recipe: dict[str, Any] = {}
    command: str = ""
    teacher: StoredTeacher = StoredTeacher()
    data: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    limits: dict[str, Number] = {}
    rungs: list[int] = []


class StoredTrial(BaseModel):
    """The attributes of a trial that a candidate is made of; see `keys`."""

    state: Literal["running", "complete", "stopped", "rejected", "failed"]
    architecture: str
    fingerprint: str
    params: int | None = None
    macs: int | None = None
    bytes: int | None = None
    depth: int | None = None
    activations: int | None = None
    zero_cost: dict[str, Number] | None = None
    foretold: Number | None = None
    latency: Number | None = None
    reason: str | None = None
    saved: int | None = None
    micro_batch: int | None = None
    passed: int | None = None


class StoredArchitecture(BaseModel):
    """An architecture as it is stored."""

    family: str
    values: dict[str, Any]


class StoredScore(BaseModel):
    """A `RungScore` as it is stored."""

    rung: int
    budget: int
    accuracy: Share
    low: Number
    high: Number
    loss: float
    seconds: Number
    peers: list[Share] = []
    balanced: Share | None = None


METRICS = TypeAdapter(FinalMetrics)
RECOMMENDED = TypeAdapter(Recommended)
STUDY = TypeAdapter(StoredStudy)
TRIAL = TypeAdapter(StoredTrial)
ARCHITECTURE = TypeAdapter(StoredArchitecture)
SCORE = TypeAdapter(StoredScore)
SECONDS = TypeAdapter(dict[str, Number])
