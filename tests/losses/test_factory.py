"""From recipes to objectives: stages, weights, and terms that stand in several stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import (
    bound,
    conv,
    former,
    objective,
    pictures,
    run_of,
    same,
    teacher_of,
    term,
)
from small_study import write_blobs

from nasdistill.data import Batch, Dataset, load_data
from nasdistill.losses import KL, TERMS, Labels, Objective, objective_of
from nasdistill.losses.adversarial import AdversarialFeatures, AdversarialLogits
from nasdistill.losses.attention import AttentionMaps, AttentionRelations
from nasdistill.losses.features import Features
from nasdistill.models.hooks import forward
from nasdistill.recipe import ObjectiveOptions
from nasdistill.teachers.logit_cache import LogitCache
from nasdistill.teachers.targets import CachedTargets
from nasdistill.training import train


def staged(*stages: dict[str, Any], **more: Any) -> Objective:
    return objective_of(ObjectiveOptions.model_validate({"stages": list(stages), **more}))


def weights(made: Objective, progress: float) -> list[float]:
    return [item.weight(progress) for item in made.terms]


def test_three_stages_of_alpha_and_temperature() -> None:
    made = staged(
        {"until": 0.3, "alpha": 0.3, "temperature": 8},
        {"until": 0.7, "alpha": 0.5, "temperature": 5},
        {"until": 1.0, "alpha": 0.7, "temperature": 2},
    )
    for progress, alpha, temperature in (
        (0.0, 0.3, 8.0),
        (0.29, 0.3, 8.0),
        (0.3, 0.5, 5.0),
        (0.69, 0.5, 5.0),
        (0.7, 0.7, 2.0),
        (1.0, 0.7, 2.0),
    ):
        on = [item for item in made.terms if item.weight(progress) != 0]
        labels, kl = on
        assert isinstance(labels.term, Labels) and isinstance(kl.term, KL)
        assert labels.weight(progress) == pytest.approx(alpha)
        assert kl.weight(progress) == pytest.approx(1 - alpha)
        assert kl.term.temperature(progress) == pytest.approx(temperature)


def test_schedules_inside_a_stage_run_from_its_begin_to_its_end() -> None:
    made = staged(
        {"until": 0.5, "terms": [{"term": "labels", "weight": {"linear": [1, 3]}}]},
        {"until": 1, "terms": [{"term": "kl", "temperature": {"cosine": [8, 2]}}]},
    )
    assert weights(made, 0.25) == pytest.approx([2.0, 0.0])
    assert weights(made, 0.5) == pytest.approx([0.0, 1.0])
    kl = made.terms[1].term
    assert isinstance(kl, KL)
    assert [kl.temperature(p) for p in (0.5, 0.75, 1.0)] == pytest.approx([8, 5, 2])


HINT = {"term": "features", "layers": {"0": "0"}}


def test_a_term_in_two_stages_is_one() -> None:
    made = staged(
        {"until": 0.4, "terms": [{**HINT, "weight": 2.0}]},
        {"until": 0.6, "terms": [{"term": "labels"}]},
        {"until": 1.0, "terms": [{"term": "labels"}, {**HINT, "weight": {"linear": [1, 0]}}]},
    )
    assert [type(item.term) for item in made.terms] == [Features, Labels]
    for progress, on in (
        (0.0, [2, 0]),
        (0.39, [2, 0]),
        (0.4, [0, 1]),
        (0.6, [1, 1]),
        (0.8, [0.5, 1]),
        (1.0, [0, 1]),
    ):
        assert weights(made, progress) == pytest.approx(on)


@pytest.mark.parametrize(
    "other",
    [
        {**HINT, "layers": {"0": "1"}},
        {**HINT, "resize": "bilinear"},
        {**HINT, "teacher": "second"},
    ],
)
def test_terms_that_differ_stay_apart(other: dict[str, Any]) -> None:
    made = staged({"until": 0.5, "terms": [HINT]}, {"until": 1, "terms": [other]})
    assert len(made.terms) == 2
    assert weights(made, 0.2) == [1.0, 0.0] and weights(made, 0.7) == [0.0, 1.0]


@pytest.mark.parametrize("on", ["logits", "features"])
def test_an_adversary_in_two_stages_is_one_of_either_strength(on: str) -> None:
    part = {"term": "adversarial", "on": on}
    made = staged(
        {"until": 0.5, "terms": [{"term": "labels"}, {**part, "weight": 0.1}]},
        {"until": 0.8, "terms": [{"term": "labels"}]},
        {"until": 1, "terms": [{"term": "labels"}, {**part, "weight": {"linear": [0.2, 0.4]}}]},
    )
    assert len(made.terms) == 2
    assert [made.terms[1].weight(p) for p in (0.0, 0.6, 0.9)] == [1.0, 0.0, 1.0]
    term_of_both = made.terms[1].term
    assert isinstance(term_of_both, (AdversarialLogits, AdversarialFeatures))
    assert [term_of_both.strength(p) for p in (0.2, 0.8, 0.9, 1.0)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4]
    )


def test_the_rest_of_an_objective_holds_for_all_stages() -> None:
    made = staged({"until": 1}, examples={"by": "confident"}, balance="value")
    assert made.balance == "value" and made.by_example is not None
    assert made.by_example.threshold == 0.9 and made.teachers == ("teacher",)


def test_options_reach_their_terms() -> None:
    whole = objective(
        {"term": "labels", "smoothing": 0.2},
        {"term": "attention", "of": "maps", "loss": "cosine", "combine": "concat"},
        {"term": "attention", "of": "values", "loss": "kl", "layers": {0: [1, 2]}},
        {"term": "kl", "teacher": "other", "standardise": True},
    )
    labels, maps, values, kl = whole.terms
    assert labels.term == Labels(0.2)
    assert isinstance(maps.term, AttentionMaps) and maps.term.loss == "cosine"
    assert maps.term.combine == "concat"
    assert isinstance(values.term, AttentionRelations) and values.term.of == "values"
    assert values.term.layers == {"0": ("1", "2")}
    assert isinstance(kl.term, KL) and kl.term.standardise and kl.teacher == "other"
    assert whole.teachers == ("teacher", "other") and whole.reads_layers


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")
    return load_data(f"npz:{path}", device=torch.device("cpu"))


def teachers(data: Dataset, folder: Path) -> dict[str, Any]:
    teacher = teacher_of(conv((6, 8, 10), seed=5))
    return {"teacher": CachedTargets(teacher, LogitCache(teacher, data, folder))}


def test_a_run_through_three_stages_keeps_one_projector(data: Dataset, tmp_path: Path) -> None:
    run_objective = staged(
        {"until": 0.4, "terms": [HINT]},
        {"until": 0.7, "terms": [{"term": "labels"}]},
        {"until": 1, "terms": [{"term": "labels"}, HINT]},
    )
    run = run_of(data, [conv((4, 6, 8))], run_objective, teachers(data, tmp_path), horizon=500)
    (helpers,) = run.auxiliaries
    assert [name for name, _ in helpers.named_children()] == ["0"]
    (weight,) = helpers.parameters()
    head = run.student.get_submodule("net.head")
    moved, last = [], (weight.detach().clone(), next(head.parameters()).detach().clone())
    for _ in train(run, 500, every=1):
        now = (weight.detach().clone(), next(head.parameters()).detach().clone())
        moved.append(tuple(not torch.equal(a, b) for a, b in zip(last, now, strict=True)))
        last = now
    # Ten steps: the projector alone for four, the head alone for three, then both.
    assert moved == [(True, False)] * 4 + [(False, True)] * 3 + [(True, True)] * 3


def test_steps_at_which_all_weights_are_zero_change_nothing(data: Dataset) -> None:
    run_objective = objective({"term": "labels", "weight": {"steps": {0: 0, 0.5: 1}}})
    run = run_of(data, [conv((4, 6))], run_objective, horizon=500)
    before = [p.detach().clone() for p in run.students.parameters()]
    for _ in train(run, 250):
        pass
    assert all(torch.equal(a, b) for a, b in zip(before, run.students.parameters(), strict=True))
    for _ in train(run, 500):
        pass
    pairs = zip(before, run.students.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_auxiliaries_of_students_have_weights_of_their_own(data: Dataset, tmp_path: Path) -> None:
    run_objective = objective({"term": "labels"}, {"term": "features", "layers": {0: 0}})
    students = [conv((4, 6)), conv((4, 6))]
    run = run_of(data, students, run_objective, teachers(data, tmp_path))
    assert not same(run.auxiliaries[0], run.auxiliaries[1])
    again = run_of(data, [conv((4, 6)), conv((4, 6))], run_objective, teachers(data, tmp_path))
    assert same(run.auxiliaries, again.auxiliaries)


def variants() -> list[tuple[str, dict[str, Any]]]:
    """All terms, those that are made of several classes once for each."""
    of = [("attention", {"of": of}) for of in ("maps", "matrices", "values")]
    on = [("adversarial", {"on": on}) for on in ("logits", "features")]
    return [*((name, {}) for name in TERMS if name not in ("attention", "adversarial")), *of, *on]


@pytest.mark.parametrize(("name", "options"), variants())
def test_a_terms_attributes_are_those_under_its_name(name: str, options: dict[str, Any]) -> None:
    listed, made = TERMS[name], term(name, **options)
    for attribute in ("asks_teacher", "coupled", "reads_layers", "reads_labels", "one_label"):
        assert getattr(made, attribute) == getattr(listed, attribute), attribute
    assert made.adversarial == listed.adversarial
    assert made.weight_field == listed.weight_field
    assert made.capture_obstacle == listed.capture_obstacle
    assert listed.asks_teacher == ("teacher" in listed.Options.model_fields)


@pytest.mark.parametrize(("name", "options"), variants())
def test_labels_enter_the_loss_of_those_that_say_so(name: str, options: dict[str, Any]) -> None:
    make = former if options.get("of") in ("matrices", "values") else conv
    student, teacher = make(seed=1), make(seed=2)
    made, images, ids = bound(term(name, **options), student, teacher), pictures(), torch.arange(6)
    auxiliary = made.auxiliary()
    own = forward(student.eval(), images, made.student_layers)
    teacher_outputs = forward(teacher.eval(), images, made.teacher_layers)
    losses = [
        made(own, teacher_outputs, Batch(images, torch.tensor(labels), ids, ids, 0), 0.0, auxiliary)
        for labels in ([0, 1, 2, 0, 1, 2], [2, 1, 1, 1, 0, 2])
    ]
    assert torch.equal(*losses) != made.reads_labels
