"""Captured steps. Without a CUDA device, what is replayed is the step itself, done once more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import conv, objective, run_of, teacher_of
from small_study import write_blobs
from torch import Tensor, nn

from nasdistill.data import Dataset, Mixing, load_data
from nasdistill.losses import Objective
from nasdistill.models import Classifier, build
from nasdistill.models.hooks import Outputs, summarise
from nasdistill.space import Architecture
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.targets import (
    CachedTargets,
    EMATargets,
    PeerTargets,
    TargetRequest,
    TeacherTargets,
)
from nasdistill.training import (
    GraphedSteps,
    LRSchedule,
    Run,
    capturable,
    cuda_graph,
    fastest_precision,
    graph_speedup,
    set_precision,
    timing,
    train,
)

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# On a card the last digit differs, and AdamW makes much of it where gradients are small.
CLOSE, WEIGHTS = (2e-2, 3e-2) if torch.cuda.is_available() else (1e-3, 1e-5)

LABELS = {"term": "labels", "weight": 1.0}
KL = {"term": "kl", "weight": {"linear": [0.2, 1.0]}, "temperature": {"cosine": [4.0, 1.0]}}
SEPARABLE = {"type": "separable", "kernel": 3, "squeeze_excite": True}
MOBILE = {
    "activation": "hardswish",
    "stem": 8,
    "head": 64,
    "stages": [{"width": 16, "depth": 1, "block": SEPARABLE}] * 2,
}


@pytest.fixture(autouse=True)
def _same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs between two sides is then the graph alone."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")
    return load_data(f"npz:{path}", device=HERE)


class Remembered(TeacherTargets):
    """Targets that depend on example and view alone, as those of a cache do."""

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        ids, view = request.batch.ids, request.batch.view or 0
        angle = ids[:, None] * torch.arange(1, 4, device=ids.device) + view
        return Outputs(2.0 * torch.sin(angle.float()), known=ids % 5 != 0)


def mobile(data: Dataset) -> Classifier:
    torch.manual_seed(0)
    net = build(Architecture("mobile", MOBILE), data.input, 3)
    return Classifier(net, data.mean, data.std)


def make(data: Dataset, *terms: Mapping[str, Any], dropout: float = 0.3, **more: Any) -> Run:
    described = objective(*(terms or (LABELS, KL)), **more)
    targets = {"teacher": Remembered()} if described.teachers else None
    return run_of(data, [conv(dropout=dropout).to(HERE)], described, targets, horizon=1500)


def captured(run: Run) -> Run:
    run.graphed = GraphedSteps()
    return run


def train_until(run: Run, until: int) -> list[float]:
    return [progress.loss for progress in train(run, until)]


def alike(a: Run, b: Run) -> None:
    left, right = a.students.state_dict(), b.students.state_dict()
    for key, value in left.items():
        assert torch.allclose(value.float(), right[key].float(), rtol=CLOSE, atol=WEIGHTS), key


@pytest.fixture
def without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is done again instead of being replayed; with a card, graphs are used."""

    def record(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
        for _ in range(cuda_graph.WARM_UP):
            step()
        return step

    if not torch.cuda.is_available():
        monkeypatch.setattr(cuda_graph, "record", record)


@pytest.mark.usefixtures("without_a_card")
@pytest.mark.parametrize(
    "terms",
    [
        (LABELS,),
        (LABELS, KL),
        (LABELS, {"term": "dkd", "weight": {"steps": {0.0: 1.0, 0.4: 0.0, 0.7: 1.0}}}),
        (LABELS, {"term": "exits", "weight": {"steps": {0.0: 0.0, 0.5: 1.0}}}),
        ({"term": "dist", "weight": {"linear": [0.0, 1.0]}}, LABELS),
    ],
    ids=["labels", "schedules", "on and off", "auxiliaries", "from zero"],
)
def test_replayed_steps_train_as_single_ones_do(data: Dataset, terms: Any) -> None:
    single, replayed = make(data, *terms), captured(make(data, *terms))
    assert train_until(single, 1500) == pytest.approx(train_until(replayed, 1500), rel=CLOSE)
    assert replayed.graphed is not None and replayed.graphed.failure is None
    assert replayed.step == single.step == 30
    alike(single, replayed)


@pytest.mark.usefixtures("without_a_card")
def test_a_trunk_and_its_branches_take_turns(data: Dataset) -> None:
    pairs = []
    for trunk in (make(data), captured(make(data))):
        train_until(trunk, 300)
        branch = trunk.branch(LRSchedule(0.01, 100, 300, 800))
        train_until(branch, 800)
        train_until(trunk, 1000)
        pairs.append((trunk, branch))
    (trunk, branch), (replayed, cooled) = pairs
    assert cooled.graphed is replayed.graphed is not None
    alike(trunk, replayed)
    alike(branch, cooled)


@pytest.mark.usefixtures("without_a_card")
def test_a_restored_run_goes_on_by_replays(data: Dataset, tmp_path: Path) -> None:
    whole, first, second = captured(make(data)), captured(make(data)), captured(make(data))
    train_until(whole, 1000)
    train_until(first, 500)
    first.save(tmp_path / "run.pt")
    second.restore(tmp_path / "run.pt")
    train_until(second, 1000)
    alike(whole, second)


@pytest.mark.usefixtures("without_a_card")
def test_mixed_pictures_are_replayed_with_their_partners(data: Dataset) -> None:
    views = replace(data.train._views, mixing=Mixing("mixup", 1.0))
    mixed = data.with_views(views)
    single, replayed = make(mixed), captured(make(mixed))
    assert train_until(single, 800) == pytest.approx(train_until(replayed, 800), rel=CLOSE)
    alike(single, replayed)


@pytest.mark.usefixtures("without_a_card")
def test_views_are_rendered_for_several_steps_at_once(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []
    whole = type(data.train).batches

    def batches(self: Any, plan: Any, *more: Any) -> Any:
        plan = list(plan)
        rendered.extend(len(ids) for ids, _ in plan)
        return whole(self, plan, *more)

    monkeypatch.setattr(type(data.train), "batches", batches)
    train_until(captured(make(data)), 600)
    assert rendered == [500, 100]  # an epoch is a view
    train_until(make(data), 600)
    assert rendered == [500, 100, *[50] * 12]


def test_where_capturing_fails_single_steps_take_over(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def record(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
        calls.append(1)
        if len(calls) == 2:
            step()
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return step

    monkeypatch.setattr(cuda_graph, "record", record)
    terms = (LABELS, {"term": "mse_logits", "weight": {"steps": {0.0: 1.0, 0.25: 0.0}}})
    single, replayed = make(data, *terms), captured(make(data, *terms))
    with pytest.warns(UserWarning, match="not permitted when stream is capturing"):
        losses = train_until(replayed, 1500)
    assert losses == pytest.approx(train_until(single, 1500), rel=CLOSE)
    assert len(calls) == 2 and replayed.graphed is not None and replayed.graphed.failure
    alike(single, replayed)


def test_the_reason_why_a_run_cannot_be_captured(data: Dataset) -> None:
    teacher = teacher_of(conv((4, 6, 8), seed=5).to(HERE))

    class Live(Remembered):
        def summary(self, student: Any) -> Any:
            return summarise(teacher.module, "teacher", data.input)

    def reason(
        *terms: Mapping[str, Any], students: int = 1, by: TeacherTargets, **more: Any
    ) -> str | None:
        described = objective(*terms, **more)
        models = [conv(seed=seed).to(HERE) for seed in range(students)]
        return capturable(run_of(data, models, described, {"teacher": by}))

    no_card = None if torch.cuda.is_available() else "it is not on a CUDA device"
    assert reason(LABELS, KL, by=Remembered()) == no_card
    assert reason(LABELS, {"term": "exits"}, by=Remembered()) == no_card
    assert "reads layers" in str(reason(LABELS, {"term": "features"}, by=Live()))
    assert "reads layers" in str(reason(LABELS, {"term": "crd"}, by=Live()))
    assert "on the host" in str(reason(LABELS, {"term": "adversarial"}, by=Live()))
    assert "balanced" in str(reason(LABELS, KL, by=Remembered(), balance="value"))
    assert "follows it" in str(reason(LABELS, KL, by=EMATargets(0.9)))
    assert "each other" in str(reason(LABELS, KL, by=PeerTargets(2), students=2))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_learning_rate_in_a_tensor_gives_the_same_weights(shape: tuple[int, ...]) -> None:
    weights = []
    for rate in (0.01, torch.full(shape, 0.01, device=HERE)):
        torch.manual_seed(0)
        layer = nn.Linear(5, 3, device=HERE)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5, fused=True)
        optimizer.param_groups[0]["lr"] = rate
        for _ in range(5):
            optimizer.zero_grad()
            layer(torch.ones(2, 5, device=HERE)).square().sum().backward()
            optimizer.step()
        weights.append(layer.weight.detach())
    assert torch.allclose(weights[0], weights[1], rtol=1e-6, atol=1e-7)


def test_schedules_can_be_listed_and_changed() -> None:
    made = objective(LABELS, KL)
    assert [schedule(0.0) for schedule in made.schedules] == [1.0, 4.0, 0.2]
    doubled = made.with_schedules(lambda inner: lambda progress: 2.0 * inner(progress))
    assert [schedule(0.0) for schedule in doubled.schedules] == [2.0, 8.0, 0.4]
    assert made.active(0.0) == (0, 1)
    assert Objective.classic(lambda p: p, lambda p: 4.0).active(0.0) == (1,)


@pytest.mark.usefixtures("without_a_card")
@pytest.mark.parametrize(("kind", "precisions"), [("dense", 2), ("depthwise", 3)])
def test_precisions_are_timed_with_replays_where_steps_can_be_captured(
    data: Dataset, kind: str, precisions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = []

    def counting(step: Callable[[], None], device: torch.device) -> Callable[[], object]:
        recorded.append(device)
        return record(step, device)

    def slower_than(fastest: str) -> Callable[[Run, int, int], float]:
        def timed(run: Run, warm_up: int, steps: int) -> float:
            measure(run, warm_up, steps)
            return 1.0 if run.precision == fastest else 2.0

        return timed

    record, measure = cuda_graph.record, timing._seconds
    monkeypatch.setattr(cuda_graph, "record", counting)
    monkeypatch.setattr(timing, "emulates_bf16", lambda *_, **__: False)
    monkeypatch.setattr(timing, "_seconds", slower_than("bf16"))
    student = conv(dropout=0.3) if kind == "dense" else mobile(data)
    run = run_of(data, [student.to(HERE)], objective(LABELS, KL), {"teacher": Remembered()})
    assert fastest_precision(run) == "bf16"
    assert len(recorded) == (precisions if torch.cuda.is_available() else 0)
    monkeypatch.setattr(timing, "capturable", lambda run: None)
    recorded.clear()
    last = "bf16-mixed" if kind == "depthwise" else "fp32"
    monkeypatch.setattr(timing, "_seconds", slower_than(last))
    assert fastest_precision(run) == last
    assert len(recorded) == precisions
    assert run.step == 0 and run.graphed is None


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["dense", "depthwise"])
def test_a_graph_gives_the_losses_of_single_steps(
    data: Dataset, kind: str, precision: Any, tmp_path: Path
) -> None:
    losses = {}
    for replays in (False, True):
        student = conv(dropout=0.3) if kind == "dense" else mobile(data)
        cache = LogitCache(teacher_of(conv(seed=5).to(HERE)), data, tmp_path)
        targets = CachedTargets(cache._teacher, cache)
        run = run_of(data, [student], objective(LABELS, KL), {"teacher": targets}, horizon=1000)
        run.precision = precision
        set_precision(run.students, precision)
        targets.prepare(run.stream.plan(0, 20))
        if replays:
            captured(run)
        losses[replays] = [p.loss for p in train(run, 1000, every=1)]
        assert not replays or (run.graphed is not None and run.graphed.failure is None)
    tolerance = 1e-2 if precision == "fp32" else 5e-2
    assert len(losses[True]) == 20
    assert losses[True] == pytest.approx(losses[False], rel=tolerance, abs=tolerance)


@needs_cuda
def test_replays_draw_dropout_from_the_seed_of_the_step(data: Dataset) -> None:
    first, second, other = (captured(make(data, LABELS, dropout=0.5)) for _ in range(3))
    other.seed += 1
    a, b, c = (train_until(run, 500) for run in (first, second, other))
    assert a == pytest.approx(b, rel=1e-4)
    assert a != pytest.approx(c, rel=1e-4)


@needs_cuda
def test_a_step_that_waits_for_the_device_is_done_singly(data: Dataset) -> None:
    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.mean() > -1e9)

    def student() -> Classifier:
        made = conv(dropout=0.3)
        made.net = nn.Sequential(made.net, Waits())
        return made

    single, replayed = (run_of(data, [student()], objective(LABELS)) for _ in range(2))
    captured(replayed)
    with pytest.warns(UserWarning, match="could not be captured"):
        losses = train_until(replayed, 500)
    assert losses == pytest.approx(train_until(single, 500), rel=CLOSE)
    again = captured(make(data))  # the device and its streams are as they were
    train_until(again, 500)
    assert again.graphed is not None and again.graphed.failure is None


@needs_cuda
def test_memory_does_not_grow_from_graph_to_graph(data: Dataset) -> None:
    reserved = []
    for _ in range(6):
        train_until(captured(make(data)), 500)
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] <= reserved[1]


@needs_cuda
def test_timing_replays_leaves_the_run_alone(data: Dataset) -> None:
    run = make(data)
    before = {key: value.clone() for key, value in run.students.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graph_speedup(run) > 0.0
    assert run.step == 0 and run.graphed is None
    assert all(torch.equal(value, before[key]) for key, value in run.students.state_dict().items())
