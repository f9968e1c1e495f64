"""One study's whole configuration: YAML and flags in, a validated object out. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator, model_validator

from nasdistill.common.errors import UserError
from nasdistill.common.types import (
    MOST_NAME_BYTES,
    Begin,
    Closed,
    FormatName,
    Importance,
    Sampling,
    ScoreName,
    is_study_name,
    without_password,
)
from nasdistill.common.values import (
    Budget,
    BudgetText,
    ClassWeights,
    Costs,
    Count,
    FilesURL,
    Formats,
    Fraction,
    Milliseconds,
    Seconds,
    StorageURL,
)
from nasdistill.common.yaml import write_yaml
from nasdistill.recipe.objective import ObjectiveOptions
from nasdistill.recipe.teachers import IterateOptions, TeacherOptions, check_teachers

RAY_KEYS = ("ray_address", "gpu_share", "cpus_per_worker")
ENGINE_KEYS = ("workers", "engine", *RAY_KEYS, "final_gpus")
"""Keys that say how many work at a study, and where."""

FREE = ("trials", "time_limit", "top_k", *ENGINE_KEYS, "cache_size", "files", "formats", "max_loss")
"""Keys that may change when a study goes on."""

MOVABLE = ("space", "data", "data_root", "teacher", "weights", "teachers", "import")
"""Keys that name files, which may lie elsewhere when a study goes on."""

FIRST_RUNGS = 20
"""Budget of finals ÷ that of the first rung, where none is given."""
LEAST_FIRST = 2000
"""Images of such a rung at least, where a full run has twice as many: a dozen steps rank nobody."""

FORMER = {
    "race": "there is no race any more: finals were better with it in 30 % of replayed studies, "
    "and worse in 29 % (docs/decisions.md); leave the key out"
}
"""Keys of earlier releases, and why they went; stored recipes may have them."""

UNNAMED = (*FREE, "study", "storage")
"""Keys that a study's default name does not follow."""

LEARNING_RATES: dict[Begin, float] = {"fresh": 0.008, "teacher": 0.006, "pretrained": 0.001}
"""Peak learning rate of AdamW where none is given, by where students begin.

Those of fresh students and of parts of a teacher were measured (docs/scoring.md, docs/pruned.md).
What a whole pretrained net knows is lost at such rates before it is of use: an eighth, as is common
where networks are tuned.
"""

_BEGIN_OF_SHIPPED: dict[str, Begin] = {"pruned": "teacher", "pretrained": "pretrained"}
"""Where students of shipped spaces begin, other than `fresh`."""

NEW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names that a new study may be given."""


class Rungs(Closed):
    """The ladder: budgets `first`, `first · eta`, …; 1/eta of the trials goes on at each.

    By default every trial is scored at one rung, a twentieth of a full run. Replays say that in a
    study of some dozens of trials the time of further rungs is better spent on finals
    (docs/scoring.md).
    """

    first: BudgetText | None = None
    eta: int = Field(default=3, ge=2, le=10)
    count: int = Field(default=1, ge=1, le=8)


def _a_space(value: Any) -> str | dict[str, Any]:
    """A space's name or file, or the space itself; its content is checked where it is read."""
    if isinstance(value, str) or (isinstance(value, dict) and value):
        return value
    raise ValueError(
        "allowed: a shipped space, the path of a .yaml file, or a space's own keys, such as "
        "{family: pruned, keep: {width: 0.5}}"
    )


