"""The shared state of a study: limits, budgets, deadlines, labels of events."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_study import OpenContext, write_blobs

from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.models.latency import Latency
from nasdistill.results import keys
from nasdistill.trials.context import Deadlines, OutOfTime


def test_it_has_one_owner_of_recipe_and_folder(opened: OpenContext) -> None:
    context = opened()
    assert context.recipe is context.study.recipe
    assert context.folder == context.study.folder == Path("studies/small")
    assert context.teacher is context.teachers.main and context.classes == 3
    assert context.ladder.budgets == (200, 400, 800)
    # 600 training images less a sixth for validation; whole batches of 50.
    assert context.final_epochs == 4 and context.final_examples == 4 * 500


@pytest.mark.parametrize(
    ("pictures", "budget", "passes", "worth"),
    [
        (36, "1 epoch", 1, 1),
        (36, "2 epochs", 2, 2),
        (36, "90 images", 4, 4),
        (84, "4 epochs", 5, 4),
    ],
)
def test_a_budget_of_few_pictures_is_what_it_says(
    opened: OpenContext, pictures: int, budget: str, passes: int, worth: int
) -> None:
    """Batches are of 50: of 24 training pictures all, of 57 only 50 in each pass."""
    write_blobs(Path("blobs.npz"), train=pictures, test=12)
    context = opened(final_budget=budget, rungs={"first": "24 images", "eta": 2, "count": 1})
    (few,) = {24, 57} & {len(context.dataset.train)}
    assert context.final_examples == passes * min(few, 50)
    assert (context.final_epochs, context.epochs_worth) == (passes, worth)


def test_limits_are_the_recipes_or_derived_and_kept(
    opened: OpenContext, events: list[Event]
) -> None:
    assert opened().limits == {"params": 10_000.0, "accuracy": 0.5}
    derived = opened(study="derived", max_params=None, min_accuracy=None)
    params = sum(p.numel() for p in derived.teacher.module.parameters())
    card = derived.study.require(keys.TEACHER)
    assert derived.limits == {
        "params": float(params // 10),
        "accuracy": 0.9 * card["validation_accuracy"],
    }
    (text,) = [e.text for e in events if "no limit named" in e.text]
    assert text == f"no limit named: at most {params // 10:,} parameters (teacher's ÷ 10)"
    again = opened(study="derived", max_params=None, min_accuracy=None)
    assert again.limits == derived.limits
    assert sum("no limit named" in e.text for e in events) == 1, "it was derived twice"


def test_data_that_changed_are_refused(opened: OpenContext) -> None:
    opened()
    content = Path("blobs.npz").read_bytes()
    import numpy as np

    arrays = dict(np.load("blobs.npz"))
    arrays["images"][0] = 255 - arrays["images"][0]
    np.savez("blobs.npz", **arrays)
    with pytest.raises(UserError, match=r"the data 'npz:blobs.npz' are not those it was made with"):
        opened()
    Path("blobs.npz").write_bytes(content)
    opened()


def test_a_teacher_with_other_weights_is_refused(opened: OpenContext) -> None:
    opened()
    own = Path("own.py")
    own.write_text(own.read_text().replace("= 0.3", "= 0.4"))
    with pytest.raises(UserError, match="'bars' has other weights than the one it was made with"):
        opened()


def test_a_label_stands_before_each_event(opened: OpenContext, events: list[Event]) -> None:
    context = opened()
    events.clear()
    labelled = context.labelled("final 2, distilling", trial=7, stage="audit")
    labelled.note("epoch 1", stage="finals", done=3)
    labelled.labelled("inner").warn("memory")
    context.note("plain")
    assert [(e.kind, e.text, e.trial, e.stage, e.done) for e in events] == [
        ("note", "final 2, distilling: epoch 1", 7, "audit", 3),
        ("warning", "final 2, distilling: inner: memory", 7, "audit", 0),
        ("note", "plain", None, "", 0),
    ]
    assert labelled.study is context.study and labelled.full_runs is context.full_runs


def test_deadlines() -> None:
    Deadlines().check_search()
    Deadlines(search=time.monotonic() + 60).check_search()
    Deadlines(whole=0.0).check_search()  # the whole command's is for finals
    with pytest.raises(OutOfTime):
        Deadlines(search=time.monotonic() - 1).check_search()


def test_latency_is_told_beside_the_teachers(opened: OpenContext) -> None:
    context = opened()

    def latency(median: float, least: float) -> Latency:
        return Latency("torch", 1, 1, median, 1.0, 9.0, 20, least)

    student, teacher = latency(5.0, 2.0), latency(30.0, 8.0)
    assert context.normalised_latency(student, teacher) == 5.0, "no latency of the teacher yet"
    context.teacher_latency = 12.0
    assert context.normalised_latency(student, teacher) == 12.0 * 2.0 / 8.0
    assert context.normalised_latency(student, None) == 5.0


def test_the_teachers_logits_on_test_are_the_modules(opened: OpenContext) -> None:
    context = opened()
    logits = context.teacher_on_test
    assert logits is not None and logits.shape == (200, 3)
    images = torch.cat(
        [
            batch.images
            for batch in context.dataset.test.batches([(torch.arange(200), None)], (16, 16))
        ]
    )
    with torch.inference_mode():
        assert torch.allclose(context.teacher.module(images).float(), logits, atol=1e-5)
    assert context.teacher_on_test is logits


def test_a_doubtful_objective_of_scores_is_told(opened: OpenContext, events: list[Event]) -> None:
    opened(scoring={"terms": [{"term": "labels"}, {"term": "mse_logits"}]})
    (text,) = [e.text for e in events if e.kind == "warning"]
    assert re.match("students are scored after training on mse_logits: terms other than", text)


def test_what_data_leave_out_is_told_once(
    here: Path, opened: OpenContext, events: list[Event]
) -> None:
    with np.load("blobs.npz") as arrays:
        for index in range(60):
            folder = Path("pictures", str(arrays["labels"][index]))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(arrays["images"][index]).save(folder / f"{index}.png")
    Path("pictures", "1", "notes.txt").touch()
    opened(data="folder:pictures", study="pictures")
    [warning] = [event for event in events if "left out" in event.text]
    assert warning.kind == "warning" and warning.text.startswith(
        "data folder:pictures: 1 file is left out"
    )
