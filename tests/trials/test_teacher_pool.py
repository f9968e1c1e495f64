"""The teachers of a study: one kind of targets for each kind of teacher, loaded once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_study import OpenContext

from nasdistill.common.errors import UserError
from nasdistill.common.events import Event, silent
from nasdistill.recipe import Recipe, load_recipe
from nasdistill.results import keys
from nasdistill.space import Architecture
from nasdistill.teachers.targets import (
    CachedTargets,
    EMATargets,
    EnsembleTargets,
    PeerTargets,
    SnapshotTargets,
)
from nasdistill.training import from_scratch
from nasdistill.trials import teacher_pool

SECOND = """

def faint(classes, input):
    net = bars(classes, input)
    net[1].weight.data.mul_(0.5)
    return net
"""


@pytest.fixture
def two_teachers(here: Path) -> None:
    own = Path("own.py")
    own.write_text(own.read_text() + SECOND)


def test_each_kind_of_teacher_gives_its_targets(two_teachers: None, opened: OpenContext) -> None:
    context = opened(
        teachers={
            "faint": {"model": "faint"},
            "both": {"mean_of": ["teacher", "faint"], "shares": [3, 1]},
            "average": {"ema": 0.9},
            "before": {"earlier": "1 epochs"},
            "pair": {"peers": 3},
        }
    )
    pool, stream = context.teachers, context.final.stream
    kinds = {
        "teacher": CachedTargets,
        "faint": CachedTargets,
        "both": EnsembleTargets,
        "average": EMATargets,
        "before": SnapshotTargets,
        "pair": PeerTargets,
    }
    targets = {name: pool.targets(name, stream) for name in kinds}
    assert {name: type(t) for name, t in targets.items()} == kinds
    both, before = targets["both"], targets["before"]
    assert isinstance(both, EnsembleTargets) and list(both.shares) == [0.75, 0.25]
    assert isinstance(before, SnapshotTargets) and before.every == 11
    assert targets["pair"].students == 3


def test_a_further_teacher_is_loaded_and_evaluated_once(
    two_teachers: None, opened: OpenContext, events: list[Event]
) -> None:
    teachers = {"faint": {"model": "faint"}}
    context = opened(teachers=teachers)
    assert not any("teacher faint" in e.text for e in events), "it was loaded unasked"
    stream = context.final.stream
    first = context.teachers.targets("faint", stream)
    second = context.teachers.targets("faint", stream)
    assert isinstance(first, CachedTargets) and isinstance(second, CachedTargets)
    assert first.teacher is second.teacher and first.cache is second.cache
    assert sum(e.kind == "stage" and "teacher faint: faint" in e.text for e in events) == 1
    card = context.study.require(keys.FURTHER_TEACHER.of("faint"))
    assert card["weights_hash"] == first.teacher.weights_hash
    assert card["validation_accuracy"] == context.study.require(keys.TEACHER)["validation_accuracy"]


def test_equal_teachers_share_a_cache(opened: OpenContext) -> None:
    context = opened(teachers={"same": {"model": "bars"}})
    stream = context.final.stream
    main, same = (context.teachers.targets(name, stream) for name in ("teacher", "same"))
    assert isinstance(main, CachedTargets) and isinstance(same, CachedTargets)
    assert main.cache is same.cache and len(context.teachers.caches) == 1


def test_a_table_stands_in_for_the_main_teacher(opened: OpenContext, events: list[Event]) -> None:
    data = opened().dataset
    labels = data.train.labels.numpy()
    np.savez("right.npz", ids=np.array(data.names), labels=labels)
    context = opened(study="table", teacher="table:right.npz")
    assert not context.teacher.runs
    assert context.study.require(keys.TEACHER)["train_accuracy"] == 1.0
    assert any("recorded answers, accuracy 1.0000" in e.text for e in events)
    np.savez("wrong.npz", ids=np.array(data.names), labels=(labels + 1) % 3)
    with pytest.raises(UserError, match="barely better than chance .*accuracy 0.000, chance 0.333"):
        opened(study="wrong", teacher="table:wrong.npz")


TURNED = """

class Turned(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.head = net[1]
        with torch.no_grad():
            self.head.weight.copy_(self.head.weight.flip(0))

    def forward(self, images):
        return self.head(images.flatten(1))


def turned(classes, input):
    return Turned(bars(classes, input))
"""


def test_logits_are_put_in_the_datas_order_as_the_recipe_says(
    here: Path, opened: OpenContext, events: list[Event]
) -> None:
    own = Path("own.py")
    own.write_text(own.read_text() + TURNED)
    teachers = {"second": {"model": "turned", "classes": "2, 1, 0"}}
    context = opened(teacher="turned", classes="2,1,0", teachers=teachers)
    assert sum("in the order of the data's classes" in event.text for event in events) == 1
    card = context.study.require(keys.TEACHER)
    assert card["classes_reordered"] and card["validation_accuracy"] > 0.9
    second = context.teachers.targets("second", context.final.stream)
    assert isinstance(second, CachedTargets)
    assert second.teacher.weights_hash == context.teacher.weights_hash
    with pytest.raises(UserError, match="--classes '2,1': 2 names for 3 classes; missing: '0'"):
        opened(teacher="turned", classes="2,1", study="short")


def test_classes_go_with_a_model_that_was_trained_elsewhere(opened: OpenContext) -> None:
    data = opened().dataset
    np.savez("right.npz", ids=np.array(data.names), labels=data.train.labels.numpy())
    for study, teacher in (("recorded", "table:right.npz"), ("unnamed", "auto")):
        with pytest.raises(UserError, match=f"--classes: found '0,1,2' with --teacher {teacher}"):
            opened(study=study, teacher=teacher, classes="0,1,2")


def test_a_teacher_trained_on_another_feed_is_another_teacher(
    opened: OpenContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folders = opened().dataset, []

    def train(folder: Path, recipe: Recipe, *_: object) -> None:
        folders.append(folder.name)

    monkeypatch.setattr(teacher_pool, "_train_auto_teacher", train)
    for values in ({}, {"sampling": "balanced"}, {"class_weights": "balanced"}):
        recipe = load_recipe(None, values)
        teacher_pool._auto_teacher(Path("teachers"), recipe, data, silent)
    assert folders[0] == data.fingerprint[:16] and len(set(folders)) == 3


def test_a_teacher_of_ones_own_data_is_trained_until_its_plateau_once(
    opened: OpenContext, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {"type": "one", "widths": [32]}
    small = Architecture("mlp", {"activation": "relu", "dropout": 0.0, "layers": layers})
    monkeypatch.setattr(teacher_pool, "default_teacher", lambda: small)
    monkeypatch.setattr(from_scratch, "LEAST_STEPS", 1)
    context = opened(teacher="auto", study="first", class_weights={"2": 3.0})
    notes = [event.text for event in events if event.kind == "note"]
    assert notes[0].startswith("no teacher named: training one first")
    assert "at most 30 epochs of 501 images" in notes[0]
    assert notes[2].startswith("after 6 epochs: accuracy")
    [folder] = [path for path in Path("studies/.teachers").iterdir() if path.is_dir()]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["precision"] == "fp32" and metrics["scores"][0] > 0.5
    assert (metrics["sampling"], metrics["class_weights"]) == ("uniform", {"2": 3.0})
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.lock"}
    count = len(events)
    again = opened(teacher="auto", study="second", class_weights={"2": 3.0})
    assert again.teacher.weights_hash == context.teacher.weights_hash
    assert not any("training one first" in event.text for event in events[count:])
