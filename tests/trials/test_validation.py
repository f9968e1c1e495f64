"""Recipes that cannot work are refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import OpenContext

from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.trials.validation import assistant_architectures

LABELS = {"term": "labels"}


def refused(opened: OpenContext, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(**options)
    assert not list(Path("studies").glob("*/trials/*")), "something ran"
    return str(caught.value)


def test_layers_that_no_student_has(opened: OpenContext) -> None:
    terms = [LABELS, {"term": "features", "layers": {"nowhere": "0"}}]
    text = refused(opened, final={"terms": terms})
    assert text.startswith("final: the student has no layer 'nowhere'")


def test_layers_that_some_students_lack_are_told(opened: OpenContext, events: list[Event]) -> None:
    # The second hidden layer is there in half of the space's architectures.
    terms = [LABELS, {"term": "exits", "layers": ["1"]}]
    opened(final={"terms": terms})
    (text,) = [e.text for e in events if e.kind == "warning"]
    assert "of 6 sampled architectures cannot be trained on these terms and would fail" in text
    assert text.startswith("final: ")


def test_a_cache_that_is_too_small(opened: OpenContext) -> None:
    # 501 images, 3 classes, fp16 and two checksums: 3,014 bytes a view.
    text = refused(opened, cache_size="5000")
    assert text == (
        "--cache-size: found 5,000 bytes; the answers of 1 teacher(s) about 2 view(s) of each "
        "example need 6,028. Allowed: --cache-size 1M or more, or --views 1 or fewer"
    )
    opened(cache_size="6028")


def test_a_temperature_of_the_space_beside_terms(opened: OpenContext) -> None:
    space = Path("tiny.yaml")
    space.write_text(space.read_text() + "  distillation: {alpha: {choice: [0.1, 0.5]}}\n")
    text = refused(opened, scoring={"terms": [LABELS, {"term": "kl"}]})
    assert text.startswith("scoring: the space 'tiny' searches alpha or temperature")


def test_a_table_and_mixed_pictures(opened: OpenContext) -> None:
    import numpy as np

    data = opened().dataset
    np.savez("table.npz", ids=np.array(data.names), labels=data.train.labels.numpy())
    teachers = {"box": {"table": "table.npz"}}
    terms = [LABELS, {"term": "kl", "teacher": "box"}]
    mixed = {"terms": terms, "feed": {"mix": {"kind": "mixup"}}}
    text = refused(opened, study="mixed", teachers=teachers, final=mixed)
    assert "teacher 'box' is a table of recorded answers; it has none about mixed" in text
    np.savez("holes.npz", ids=np.array(data.names[:400]), labels=data.train.labels.numpy()[:400])
    holes = {"box": {"table": "holes.npz", "missing": "skip"}}
    coupled = {"terms": [LABELS, {"term": "dist", "teacher": "box"}]}
    text = refused(opened, study="holes", teachers=holes, final=coupled)
    assert text == (
        "final: teacher 'box' has no answer to some examples, and dist needs all of a batch"
    )


def test_an_ensemble_by_correctness_and_mixed_pictures(opened: OpenContext) -> None:
    teachers = {"both": {"mean_of": ["teacher", "teacher"], "by": "correct"}}
    final = {
        "terms": [LABELS, {"term": "kl", "teacher": "both"}],
        "feed": {"mix": {"kind": "cutmix"}},
    }
    text = refused(opened, teachers=teachers, final=final)
    assert "weighs by being correct, which is not known of mixed examples" in text


def test_assistants_are_those_of_the_space_closest_in_size(opened: OpenContext) -> None:
    context = opened()
    where = context.study.space, context.dataset
    (values,) = assistant_architectures([5000], *where, None, 3000)
    width = values["values"]["layers"]["widths"][0]
    # 256 pixels and 3 classes: 16 hidden units are 4,163 parameters, 24 are 6,243.
    assert width == 16
    with pytest.raises(UserError, match=r"has nothing of about 9,000,000 parameters; of 300"):
        assistant_architectures([9_000_000], *where, None, 3000)


def test_assistants_stand_between_the_teacher_and_the_students(opened: OpenContext) -> None:
    context = opened()
    where = context.study.space, context.dataset
    # 64 hidden units are 16,643 parameters, 16 and 8 are 4,163 and 2,083, of 8 the fewest.
    assert len(assistant_architectures([16_643, 4163], *where, 16_644, 4162)) == 2
    assert len(assistant_architectures([16_643, 4163], *where, None, None)) == 2
    for sizes, teacher, limit in (
        ([16_643, 4163], 16_643, 4162),  # as large as the teacher
        ([16_643, 4163], 16_644, 4163),  # as small as students may be
        ([2083], None, None),  # as small as the smallest
        ([16_643, 16_642], None, None),  # one architecture twice
    ):
        with pytest.raises(UserError, match="an assistant stands between teacher and students"):
            assistant_architectures(sizes, *where, teacher, limit)
    text = refused(opened, study="large", iterate={"assistants": ["15k"]})
    assert text == (
        "iterate.assistants: the closest architectures of the space 'tiny' have 16,643 parameters; "
        "an assistant stands between teacher and students. Allowed: fewer than the teacher's 771, "
        "more than the 10,000 that a student may have, each fewer than the one before"
    )


@pytest.mark.parametrize("name", ["attention", "gram", "nst"])
def test_terms_on_places_and_students_without_any(opened: OpenContext, name: str) -> None:
    terms = [LABELS, {"term": name, "teacher": "slow"}]
    text = refused(opened, teachers={"slow": {"ema": 0.9}}, final={"terms": terms})
    assert text.startswith(f"final: {name} relates the places of a map, and here is only one: ")
    assert text.endswith("or use features, similarity, rkd or crd")
