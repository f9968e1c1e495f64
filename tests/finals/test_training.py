"""Generations, assistants, several teachers and nodes of the objective, in small studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nasdistill
from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.finals import training
from nasdistill.recipe import load_recipe
from nasdistill.results import Final, load_study

QUICK = {
    "trials": 3,
    "top_k": 1,
    "final_budget": "2 epochs",
    "min_accuracy": 0,
    "rungs": {"first": "200 images", "count": 1},
}


class Cut(Exception):  # noqa: N818
    """Ends a search where a kill would."""


def run(name: str, on_event: Any = None, **options: Any) -> Final:
    recipe = load_recipe("recipe.yaml", {**QUICK, "study": name, **options})
    nasdistill.search(recipe, on_event=on_event)
    return load_study(name, Path("studies")).finals[0]


def test_generations_teach_each_other_and_the_best_is_taken(here: Path) -> None:
    final = run("born-again", iterate={"generations": 3})
    steps = final.metrics["steps"]
    assert [step["taught_by"] for step in steps] == ["teacher", "generation 1", "generation 2"]
    assert len({step["params"] for step in steps}) == 1
    chosen = [step for step in steps if step.get("chosen")]
    assert len(chosen) == 1
    assert chosen[0]["score_accuracy"] == max(step["score_accuracy"] for step in steps)
    assert final.metrics["audit_accuracy"] == chosen[0]["audit_accuracy"]
    page = Path("reports/born-again/index.html").read_text()
    assert "Generations and assistants" in page and "generation 2" in page


WIDE = """

def wide(classes, input):
    size = input.height * input.width
    copies = nn.Linear(size, size)
    with torch.no_grad():
        copies.weight.copy_(torch.eye(size))
        copies.bias.zero_()
    return nn.Sequential(nn.Flatten(), copies, bars(classes, input)[1])