class Recipe(Closed):
    """Everything that makes a study. Nearly each key is a flag of `nasdistill search`, too."""

    space: Annotated[str | dict[str, Any], PlainValidator(_a_space)] = "mobile"
    data: str = "fashion-mnist-mini"
    data_root: str | None = None
    image_size: int | None = Field(default=None, ge=16, le=256)
    channels: Literal[1, 3] | None = None
    skip_unreadable: bool = False
    teacher: str = "auto"
    weights: str | None = None
    classes: str | None = Field(default=None, min_length=1)
    teachers: dict[str, TeacherOptions] = {}
    study: str | None = None
    trials: int = Field(default=24, ge=1)
    time_limit: Seconds | None = None
    top_k: int = Field(default=4, ge=1)
    minimize: Costs = Field(default=("latency", "params"), min_length=1)
    max_params: Count | None = None
    max_macs: Count | None = None
    max_bytes: Count | None = None
    max_latency: Milliseconds | None = None
    min_accuracy: Fraction | None = None
    latency_engine: str = Field(
        default="onnxruntime",
        pattern=r"^(onnxruntime|openvino|executorch|litert|torch|cuda|command:.+)$",
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["auto", "fp32", "bf16", "bf16-mixed"] = "auto"
    deterministic: bool = False
    workers: int | None = Field(default=None, ge=1, le=64)
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = Field(default=None, min_length=1)
    gpu_share: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    cpus_per_worker: int = Field(default=1, ge=1, le=256)
    final_gpus: int = Field(default=1, ge=1, le=64)
    seed: int = Field(default=0, ge=0, lt=2**32)
    storage: StorageURL | None = None
    files: FilesURL | None = None
    import_file: str | None = Field(default=None, alias="import")
    begin: Begin | None = None
    importance: Importance = "taylor"
    baseline: bool = False
    score: ScoreName = "accuracy"
    sampler: Literal["random", "tpe", "nsga2", "qmc"] = "tpe"
    experience: bool = True
    stopping: bool = True
    rungs: Rungs = Rungs()
    final_budget: BudgetText = Budget(epochs=8)
    batch_size: int = Field(default=64, ge=2)
    sampling: Sampling = "uniform"
    class_weights: ClassWeights | None = None
    views: int = Field(default=4, ge=1, le=1000)
    cache_size: Count = 4_000_000_000
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    scoring: ObjectiveOptions = ObjectiveOptions()
    final: ObjectiveOptions = ObjectiveOptions()
    iterate: IterateOptions | None = None
    deploy: Literal["fp32", "int8"] = "fp32"
    formats: Formats = ()
    max_loss: float = Field(default=0.5, ge=0, le=100, allow_inf_nan=False)

    @field_validator("study")
    @classmethod
    def _is_name(cls, name: str | None, info: ValidationInfo) -> str | None:
        """New names are strict; the folder of a study that is there may have been renamed."""
        new = bool(info.context and info.context.get("new"))
        if name is None or is_study_name(name) and (not new or NEW_NAME.fullmatch(name)):
            return name
        raise ValueError("no name of a study")

    @model_validator(mode="after")
    def _teachers_are_there(self) -> Recipe:
        check_teachers(self.teachers, {"scoring": self.scoring, "final": self.final})
        if self.iterate is not None and "teacher" not in self.final.teachers():
            raise ValueError(
                "iterate: each final takes the place of 'teacher', but no term of final asks it by "
                "that name (a mean keeps its own)"
            )
        return self

    @model_validator(mode="after")
    def _classes_count_once(self) -> Recipe:
        if self.class_weights is None:
            return self
        if self.sampling == self.class_weights == "balanced":
            raise ValueError(
                "class_weights: balanced beside sampling: balanced makes up for uneven classes "
                "twice; give one of them"
            )
        if not {"labels", "exits"} & {*self.scoring.names(), *self.final.names()}:
            raise ValueError(
                "class_weights: they weigh the loss on labels, but no term of scoring or final "
                "reads any; give sampling: balanced, or add labels"
            )
        return self

    @model_validator(mode="after")
    def _int8_is_measured_as_it_ships(self) -> Recipe:
        if self.deploy == "int8" and self.latency_engine != "onnxruntime":
            raise ValueError(
                f"deploy: int8 means files of ONNX Runtime, but latency_engine is "
                f"{self.latency_engine}; allowed beside it is onnxruntime"
            )
        return self

    @model_validator(mode="after")
    def _finals_can_be_divided(self) -> Recipe:
        count, coupled = self.final_gpus, self.final.coupled
        if count == 1:
            return self
        if self.engine == "ray":
            raise ValueError(
                f"final_gpus: {count} beside engine: ray, whose workers have one GPU each; give "
                "engine: local where the finals are made"
            )
        if ":" in self.device:
            raise ValueError(
                f"final_gpus: {count} beside device: {self.device}, which is one; give cuda, and "
                "choose the cards by CUDA_VISIBLE_DEVICES"
            )
        if coupled:
            raise ValueError(
                f"final_gpus: {count}, but under final {', '.join(coupled)} is of a whole batch, "
                "which several GPUs would each see a slice of; allowed beside it is 1"
            )
        if self.batch_size < count:
            raise ValueError(
                f"final_gpus: {count} for batches of {self.batch_size} examples; allowed are as "
                "many as a batch has examples"
            )
        return self

    @property
    def shipped_formats(self) -> tuple[FormatName, ...]:
        """The formats that files are made in with each final."""
        if self.deploy == "int8" and "onnx-int8" not in self.formats:
            return ("onnx-int8", *self.formats)
        return self.formats

    def first_rung(self, train_size: int) -> int:
        """Training examples of the first rung: as given, or a twentieth of a full run.

        Args:
            train_size: Number of examples in the training split.
        """
        if self.rungs.first is not None:
            return self.rungs.first.examples(train_size)
        full = self.final_budget.examples(train_size)
        return max(1, full // FIRST_RUNGS, min(LEAST_FIRST, full // 2))

    def resolved(self, family: str, begins: tuple[Begin, ...]) -> Recipe:
        """The recipe of a study on a space: with where its students begin, if it does not say.

        Args:
            family: The space's.
            begins: Where students of the space can begin, the default first.

        Raises:
            UserError: If students of that family cannot begin where the recipe says.
        """
        begin = self.begin or begins[0]
        if begin not in begins:
            reason = {
                "teacher": "are not cut from their teacher",
                "pretrained": "have no weights of their own",
                "fresh": "",
            }[begin]
            raise UserError(
                f"--begin {begin}: students of the space {self.space_name!r} (family {family}) "
                f"{reason}; allowed: {', '.join(begins)}"
            )
        return self.model_copy(update={"begin": begin})

    def rate(self, begin: Begin | None = None) -> float:
        """Peak learning rate of students: as given, else by where they begin.

        Args:
            begin: Where they do; by default where the study's students do.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATES[begin or self.begin or "fresh"]

    @property
    def space_name(self) -> str:
        """The space in messages: its name or file, or what it is named in the recipe."""
        if isinstance(self.space, str):
            return self.space
        return str(self.space.get("name") or self.space.get("family"))

    def study_name(self) -> str:
        """The study's name: as given, or made from what differs from the defaults."""
        if self.study is not None:
            return self.study
        base = Path(self.space_name).stem
        if self.data != Recipe().data:
            data = self.data.split(":")[-1].rstrip("/").rsplit("/", 1)[-1]
            base += "-" + (Path(data).stem or "data")
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.") or "study"
        base = base[: MOST_NAME_BYTES - 7]  # a hash may follow
        own = self.space if isinstance(self.space, str) else ""
        default, shipped = Recipe().stored(), re.fullmatch(r"[\w-]+", own) is not None
        if self.begin == _BEGIN_OF_SHIPPED.get(own, "fresh"):  # what `resolved` puts there
            default["begin"] = self.begin
        named = {k: v for k, v in self.stored().items() if k not in (*UNNAMED, "space")}
        differs = {k: v for k, v in named.items() if v != default[k]}
        if shipped and not differs:
            return base
        readable = "-".join(_readable(key, value) for key, value in differs.items())
        if shipped and len(readable) <= 48 and "?" not in readable:
            return f"{base}-{readable}"
        text = json.dumps([self.space, differs], sort_keys=True)
        return f"{base}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"

    def stored(self) -> dict[str, Any]:
        """Plain JSON values, by YAML key; the storage's password is left out."""
        values = self.model_dump(mode="json", by_alias=True)
        if self.storage is not None:
            values["storage"] = without_password(self.storage)
        return values

    def to_yaml(self) -> str:
        """The recipe as YAML that `load_recipe` reads."""
        return write_yaml({k: v for k, v in self.stored().items() if v is not None})


_NAMED = ("sampler", "precision", "device", "begin", "deploy")
"""Keys whose values are words."""


def _readable(key: str, value: Any) -> str:
    """`seed3`, `no-stopping`, `minimize-params.macs`; holds a `?` where it would not be exact."""
    key = key.replace("_", "-")
    if isinstance(value, bool):
        return key if value else f"no-{key}"
    if isinstance(value, (int, float)):
        text = repr(value).removesuffix(".0")
        return f"{key}{text}" if re.fullmatch(r"[\d.]+", text) else "?"
    if key == "minimize":
        return f"{key}-{'.'.join(value)}"
    return f"{key}-{value}" if key in _NAMED else "?"


def changed_keys(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys, with both values, that differ although they may not when a study goes on."""
    before, after = (
        # Students of earlier releases began fresh, and their recipes name the rate.
        {**recipe.stored(), "begin": recipe.begin or "fresh", "learning_rate": recipe.rate()}
        for recipe in (old, new)
    )
    keys = [k for k in before if k not in (*FREE, "study", "storage")]
    return [(k, before[k], after[k]) for k in keys if before[k] != after[k]]
