"""torch.compile for finals: where it pays, where it does not, and where it cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

import nasdistill
from nasdistill import training
from nasdistill.common.events import Event
from nasdistill.recipe import load_recipe
from nasdistill.training import Run
from nasdistill.trials import autotune

QUICK = {"trials": 3, "top_k": 1, "min_accuracy": 0, "final_budget": "3 epochs"}


def search(name: str) -> tuple[dict[str, object], list[str]]:
    """A small search; what its final is worth, and what was said."""
    messages: list[str] = []

    def tell(event: Event) -> None:
        messages.append(event.text)

    recipe = load_recipe("recipe.yaml", {**QUICK, "study": name})
    final = nasdistill.search(recipe, on_event=tell).record.finals[0]
    return dict(final.metrics), messages


def test_short_finals_are_not_compiled(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def compiled(run: Run) -> tuple[float, float]:
        tried.append("compiled")
        return 1.0, 1.0

    def timed(run: Run) -> float:
        tried.append("timed")
        return 0.1

    monkeypatch.setattr(training, "time_compilation", compiled)
    monkeypatch.setattr(training, "seconds_per_step", timed)
    search("short")
    assert tried == []
    monkeypatch.setattr(autotune, "LEAST_STEPS", 1)
    search("still-short")
    assert tried == ["timed"]


def test_what_cannot_be_compiled_is_trained_as_it_is(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Run) -> tuple[float, float]:
        raise RuntimeError("no compiler\nanywhere")

    monkeypatch.setattr(autotune, "COMPILE_WORTH", 0.0)
    monkeypatch.setattr(autotune, "LEAST_STEPS", 1)
    monkeypatch.setattr(training, "time_compilation", broken)
    metrics, messages = search("broken")
    assert any("not compiled: no compiler anywhere" in text for text in messages)
    assert isinstance(metrics["test_accuracy"], float) and metrics["test_accuracy"] > 0.3


def test_what_does_not_pay_back_is_left(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "COMPILE_WORTH", 0.0)
    monkeypatch.setattr(autotune, "LEAST_STEPS", 1)
    monkeypatch.setattr(training, "time_compilation", lambda run: (1e-9, 1e6))
    _, messages = search("slow")
    assert any("not compiled:" in text and "takes 1000000 s" in text for text in messages)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_final_is_the_final(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = search("plain")
    probes: list[tuple[float, float]] = []
    probe = training.time_compilation

    def fast(run: Run) -> tuple[float, float]:
        probes.append(probe(run))
        assert not run.compiled, "the probe works on a branch"
        return 1e-9, 0.0

    monkeypatch.setattr(autotune, "COMPILE_WORTH", 0.0)
    monkeypatch.setattr(autotune, "LEAST_STEPS", 1)
    monkeypatch.setattr(training, "time_compilation", fast)
    torch._dynamo.reset()
    counters.clear()
    metrics, messages = search("compiled")
    assert counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    assert any("times as fast compiled" in text for text in messages)
    assert probes[0][0] > 0 and probes[0][1] > 0
    # Fused arithmetic rounds differently, and the same student comes out of it.
    assert metrics["params"] == plain["params"]
    assert metrics["test_accuracy"] == pytest.approx(plain["test_accuracy"], abs=0.05)