"""
"""The teacher of the small study with 65,792 parameters more."""


def test_assistants_fall_in_size_and_teach_the_students(here: Path) -> None:
    own = Path("own.py")
    own.write_text(own.read_text() + WIDE)
    final = run("assisted", teacher="wide", iterate={"assistants": ["15k", "5k"]}, max_params="3k")
    steps = final.metrics["steps"]
    assert [step["taught_by"] for step in steps] == [
        "teacher",
        "assistant 1",
        "teacher",
        "assistant 2",
    ]
    assert steps[0]["params"] > steps[1]["params"] > steps[2]["params"] == steps[3]["params"]
    assert steps[2]["params"] <= 3000
    kept = Path("studies/assisted/assistants")
    assert nasdistill.load(kept / "1") is not None
    assert sorted(p.name for p in kept.iterdir()) == ["1", "2"]


def test_an_assistant_of_no_such_size_is_refused_with_the_closest(here: Path) -> None:
    messages: list[str] = []
    with pytest.raises(UserError, match=r"nothing of about 5,000,000 .* closest has"):
        run("huge", lambda e: messages.append(e.text), iterate={"assistants": ["5M"]})
    assert not any("rung" in message for message in messages)
    assert not Path("studies/huge").exists()


def test_a_chain_cut_off_goes_on_and_ends_the_same(here: Path) -> None:
    whole = run("whole", iterate={"generations": 2})

    def cut(event: Event) -> None:
        if "generation 2: epoch 2" in event.text:
            raise Cut

    with pytest.raises(Cut):
        run("parts", cut, iterate={"generations": 2})
    rest: list[str] = []
    parts = run("parts", lambda e: rest.append(e.text), iterate={"generations": 2})
    assert parts.metrics["steps"] == whole.metrics["steps"]
    assert not any(
        "distilling: epoch 1" in text or "generation 2: epoch 1" in text for text in rest
    )


def test_a_search_that_broke_off_in_a_trial_goes_on_in_the_same_process(here: Path) -> None:
    def cut(event: Event) -> None:
        if event.kind == "progress" and event.stage == "search":
            raise Cut

    with pytest.raises(Cut):
        run("broken", cut)
    assert run("broken").metrics["test_accuracy"] > 0.4
    states = [c.state for c in load_study("broken", Path("studies")).candidates]
    assert states.count("complete") == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {
                "iterate": {"generations": 2},
                "teachers": {"both": {"mean_of": ["teacher", "b"]}, "b": {"model": "bars"}},
                "final": {"terms": [{"term": "kl", "teacher": "both"}]},
            },
            "no term of final asks it by that name",
        ),
        (
            {
                "iterate": {"generations": 2},
                "final": {"terms": [{"term": "kl"}, {"term": "features", "layers": {0: "1"}}]},
                "import": "named.py",
                "teacher": "named",
            },
            "a student has to teach in the place of the teacher, but the teacher has no layer",
        ),
        (
            {
                "teachers": {
                    "b": {"mean_of": ["teacher", "c"], "by": "correct"},
                    "c": {"model": "bars"},
                },
                "final": {
                    "terms": [{"term": "kl", "teacher": "b"}],
                    "feed": {"mix": {"kind": "mixup"}},
                },
            },
            "not known of mixed examples",
        ),
    ],
)
def test_chains_and_means_that_cannot_work(here: Path, options: dict[str, Any], told: str) -> None:
    Path("named.py").write_text(
        Path("own.py").read_text()
        + "\n\ndef named(classes, input):\n    inner = bars(classes, input)\n"
        "    return nn.Sequential(inner[0], nn.Sequential(inner[1]))\n"
    )
    if "named" in str(options):
        options["final"]["terms"][1]["layers"] = {0: "1.0"}
    with pytest.raises(UserError, match=told):
        run("impossible", **options)
    assert not Path("studies/impossible").exists()


def test_the_baseline_of_a_space_with_nodes_sees_labels_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Path("tiny.yaml").read_text()
    Path("tiny.yaml").write_text(f"{space}  distillation:\n    alpha: {{choice: [0.2, 0.8]}}\n")
    teachers_by_run: dict[str, tuple[str, ...]] = {}
    through = training.train_through

    def spied(run: Any, epochs: int, stage: str, emit: Any, checkpoint: Any, lock: Any) -> Any:
        teachers_by_run[checkpoint.stem] = run.objective.teachers
        return through(run, epochs, stage, emit, checkpoint, lock)

    monkeypatch.setattr(training, "train_through", spied)
    run("plain", baseline=True)
    assert teachers_by_run == {"final": ("teacher",), "baseline": ()}


def test_peers_are_both_scored_and_the_better_counts(here: Path) -> None:
    terms = [{"term": "labels"}, {"term": "kl", "teacher": "pair"}]
    run("peers", teachers={"pair": {"peers": 2}}, scoring={"terms": terms}, final={"terms": terms})
    scored = [c for c in load_study("peers", Path("studies")).candidates if c.rungs]
    for candidate in scored:
        [rung] = candidate.rungs
        assert len(rung.peers) == 2
        assert rung.accuracy == max(rung.peers)
    assert any(len(set(c.rungs[0].peers)) == 2 for c in scored)


def test_the_space_brings_temperature_and_alpha(here: Path) -> None:
    space = Path("tiny.yaml").read_text()
    Path("tiny.yaml").write_text(
        space
        + "  distillation:\n    temperature: {float: [1, 10]}\n    alpha: {choice: [0.2, 0.8]}\n"
    )
    final = run("nodes")
    values = json.loads((final.folder / "architecture.json").read_text())["values"]["distillation"]
    assert 1 <= values["temperature"] <= 10 and values["alpha"] in (0.2, 0.8)
    assert nasdistill.load(final.folder) is not None
    with pytest.raises(UserError, match="the space 'tiny' searches alpha or temperature"):
        run("terms", final={"terms": [{"term": "kl"}]})


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ("{temperatur: 4}", "did you mean 'temperature'?"),
        ("{temperature: {float: [0, 4]}}", "found values outside; allowed: numbers in [0.01, 1000"),
        ("{alpha: {choice: [0.5, 1.5]}}", "allowed: numbers in [0.0, 1.0]"),
        ("{alpha: {choice: [low, high]}}", "allowed: numbers in [0.0, 1.0]"),
    ],
)
def test_nodes_that_no_objective_has(here: Path, nodes: str, told: str) -> None:
    space = Path("tiny.yaml").read_text()
    Path("tiny.yaml").write_text(f"{space}  distillation: {nodes}\n")
    with pytest.raises(UserError) as caught:
        run("nodes")
    assert told in str(caught.value) and "tiny.yaml:" in str(caught.value)


def test_sizes_too_close_or_too_far_apart_are_warned_about(here: Path) -> None:
    texts: list[str] = []
    run("close", lambda e: texts.append(e.text) if e.kind == "warning" else None)
    assert any("there is little to gain in size" in text for text in texts)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"final": {"terms": [{"term": "kl"}, {"term": "features", "layers": {"linear9": 0}}]}},
            "final: the student has no layer 'linear9'; did you mean 'linear",
        ),
        (
            {"final": {"terms": [{"term": "kl"}, {"term": "features", "layers": {0: "body"}}]}},
            "final: the teacher has no layer 'body'",
        ),
        (
            {"scoring": {"terms": [{"term": "kl"}, {"term": "attention", "of": "matrices"}]}},
            "scoring: attention: the student has no attention layers",
        ),
        (
            {"final": {"terms": [{"term": "labels"}, {"term": "exits", "layers": [7]}]}},
            "the student has no layer 7: its",
        ),
    ],
)
def test_layers_that_are_not_there_are_refused_before_anything_runs(
    here: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as caught:
        run("wrong", **options)
    assert told in str(caught.value)
    assert not Path("studies/wrong").exists()


def test_a_recorded_table_teaches_like_its_teacher(here: Path) -> None:
    count = api.teacher_record(
        "bars", data="npz:blobs.npz", out=Path("bars.npz"), import_file="own.py"
    )
    terms = [{"term": "kl", "teacher": "box"}]
    options = {"teachers": {"box": {"table": "bars.npz"}}, "final": {"terms": terms}}
    final = run("table", **options)
    assert count == load_study("table", Path("studies")).data["examples"]["train"]
    assert final.metrics["test_accuracy"] > 0.5
    with pytest.raises(UserError, match="none about mixed or synthetic images"):
        run("mixed", **{**options, "final": {"terms": terms, "feed": {"mix": {"kind": "mixup"}}}})
    with pytest.raises(UserError, match="exists already"):
        api.teacher_record("bars", data="npz:blobs.npz", out=Path("bars.npz"))


def test_a_table_can_be_the_only_teacher(here: Path) -> None:
    api.teacher_record("bars", data="npz:blobs.npz", out=Path("bars.parquet"), import_file="own.py")
    texts: list[str] = []
    final = run("box", lambda e: texts.append(e.text), teacher="table:bars.parquet")
    assert final.metrics["test_accuracy"] > 0.5
    unknown = ("retention", "teacher_test_accuracy", "compression", "speedup", "agreement")
    assert all(final.metrics[key] is None for key in unknown)
    assert {row["model"] for row in final.metrics["latency"]} == {"student"}
    assert any("recorded answers, accuracy 0.9" in text for text in texts)
    assert "of the teacher" not in (final.folder / "README.md").read_text()
    assert "final 1" in Path("reports/box/index.html").read_text()
    with pytest.raises(UserError, match="cannot be asked"):
        api.evaluate("box/1")
    with pytest.raises(UserError, match="images are made by asking a teacher anew"):
        final_options = {"terms": [{"term": "kl"}], "feed": {"synthetic": {"images": 10}}}
        run("dream", teacher="table:bars.parquet", final=final_options)
    with pytest.raises(UserError, match="no size to derive one from"):
        run("limitless", teacher="table:bars.parquet", max_params=None)
    with pytest.raises(UserError, match="needs a teacher whose layers can be read"):
        terms = [{"term": "kl"}, {"term": "features"}]
        run("layers", teacher="table:bars.parquet", final={"terms": terms})
    with pytest.raises(UserError, match="there is no such file"):
        run("missing", teacher="table:gone.npz")
