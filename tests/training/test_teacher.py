"""Teachers: given a new head, evaluated, and run at the faster precision."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_helpers import conv
from small_study import write_blobs
from torch import nn

from nasdistill.common import events
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.common.types import Input
from nasdistill.data import Dataset, Split, load_data
from nasdistill.models import Classifier, build
from nasdistill.models.inference import WHOLE, Inference
from nasdistill.space import Architecture
from nasdistill.teachers import Teacher, load_teacher, weights_hash
from nasdistill.training import predict
from nasdistill.training import teacher as teaching

MLP = Architecture(
    "mlp", {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [32]}}
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("blobs") / "blobs.npz")
    return load_data(f"npz:{path}", device=torch.device("cpu"))


def teacher_of(module: nn.Module, classes: int) -> Teacher:
    return Teacher("it", module.eval(), Input(1, 16, 16), classes, weights_hash(module), {})


def untrained(classes: int) -> Teacher:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 24), nn.ReLU(), nn.Linear(24, classes))
    return teacher_of(Classifier(net, (0.4,), (0.25,)), classes)


def test_one_that_guesses_is_refused(data: Dataset) -> None:
    blind = build(MLP, Input(1, 16, 16), 3)
    for parameter in blind.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(UserError, match="barely better than chance .*nasdistill teacher train"):
        teaching.evaluate_teacher(teacher_of(Classifier(blind, (0.4,), (0.25,)), 3), data)


@pytest.mark.parametrize(
    ("accuracy", "examples", "classes", "refused"),
    [
        (1.0, 2, 2, False),  # right on all of two pictures
        (0.0, 2, 2, False),  # two say nothing yet: the bound is 0.575, of use is 0.55
        (0.0, 4, 2, True),  # at most 0.404
        (0.5, 100, 2, False),  # at most 0.581
        (0.5, 400, 2, True),  # at most 0.541
        (0.1, 1000, 10, True),
        (0.5, 1000, 10, False),
    ],
)
def test_only_what_rules_out_a_use_is_refused(
    accuracy: float, examples: int, classes: int, refused: bool
) -> None:
    assert (teaching.useless(accuracy, examples, classes) is not None) == refused


def test_too_few_examples_and_a_constant_answer_are_warned_about() -> None:
    card = {"train_accuracy": 1.0, "validation_accuracy": 1.0, "gap": 0.0, "classes": 2}
    few = {"validation_examples": 2, "validation_interval": [0.342, 1.0]}
    (text,) = teaching.warnings_of({**card, **few, "validation_balanced_accuracy": 1.0})
    assert "can hardly be told: accuracy 1.000 on 2 validation examples" in text
    many = {"validation_examples": 1000, "validation_interval": [0.96, 0.98]}
    (text,) = teaching.warnings_of({**card, **many, "validation_balanced_accuracy": 0.5})
    assert "balanced accuracy 0.500 where always answering the same class has 0.500" in text
    assert teaching.warnings_of({**card, **many, "validation_balanced_accuracy": 0.9}) == []


def test_other_classes_are_refused(data: Dataset) -> None:
    with pytest.raises(UserError, match="tells 5 classes apart, the data .* has 3"):
        teaching.evaluate_teacher(untrained(5), data)


def test_what_is_stored_of_the_shipped_teacher_is_what_evaluating_it_gives() -> None:
    cpu = torch.device("cpu")
    shipped = load_data("fashion-mnist-mini", device=cpu)
    teacher = load_teacher("shipped", shipped, device=cpu)
    stored = teaching.stored_evaluation(teacher, shipped)
    assert stored is not None
    measured = teaching.evaluate_teacher(teacher, shipped)
    assert stored.pop("ece") == pytest.approx(measured.pop("ece"), abs=1e-6)
    assert stored == measured
    other_split = load_data("fashion-mnist-mini", device=cpu, seed=1)
    assert teaching.stored_evaluation(teacher, other_split) is None
    assert teaching.stored_evaluation(replace(teacher, weights_hash="0"), shipped) is None


def test_overfitting_is_warned_about() -> None:
    card = {"train_accuracy": 0.99, "validation_accuracy": 0.8, "gap": 0.19}
    assert "overfitted: accuracy 0.990 on training, 0.800" in teaching.warnings_of(card)[0]
    assert teaching.warnings_of({**card, "gap": 0.05}) == []
    assert teaching.warnings_of({**card, "train_accuracy": None, "gap": None}) == []


def test_a_tuned_head_is_kept_and_the_body_left_alone(data: Dataset, tmp_path: Path) -> None:
    events: list[Event] = []

    def tune(teacher: Teacher) -> Teacher:
        return teaching.tune_head(
            teacher, data, epochs=30, seed=0, emit=events.append, keep=tmp_path / "kept"
        )

    before = untrained(7)
    body = before.module.net[1].weight.clone()  # type: ignore[index, union-attr]
    first = tune(before)
    assert "its head is replaced and tuned, 30 x 501 forward passes" in events[0].text
    assert torch.equal(first.module.net[1].weight, body)  # type: ignore[index, union-attr]
    assert first.classes == 3 and first.card["head_tuned"] == 30
    assert teaching.evaluate_teacher(first, data)["validation_accuracy"] > 0.5
    count = len(events)
    again = tune(untrained(7))
    assert len(events) == count, "it was tuned twice"
    assert again.weights_hash == first.weights_hash


def test_logits_are_computed_in_bf16_only_where_that_is_faster_and_agrees(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = untrained(3)
    monkeypatch.setattr(teaching, "emulates_bf16", lambda module: False)
    monkeypatch.setattr(teaching, "BF16_WORTH", float("inf"))
    monkeypatch.setattr(teaching, "SAME_CLASS", 0.5)
    assert teaching.fastest_logit_precision(teacher, data) == "bf16"
    monkeypatch.setattr(teaching, "SAME_CLASS", 1.01)
    assert teaching.fastest_logit_precision(teacher, data) == "fp32"
    monkeypatch.setattr(teaching, "SAME_CLASS", 0.5)
    monkeypatch.setattr(teaching, "emulates_bf16", lambda module: True)
    assert teaching.fastest_logit_precision(teacher, data) == "fp32"
    monkeypatch.setattr(teaching, "emulates_bf16", lambda module: False)
    monkeypatch.setattr(teaching, "BF16_WORTH", 0.0)
    assert teaching.fastest_logit_precision(teacher, data) == "fp32"
    assert (
        replace(teacher, precision="bf16").logits(torch.zeros(2, 1, 16, 16)).dtype == torch.float32
    )


@pytest.mark.parametrize(
    ("accuracy", "examples"),
    [(0.9, 865), (0.5, 2000), (0.2, 2000), (0.99, 500)],  # 1.96² p (1 - p) / 0.02², 500 to 2,000
)
def test_the_sample_of_large_training_pictures_is_as_large_as_two_points_take(
    data: Dataset, accuracy: float, examples: int
) -> None:
    large = replace(untrained(3), input=Input(1, 96, 96))
    many = replace(data, train=Many(data.train))
    assert teaching.sample_size(large, many, accuracy) == examples
    assert teaching.sample_size(large, data, accuracy) == min(examples, len(data.train))
    assert teaching.sample_size(untrained(3), many, accuracy) == 2000  # small ones, as ever


class Many:
    """A split of which only the length counts."""

    def __init__(self, split: Split) -> None:
        self.labels = split.labels

    def __len__(self) -> int:
        return 100_000


def test_a_slow_evaluation_tells_how_far_it_is(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENT_SECONDS", 0.01)
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.0)
    torch.manual_seed(0)
    learned = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    teacher = teacher_of(Classifier(learned, (0.4,), (0.25,)), 3)
    monkeypatch.setattr(teaching, "useless", lambda *_: None)
    teacher.use(Inference(20, False))
    teacher.module.register_forward_hook(lambda *_: time.sleep(0.005))
    event_list: list[Event] = []
    card = teaching.evaluate_teacher(teacher, data, test=True, emit=event_list.append)
    texts = {each.text for each in event_list}
    for part in ("validation images", "a sample of", "test images"):
        assert any(part in text for text in texts), (part, texts)
    assert all(each.eta_seconds is not None and each.total for each in event_list)
    assert card["train_examples"] == len(data.train)


def test_an_evaluation_is_the_same_in_any_batch_and_layout(data: Dataset) -> None:
    images, size = data.score, (16, 16)
    logits = []
    for inference in (WHOLE, Inference(16, False), Inference(32, True)):
        teacher = teacher_of(conv(), 3)
        teacher.use(inference)
        logits.append(predict(teacher.module, images, size, None, inference).logits)
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    assert torch.allclose(logits[0], logits[2], atol=1e-5)
