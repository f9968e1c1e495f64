"""Students that do not fit in memory: real refusals of the real allocator."""

from __future__ import annotations

import resource
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import write_blobs
from torch import nn

import nasdistill
from nasdistill.common.events import Event
from nasdistill.data import Batch, Dataset, load_data
from nasdistill.losses import Objective, Weighted
from nasdistill.losses.example_weights import ByExample
from nasdistill.losses.logits import DIST
from nasdistill.losses.schedules import constant
from nasdistill.models import Classifier
from nasdistill.models.hooks import Outputs
from nasdistill.recipe import load_recipe
from nasdistill.results import Candidate, StudyRecord, candidates_frame, load_study
from nasdistill.teachers.targets import TargetRequest, TeacherTargets
from nasdistill.training import (
    BatchStream,
    LRSchedule,
    OutOfMemory,
    Run,
    predict,
    seed_weights,
    train,
    with_micro_batches,
)
from nasdistill.training.memory import ran_out

CPU = torch.device("cpu")
PACE = LRSchedule(0.01, 100, None, 2000)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")
    return load_data(f"npz:{path}", device=CPU)


def plain(data: Dataset, *first: nn.Module, seed: int = 0) -> nn.Module:
    """A student without batch norm and dropout."""
    seed_weights(seed, "student")
    net = nn.Sequential(*first, nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3))
    return Classifier(net, data.mean, data.std)


class Live(TeacherTargets):
    """A teacher that is run live."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()

    def __call__(self, request: TargetRequest, teacher_copy: nn.Module | None) -> Outputs:
        with torch.no_grad():
            return Outputs(self.module(request.batch.images))


def make(data: Dataset, micro_batch: int | None, *first: nn.Module) -> Run:
    by_example = ByExample("confident", 0.5)
    objective = Objective.classic(constant(0.3), constant(4.0), by_example=by_example)
    return Run(
        [plain(data, *first)],
        BatchStream(data, 50, 2, 7),
        objective,
        horizon=2000,
        lr_schedule=PACE,
        seed=3,
        targets={"teacher": Live(plain(data, seed=1))},
        micro_batch=micro_batch,
    )


def gradients(run: Run) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of the first step."""
    [progress] = train(run, 50)
    return progress.loss, [p.grad for p in run.student.parameters() if p.grad is not None]


@pytest.mark.parametrize("micro_batch", [13, 1])
def test_micro_batches_give_the_gradient_of_the_whole_batch(
    data: Dataset, micro_batch: int
) -> None:
    loss, whole = gradients(make(data, None))
    same_loss, parts = gradients(make(data, micro_batch))
    assert same_loss == pytest.approx(loss, rel=1e-5)
    assert len(whole) == 4 and loss > 0.1 and all(g.abs().max() > 0 for g in whole)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_batch_falls_into_parts_of_nearly_equal_size() -> None:
    ids = torch.arange(13)
    images = torch.arange(13 * 4, dtype=torch.uint8).view(13, 1, 2, 2)
    batch = Batch(
        images, ids % 3, ids, ids, view=1, partners=ids % 2, share=ids / 13, at={(4, 4): images}
    )
    assert batch.parts(None) == batch.parts(13) == [batch]
    parts = batch.parts(4)
    assert [len(part.ids) for part in parts] == [4, 3, 3, 3]
    assert {part.view for part in parts} == {1}
    for name in ("images", "labels", "ids", "ids_host", "partners", "share"):
        whole = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(whole, getattr(batch, name)), name
    assert torch.equal(torch.cat([part.images_at((4, 4)) for part in parts]), images)


def test_a_coupled_objective_says_what_couples_it() -> None:
    assert Objective.labels().coupled == ()
    dist = Weighted(DIST(constant(1.0)), constant(1.0))
    assert Objective([dist, dist], balance="value").coupled == ("dist", "balance")


class Hungry(nn.Module):
    """Asks for 8 MB for each image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.empty(len(x), 80_000_000, dtype=torch.uint8)
        return x


@contextmanager
def no_more_than(megabytes: int) -> Iterator[None]:
    """Limits how much the address space of this process may grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 1_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def train_hungry(data: Dataset, megabytes: int, marked: list[int]) -> int:
    """Trains with a memory limit; gives the examples seen."""

    def attempt(micro_batch: int | None) -> int:
        run = make(data, micro_batch, Hungry())
        with no_more_than(megabytes):
            for _ in train(run, 100):
                pass
        return run.examples

    return with_micro_batches(attempt, batch=50, coupled=(), micro_batch=None, mark=marked.append)


def test_memory_that_really_runs_out_is_met_with_micro_batches(data: Dataset) -> None:
    marked: list[int] = []
    assert train_hungry(data, 2000, marked) == 100  # of 4 GB for a batch, 1 for a micro-batch
    assert marked == [13]


def test_memory_that_is_too_small_for_micro_batches_is_told_in_words(data: Dataset) -> None:
    with pytest.raises(
        OutOfMemory,
        match=r"out of memory with batches of 50, and again in micro-batches of 13 "
        r"\(.*can't allocate memory",
    ):
        train_hungry(data, 500, [])


def test_the_student_is_gone_before_the_second_try() -> None:
    students: list[weakref.ref[nn.Module]] = []
    alive: list[bool] = []

    def attempt(micro_batch: int | None) -> None:
        student = nn.Linear(2, 2)
        students.append(weakref.ref(student))
        if micro_batch is None:
            torch.empty(2**60, dtype=torch.uint8)

    with_micro_batches(
        attempt,
        batch=8,
        coupled=(),
        micro_batch=None,
        mark=lambda micro_batch: alive.append(students[0]() is not None),
    )
    assert alive == [False]


