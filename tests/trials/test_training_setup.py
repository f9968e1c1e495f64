"""The parts of a run: objective, stream, targets, students."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_study import OpenContext, write_blobs

from nasdistill.space import Architecture
from nasdistill.training import LRSchedule

NET = Architecture(
    "mlp", {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [8]}}
)


def test_scoring_and_finals_share_one_stream(opened: OpenContext) -> None:
    context = opened(final={"terms": [{"term": "labels"}]})
    scoring, final = context.scoring, context.final
    assert scoring.stream == final.stream
    assert list(scoring.needed_targets) == ["teacher"] and not final.needed_targets
    plans = [[ids.tolist() for ids, _ in s.stream.plan(0, 12)] for s in (scoring, final)]
    assert plans[0] == plans[1] and len(set(sum(plans[0][:10], []))) == 500


def test_an_architecture_brings_its_temperature_and_alpha(opened: OpenContext) -> None:
    setup = opened().scoring
    assert setup.for_architecture(NET) is setup
    with_values = Architecture(
        "mlp", {**NET.values, "distillation": {"temperature": 7, "alpha": 0.5}}
    )
    own = setup.for_architecture(with_values)
    assert (own.options.temperature, own.options.alpha) == (7.0, 0.5)
    labels, kl = own.objective.terms
    assert labels.weight(0.0) == 0.5 and kl.term.temperature(0.0) == 7.0  # type: ignore[attr-defined]
    assert own.stream is setup.stream and setup.options.temperature == 4.0
    plain = setup.labels_only()
    assert plain.for_architecture(with_values) is plain, "labels alone have no temperature"


def test_uneven_classes_are_made_up_for_by_the_feed_and_by_weights(opened: OpenContext) -> None:
    write_blobs(Path("blobs.npz"), uneven=True)
    context = opened(sampling="balanced", class_weights={"2": 3.0})
    labels = context.dataset.train.labels
    for setup in (context.scoring, context.final):
        shown = torch.cat([labels[ids] for ids, _ in setup.stream.plan(0, 10)])
        counts = torch.bincount(shown)
        assert counts.max() - counts.min() <= 1 < torch.bincount(labels).max() / 100
        for each in (setup, setup.labels_only(), setup.with_values(alpha=0.5)):
            (labels_term, *_) = (item.term for item in each.objective.terms)
            weights = labels_term.class_weights  # type: ignore[attr-defined]
            assert weights.tolist() == [1.0, 1.0, 3.0]


def test_students_come_from_seed_and_fingerprint(opened: OpenContext) -> None:
    context = opened()
    data, setup = context.dataset, context.scoring

    def weights(seed: int, architecture: Architecture = NET) -> torch.Tensor:
        (student,) = setup.students(architecture, data, seed)
        return torch.cat([p.detach().flatten() for p in student.parameters()])

    torch.manual_seed(99)
    first = weights(0)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))
    peers = opened(
        study="peers",
        teachers={"pair": {"peers": 2}},
        final={"terms": [{"term": "labels"}, {"term": "kl", "teacher": "pair"}]},
    ).final
    pair = peers.students(NET, data, 0)
    assert len(pair) == 2
    one, two = (torch.cat([p.detach().flatten() for p in student.parameters()]) for student in pair)
    assert torch.equal(one, first) and not torch.equal(one, two)


def test_what_is_prepared_is_not_asked_again(opened: OpenContext) -> None:
    context = opened()
    setup, (cache,) = context.scoring, context.teachers.caches.values()
    setup.prepare(200, 0)
    count = cache.asked
    assert count > 0
    run = setup.run(
        setup.students(NET, context.dataset, 0),
        horizon=200,
        lr_schedule=LRSchedule(0.01, 1, None, 200),
        seed=0,
        precision="fp32",
    )
    from nasdistill.training import train

    (*_, last) = train(run, 200)
    assert last.examples == 200 and cache.asked == count and cache.served == 200


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_feed_changes_the_views_and_their_fingerprint(opened: OpenContext, kind: str) -> None:
    context = opened(final={"feed": {"mix": {"kind": kind}, "cut_out": 0.25}})
    plain, fed = context.scoring.stream.dataset, context.final.stream.dataset
    assert fed.views.mixing is not None and fed.views.mixing.kind == kind
    assert fed.views.cut_out == 0.25 and plain.views.mixing is None
    assert plain.fingerprint != fed.fingerprint and len(plain.train) == len(fed.train)
