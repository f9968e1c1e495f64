"""Teachers trained on labels alone: for some epochs, or until validation stops improving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from model_helpers import same
from small_study import write_blobs

from nasdistill.common.events import Event
from nasdistill.common.types import Input
from nasdistill.data import Dataset, load_data
from nasdistill.space import Architecture
from nasdistill.teachers import Teacher, weights_hash
from nasdistill.training import from_scratch
from nasdistill.training.from_scratch import (
    Hyperparameters,
    TrainedTeacher,
    budgets_in_epochs,
    cost_in_epochs,
    remove_checkpoints,
    train_teacher,
)
from nasdistill.training.teacher import evaluate_teacher

MLP = Architecture(
    "mlp", {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [32]}}
)
Train = Callable[..., TrainedTeacher]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("blobs") / "blobs.npz")
    return load_data(f"npz:{path}", device=torch.device("cpu"))


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def train(data: Dataset, told: list[Event], monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains a small teacher; the first budget of a plateau is six epochs of three steps."""
    monkeypatch.setattr(from_scratch, "LEAST_STEPS", 1)

    def train(epochs: int | None = None, *, rate: float = 0.01, **more: object) -> TrainedTeacher:
        arguments: dict[str, object] = {"seed": 0, "emit": told.append, **more}
        settings = Hyperparameters(learning_rate=rate)
        on = arguments.pop("on", data)
        return train_teacher(on, MLP, epochs=epochs, hyperparameters=settings, **arguments)  # type: ignore[arg-type]

    return train


def notes(events: list[Event]) -> list[str]:
    return [event.text for event in events if event.kind == "note"]


def test_a_trained_teacher_is_better_than_an_untrained_one(
    data: Dataset, train: Train, told: list[Event]
) -> None:
    trained = train(6)
    assert trained.epochs == 6 and trained.scores == () and trained.precision == "fp32"
    module = trained.module
    teacher = Teacher("it", module, Input(1, 16, 16), 3, weights_hash(module), {})
    card = evaluate_teacher(teacher, data, test=True)
    assert card["validation_accuracy"] > 0.8 and card["test_accuracy"] > 0.8
    assert card["gap"] == pytest.approx(card["train_accuracy"] - card["validation_accuracy"])
    assert card["params"] == sum(p.numel() for p in module.parameters())
    assert 0 <= card["ece"] < 0.5
    assert told[-1].done == told[-1].total


def test_budgets_are_whole_epochs_and_enough_steps(data: Dataset) -> None:
    assert budgets_in_epochs(data, 128) == (36, 72, 144)  # 3 steps each: 100 are 34 epochs
    assert budgets_in_epochs(data, 4) == (6, 12, 24)
    # Trunk up to 16; branches of 2, 4 and 8.
    assert cost_in_epochs((6, 12, 24)) == 30 and cost_in_epochs((6, 12)) == 14


def test_what_twice_the_budget_does_not_improve_is_a_plateau(
    data: Dataset, train: Train, told: list[Event]
) -> None:
    rng = np.random.default_rng(3)
    images = torch.from_numpy(rng.integers(0, 256, (501, 1, 16, 16), dtype=np.uint8))
    noise = data.with_training(images, rng.integers(0, 3, 501), "noise")
    trained = train(on=noise)
    assert trained.epochs == 6 and len(trained.scores) == 2
    cost, first, second = notes(told)
    assert "14 to 30 epochs" in cost and "images/s of its first steps in fp32" in cost
    assert first == f"after 6 epochs: accuracy {trained.scores[0]:.3f} of 51 validation images"
    assert "no better than after 6, which is kept: a plateau" in second


def test_it_goes_on_while_it_improves_up_to_the_largest_budget(
    data: Dataset, train: Train, told: list[Event]
) -> None:
    trained = train(rate=0.0007)
    assert trained.scores == tuple(sorted(trained.scores)) and len(trained.scores) == 3
    assert trained.epochs == 24
    assert "still improving: `nasdistill teacher train --epochs 48`" in notes(told)[-1]


def test_nothing_is_trained_further_when_all_is_right(
    train: Train, told: list[Event], tmp_path: Path
) -> None:
    labels = np.arange(300) % 3
    images = np.zeros((300, 16, 16), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label + 2 : 4 * label + 6] = 255
    images += np.random.default_rng(0).integers(0, 9, images.shape, dtype=np.uint8) // 8
    np.savez(tmp_path / "easy.npz", images=images, labels=labels)
    easy = load_data(f"npz:{tmp_path / 'easy.npz'}", device=torch.device("cpu"))
    assert train(on=easy).scores == (1.0,)
    assert "plateau" not in notes(told)[-1] and "improving" not in notes(told)[-1]


class Killed(Exception):  # noqa: N818 - says what happened
    pass


@pytest.mark.parametrize("epochs", [None, 4])
def test_a_killed_training_goes_on_to_the_same_teacher(
    train: Train, tmp_path: Path, epochs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in each trunk and branch; what was probed is not probed again."""
    expected = train(epochs, rate=0.0007)
    count = 0

    def die_every_third(event: Event) -> None:
        nonlocal count
        count += event.kind == "progress"
        if event.kind == "progress" and count % 3 == 0:
            raise Killed

    probed: list[str] = []
    monkeypatch.setattr(
        from_scratch, "fastest_precision", lambda run: probed.append("once") or "fp32"
    )
    checkpoint, kills = tmp_path / "new" / "teacher.checkpoint.pt", 0
    while True:
        try:
            trained = train(epochs, rate=0.0007, emit=die_every_third, checkpoint=checkpoint)
            break
        except Killed:
            kills += 1
    assert kills == (1 if epochs else 14) and probed == ["once"]
    assert same(trained.module, expected.module)
    assert (trained.scores, trained.epochs) == (expected.scores, expected.epochs)
    remove_checkpoints(checkpoint)
    assert list(checkpoint.parent.iterdir()) == []