class Counted(nn.Module):
    """Asks for more than there is when shown more than 30 images."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.empty(max(0, len(x) - 30) * 2**50, dtype=torch.uint8)
        self.shown.append(len(x))
        return x


def test_evaluation_halves_a_batch_that_does_not_fit(data: Dataset) -> None:
    counted = Counted()
    logits, labels = predict(plain(data, counted), data.test, (16, 16))
    assert counted.shown == [25] * 8
    torch.testing.assert_close(logits, predict(plain(data), data.test, (16, 16))[0])
    assert len(labels) == 200


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_which_errors_are_of_memory(error: Exception, memory: bool) -> None:
    assert ran_out(error) == memory


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_refusal_is_known() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert ran_out(refused.value)


# -- whole searches ------------------------------------------------------------------------------

FAMILY = """

import torch.nn.functional as F

MOST = {"large": 13, "endless": 0}


class Greedy(nn.Module):
    def __init__(self, values, inside, classes):
        super().__init__()
        self.appetite, self.steps = values["appetite"], 0
        width = values["width"]
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inside, width), nn.ReLU(), nn.Linear(width, classes)
        )

    def forward(self, images):
        if self.training:
            self.steps += 1
            late = self.appetite == "late" and self.steps > 15
            most = 13 if late else MOST.get(self.appetite, 50)
            torch.empty(max(0, len(images) - most) * 2**50, dtype=torch.uint8)
        return self.layers(images)


def greedy(architecture, input, classes):
    inside = input.channels * input.height * input.width
    return Greedy(architecture.values, inside, classes)


FAMILIES = {"greedy": greedy}
"""

SPACE = """\
name: greedy
family: greedy
description: Students that want more memory than there is.
parameters:
  appetite: {choice: [APPETITES]}
  width: {choice: [16]}
"""


def search(appetites: str, on_event: Any = None, **options: Any) -> StudyRecord:
    """Searches among students of some appetites."""
    own = Path("own.py")
    if FAMILY not in own.read_text():
        own.write_text(own.read_text() + FAMILY)
    Path("greedy.yaml").write_text(SPACE.replace("APPETITES", appetites))
    quick = {
        "space": "greedy.yaml",
        "trials": 2,
        "top_k": 1,
        "min_accuracy": 0,
        "stopping": False,
        "rungs": {"first": "500 images", "eta": 2, "count": 2},
        "final_budget": "2 epochs",
    }
    nasdistill.search(load_recipe("recipe.yaml", {**quick, **options}), on_event=on_event)
    return load_study("small", Path("studies"))


def of(record: StudyRecord, appetite: str) -> Candidate:
    [candidate] = [c for c in record.candidates if c.parameters["appetite"] == appetite]
    return candidate


class Cut(Exception):  # noqa: N818
    """Ends a search where a kill would."""


class Listener:
    """Keeps what happens, and ends the search at an event of some words."""

    def __init__(self, cut: str | None = None) -> None:
        self.cut = cut
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.cut is not None and self.cut in event.text:
            raise Cut

    def says(self, text: str) -> int:
        return sum(text in event.text for event in self.events)


def test_a_student_that_does_not_fit_is_trained_in_micro_batches_or_fails(here: Path) -> None:
    begun, rest = Listener(cut="final 1, distilling: epoch 2"), Listener()
    with pytest.raises(Cut):
        search("large, endless", begun)
    record = search("large, endless", rest)
    assert begun.says("final 1, distilling: out of memory") == 1
    assert begun.says("distilling: epoch 1") == 1 and rest.says("distilling: epoch 1") == 0
    assert rest.says("distilling: epoch 2") == 1 and rest.says("out of memory") == 0
    large, endless = of(record, "large"), of(record, "endless")
    assert (large.state, large.micro_batch) == ("complete", 13)
    assert (endless.state, endless.micro_batch) == ("failed", 13)
    expected = "out of memory with batches of 50, and again in micro-batches of 13 ("
    assert (endless.reason or "").startswith(expected)
    assert "can't allocate memory" in (endless.reason or "")
    (final,) = record.finals
    assert final.metrics["micro_batch"] == 13 and final.metrics["test_accuracy"] > 0.5
    assert "in micro-batches of 13" in (final.folder / "README.md").read_text()
    page = Path("reports/small/index.html").read_text()
    assert page.count("in micro-batches of 13 for want of memory") == 2
    assert list(candidates_frame(record.candidates)["micro_batch"]) == [13, 13]


def test_what_couples_a_batch_is_not_divided(here: Path) -> None:
    dist = {"terms": [{"term": "labels"}, {"term": "dist"}]}
    (candidate,) = search("large", scoring=dist).candidates
    assert (candidate.state, candidate.micro_batch) == ("failed", None)
    expected = (
        "out of memory with batches of 50, which can't be divided: dist needs all of a batch ("
    )
    assert (candidate.reason or "").startswith(expected)


def test_the_rung_is_tried_again_and_the_mark_holds_after_an_interruption(here: Path) -> None:
    with pytest.raises(Cut):
        search("late", Listener(cut="trial 0: out of memory"))
    (begun,) = load_study("small", Path("studies")).candidates
    assert (begun.state, begun.micro_batch, len(begun.rungs)) == ("running", 13, 1)
    rest = Listener(cut="finals to distil")
    with pytest.raises(Cut):
        search("late", rest)
    (candidate,) = load_study("small", Path("studies")).candidates
    assert (candidate.state, candidate.micro_batch) == ("complete", 13)
    assert candidate.rungs[0] == begun.rungs[0]
    assert rest.says("out of memory") == rest.says("of rung 0") == 0
    assert rest.says("trunk of rung 1") > 0
