"""The shipped checks: every term, teacher, weight and schedule passes; what is wrong is caught."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from model_helpers import GREY, conv, former, objective, run_of, teacher_of, term
from small_study import write_blobs
from torch import Tensor, nn

from nasdistill.data import Batch, Dataset, load_data
from nasdistill.losses import TERMS, Term
from nasdistill.losses.example_weights import FOLLOWS
from nasdistill.losses.schedules import SCHEDULES, schedule
from nasdistill.models.hooks import Outputs
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.table import read_table
from nasdistill.teachers.targets import (
    BY,
    CachedTargets,
    EMATargets,
    EnsembleTargets,
    PeerTargets,
    SnapshotTargets,
    TableTargets,
    TargetRequest,
    TeacherTargets,
)
from nasdistill.testing import check_answers, check_follow, check_schedule, check_term
from nasdistill.training import Run

# How a term is asked for, with what models, and whether it vanishes where student is teacher.
Models = Callable[[], tuple[nn.Module, nn.Module]]


def convs() -> tuple[nn.Module, nn.Module]:
    return conv(), conv((6, 10, 12), seed=1)


def formers() -> tuple[nn.Module, nn.Module]:
    return former(2, 8, 3), former(4, 6, 5, seed=1)


def alike() -> tuple[nn.Module, nn.Module]:
    return former(2, 8, 3), former(2, 12, 4, seed=1)


NEVER_ZERO = ("labels", "soft_ce", "crd", "adversarial", "exits")
VARIANTS: dict[str, tuple[str, dict[str, Any], Models]] = {
    **{name: (name, {}, convs) for name in TERMS},
    "labels, smoothed": ("labels", {"smoothing": 0.1}, convs),
    **{
        f"{name}, standardised": (name, {"standardise": True}, convs)
        for name in ("kl", "reverse_kl", "js", "soft_ce", "mse_logits", "dkd", "dist")
    },
    "features, bilinear": ("features", {"resize": "bilinear", "layers": {0: 1, 1: 0}}, convs),
    "features, mean": ("features", {"layers": {"stages.1": ["stages.1.0", "stages.1.1"]}}, convs),
    "features, concat": ("features", {"layers": {1: [0, 2]}, "combine": "concat"}, convs),
    "features of transformers": ("features", {}, formers),
    "features, unlike": ("features", {}, lambda: (conv(), former())),
    "gram, concat": ("gram", {"layers": {1: [0, 2]}, "combine": "concat"}, convs),
    "adversarial on features": ("adversarial", {"on": "features"}, convs),
    "exits, named": ("exits", {"layers": [0, "stages.1"]}, convs),
    "exits of a transformer": ("exits", {}, formers),
    **{
        f"attention {of}, {loss}, {kind}": ("attention", {"of": of, "loss": loss}, models)
        for of in ("maps", "matrices", "values")
        for loss in ("mse", "kl", "cosine")
        for kind, models in (("alike", alike), ("unlike", formers))
    },
    **{
        f"{name} of transformers": (name, {}, formers)
        for name in ("gram", "similarity", "rkd", "nst", "crd")
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_term_keeps_the_contract(variant: str) -> None:
    name, options, models = VARIANTS[variant]
    student, teacher = models()
    check_term(
        lambda: term(name, **options),
        student,
        teacher,
        GREY,
        zero_at_teacher=name not in NEVER_ZERO and not {"layers", "combine"} & set(options),
    )


@pytest.mark.parametrize("name", FOLLOWS)
def test_every_weight_by_example_keeps_the_contract(name: str) -> None:
    check_follow(name)


SCHEDULE_VALUES: dict[str, tuple[Any, float, float]] = {
    "linear": ([2.0, 0.5], 0.5, 2.0),
    "cosine": ([4.0, 1.0], 1.0, 4.0),
    "warm_up": ([3.0, 0.2], 0.0, 3.0),
    "steps": ({0.0: 8.0, 0.3: 5.0, 0.7: 2.0}, 2.0, 8.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_keeps_the_contract(name: str) -> None:
    value, lowest, highest = SCHEDULE_VALUES[name]
    check_schedule(schedule({name: value}), lowest, highest)
    check_schedule(schedule(0.5), 0.5, 0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")
    return load_data(f"npz:{path}", device=torch.device("cpu"))


def recorded(data: Dataset, folder: Path, known: int) -> TableTargets:
    rng = np.random.default_rng(0)
    path = folder / "answers.npz"
    np.savez(path, ids=np.array(data.names[:known]), logits=rng.normal(size=(known, 3)))
    return TableTargets(read_table(path, data.names, data.classes, "skip"), torch.device("cpu"))


def teachers(data: Dataset, folder: Path) -> tuple[dict[str, TeacherTargets], list[nn.Module]]:
    """One of each kind, and the modules behind them."""
    modules = [conv((6, 8), seed=5), conv((4, 4), seed=6)]
    one, other = (
        CachedTargets(teacher, LogitCache(teacher, data, folder / "cache"))
        for teacher in map(teacher_of, modules)
    )
    table = recorded(data, folder, len(data.names) - 50)
    made: dict[str, TeacherTargets] = {
        "frozen": one,
        **{
            f"mean by {by}": EnsembleTargets([one, other], [0.7, 0.3], by) for by in ("shares", *BY)
        },  # type: ignore[arg-type]
        "mean with a table": EnsembleTargets([one, table], [0.5, 0.5], "correct"),
        "average": EMATargets(0.9),
        "earlier": SnapshotTargets(2),
        "peers": PeerTargets(2),
        "three peers": PeerTargets(3),
        "table": recorded(data, folder, len(data.names)),
        "table with holes": table,
    }
    return made, list(modules)


KINDS = (
    "frozen",
    "mean by shares",
    "mean by certainty",
    "mean by correct",
    "mean with a table",
    "average",
    "earlier",
    "peers",
    "three peers",
    "table",
    "table with holes",
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_teacher_keeps_the_contract(kind: str, data: Dataset, tmp_path: Path) -> None:
    targets, modules = teachers(data, tmp_path)
    assert set(targets) == set(KINDS)

    def make() -> Run:
        students = [conv((4, 6), seed=i, dropout=0.2) for i in range(targets[kind].students)]
        run_objective = objective(
            {"term": "labels", "weight": 0.3}, {"term": "kl", "teacher": kind}
        )
        return run_of(data, students, run_objective, teachers(data, tmp_path)[0])

    check_answers(make, kind, tmp_path)


@pytest.mark.parametrize("kind", ["frozen", "average", "earlier"])
def test_teachers_with_layers_keep_the_contract_live(
    kind: str, data: Dataset, tmp_path: Path
) -> None:
    targets, modules = teachers(data, tmp_path)

    def make() -> Run:
        run_objective = objective(
            {"term": "labels"}, {"term": "features", "teacher": kind, "layers": {0: 0}}
        )
        return run_of(data, [conv((4, 6), dropout=0.2)], run_objective, targets)

    check_answers(make, kind, tmp_path, frozen=modules, steps=4)


@dataclass(frozen=True)
class Plain(Term):
    """A right term, to be made wrong."""

    asks_teacher: ClassVar[bool] = True

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs | None,
        batch: Batch,
        progress: float,
        auxiliary: nn.Module | None = None,
    ) -> Tensor:
        assert teacher is not None
        return (student.logits.float() - teacher.logits.float()).square().sum(dim=1)


class IntoTheTeacher(Plain):
    def __call__(self, student: Outputs, teacher: Outputs | None, *rest: Any) -> Tensor:
        assert teacher is not None and teacher.module is not None
        batch: Batch = rest[0]
        with torch.enable_grad():
            again = teacher.module(batch.images)
        return (student.logits.float() - again.float()).square().sum(dim=1)


class WrongShape(Plain):
    def __call__(self, *given: Any) -> Tensor:
        return super().__call__(*given).mean()


class Coupling(Plain):
    def __call__(self, *given: Any) -> Tensor:
        losses = super().__call__(*given)
        return losses / losses.detach().mean()


class Negative(Plain):
    def __call__(self, *given: Any) -> Tensor:
        return -super().__call__(*given)


class NotFinite(Plain):
    def __call__(self, *given: Any) -> Tensor:
        return super().__call__(*given) / 0.0


class Halved(Plain):
    def __call__(self, *given: Any) -> Tensor:
        return super().__call__(*given).bfloat16()


class Constant(Plain):
    def __call__(self, student: Outputs, *rest: Any) -> Tensor:
        return student.logits.float().sum(dim=1) * 0.0 + 1.0


class Hooking(Plain):
    def __call__(self, student: Outputs, *rest: Any) -> Tensor:
        assert student.module is not None
        student.module.register_forward_hook(lambda *_: None)
        return super().__call__(student, *rest)


class Training(Plain):
    def __call__(self, student: Outputs, teacher: Outputs | None, *rest: Any) -> Tensor:
        assert teacher is not None and teacher.module is not None
        teacher.module.train()
        return super().__call__(student, teacher, *rest)


class Moving(Plain):
    def __call__(self, student: Outputs, teacher: Outputs | None, *rest: Any) -> Tensor:
        assert teacher is not None and teacher.module is not None
        with torch.no_grad():
            next(teacher.module.parameters()).add_(1e-6)
        return super().__call__(student, teacher, *rest)


class Random(Plain):
    def __call__(self, *given: Any) -> Tensor:
        return super().__call__(*given) + torch.rand(())


class Idle(Plain):
    """Has something that learns, which nothing uses."""

    def auxiliary(self) -> nn.Module:
        return nn.Linear(2, 2)


@dataclass(frozen=True)
class Apart(Plain):
    """Is not 0 where student and teacher agree."""

    by: float = 1.0

    def __call__(self, *given: Any) -> Tensor:
        return super().__call__(*given) + self.by


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (IntoTheTeacher, "gradient reaches the teacher"),
        (WrongShape, r"shape \(\) instead of \(6,\)"),
        (Coupling, "must say `coupled`"),
        (Negative, "a negative loss"),
        (NotFinite, "a loss of .*inf"),
        (Halved, "a loss in torch.bfloat16"),
        (Constant, "no gradient reaches the student"),
        (Hooking, "a hook was left behind"),
        (Training, "left eval mode|weights or buffers"),
        (Moving, "weights or buffers changed"),
        (Random, "another value"),
        (Idle, "no gradient reaches the auxiliary"),
        (Apart, "where student is teacher"),
    ],
)
def test_wrong_terms_fail(wrong: type[Term], why: str) -> None:
    student, teacher = convs()
    with pytest.raises(AssertionError, match=why):
        check_term(wrong, student, teacher, GREY, zero_at_teacher=True)


def test_the_right_one_passes_and_models_are_left_alone() -> None:
    student, teacher = convs()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    check_term(Plain, student, teacher, GREY, zero_at_teacher=True)
    assert student.training and all(p.grad is None for p in student.parameters())
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


@dataclass
class Live(TeacherTargets):
    """A right teacher, to be made wrong."""

    module: nn.Module
    seen: list[int] = field(default_factory=list)

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        with torch.no_grad():
            return Outputs(self.module(request.batch.images))


class WithGradients(Live):
    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        return Outputs(self.module.requires_grad_()(request.batch.images))


class InTraining(Live):
    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        self.module.train()
        return super().__call__(request, teacher_copy)


class OtherClasses(Live):
    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        return Outputs(super().__call__(request, teacher_copy).logits[:, :2])


class Forgetful(Live):
    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        self.seen.append(len(self.seen))
        return Outputs(super().__call__(request, teacher_copy).logits + float(len(self.seen)))


class Meddling(Live):
    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        module = request.student_outputs[request.student].module
        assert module is not None
        module(request.batch.images)  # moves the student's running means
        return super().__call__(request, teacher_copy)


class Unsaved(Live):
    """Depends on all former requests, which no run saves."""

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        first = int(request.batch.ids_host[0])
        self.seen += [first] if first not in self.seen else []
        return Outputs(super().__call__(request, teacher_copy).logits * len(self.seen))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (WithGradients, "with gradients"),
        (InTraining, "another answer|changed the teacher|eval mode"),
        (OtherClasses, r"shape \(50, 2\), not \(50, 3\)"),
        (Forgetful, "another answer"),
        (Meddling, "asking changed the run"),
        (Unsaved, "a restored run went on differently"),
    ],
)
def test_wrong_teachers_fail(
    wrong: Callable[[nn.Module], TeacherTargets], why: str, data: Dataset, tmp_path: Path
) -> None:
    module = conv((4, 4), seed=6, dropout=0.3).eval()

    def make() -> Run:
        targets: Mapping[str, TeacherTargets] = {"it": wrong(module)}
        return run_of(data, [conv((4, 6))], objective({"term": "kl", "teacher": "it"}), targets)

    with pytest.raises(AssertionError, match=why):
        check_answers(make, "it", tmp_path, frozen=[module])


def test_wrong_schedules_fail() -> None:
    for wrong in (lambda p: 1.0 / (1.0001 - p), lambda p: float("nan"), lambda p: -p):
        with pytest.raises(AssertionError):
            check_schedule(wrong, 0.0, 10.0)


def test_wrong_weights_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, why in (
        (lambda logits, labels, least: logits.amax(dim=1), r"outside \[0, 1\]"),
        (lambda logits, labels, least: logits.softmax(1), "shape"),
        (lambda logits, labels, least: logits.argmax(1), "int64"),
        (lambda logits, labels, least: torch.ones(len(logits)) / len(logits), "other examples"),
    ):
        monkeypatch.setitem(FOLLOWS, "entropy", wrong)
        with pytest.raises(AssertionError, match=why):
            check_follow("entropy")
