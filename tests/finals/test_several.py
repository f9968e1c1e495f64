"""Full runs that several processes train, beside the same run on one; real processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_study import RECIPE, OpenContext, prepare

from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.common.processes import descendants, process_status
from nasdistill.finals import several
from nasdistill.finals.full_run import StudentTeacher, Variant, run_key
from nasdistill.finals.several import check_cards
from nasdistill.finals.training import run_in_full
from nasdistill.models import Classifier
from nasdistill.recipe import load_recipe
from nasdistill.results import keys, load_study
from nasdistill.space import Architecture

NET = Architecture("normed", {"width": 12})
NORMED = """

import os, signal
from pathlib import Path

import torch.distributed as dist


class Normed(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, 2, bias=False), nn.BatchNorm2d(width)
        self.last, self.steps = nn.Linear(width * 49, classes), 0

    def forward(self, x):
        if self.training and dist.is_initialized():
            self.steps += 1
            if dist.get_rank() == 1 and self.steps > 25 and Path("kill").exists():
                Path("kill").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if len(x) > 7 and Path("little-memory").exists():
                raise MemoryError("no room for so many")
        return self.last(self.norm(self.first(x)).relu().flatten(1))


def build(architecture, input, classes):
    return Normed(architecture.values["width"], classes)


FAMILIES = {"normed": build}
"""
"""A family with batch norm, in whose training a process can be killed, or lack memory."""
SPACE = "name: normed\nfamily: normed\nparameters: {width: {choice: [4, 6, 8, 12, 16]}}\n"


@pytest.fixture
def normed(here: Path) -> Path:
    """The small study's folder, with a space of students that have batch norm."""
    (here / "own.py").write_text((here / "own.py").read_text() + NORMED)
    (here / "normed.yaml").write_text(SPACE)
    return here


def trained(opened: OpenContext, name: str, variant: Variant, **options: object) -> Classifier:
    context = opened(space="normed.yaml", **options)
    return run_in_full(context, variant, NET, context.folder / name / "final.pt", "final")


def assert_alike(student: Classifier, other: Classifier) -> None:
    pairs = zip(student.state_dict().items(), other.state_dict().values(), strict=True)
    for (name, values), same in pairs:
        torch.testing.assert_close(values, same, rtol=1e-3, atol=1e-4, msg=name)


def replicas_below(process: int) -> list[int]:
    """Processes that train slices, among those that a process started."""
    below = descendants(process)
    return [pid for pid in below if b"finals.replica" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_killed_process_ends_the_others_and_the_next_call_goes_on(
    normed: Path, opened: OpenContext, events: list[Event]
) -> None:
    whole = trained(opened, "alone", Variant())
    Path("kill").touch()
    with pytest.raises(UserError, match="process 2 of the 2 .* by signal 9; .* the last check"):
        trained(opened, "two", Variant(), final_gpus=2)
    assert replicas_below(os.getpid()) == []
    checkpoint = Path("studies/small/two/final.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 20
    events.clear()
    assert_alike(trained(opened, "two", Variant(), final_gpus=2), whole)
    assert not any("epoch 2 of" in event.text for event in events)
    assert any("epoch 3 of 4" in event.text for event in events)
    # What two have trained to the end, one takes over as it is, and the other way round.
    assert_alike(trained(opened, "two", Variant(), final_gpus=1), whole)
    assert_alike(trained(opened, "alone", Variant(), final_gpus=2), whole)
    key, study = keys.PROCESSES.of("two/final"), opened(space="normed.yaml").study
    assert study.read(key) == 2
    checkpoint.unlink()
    trained(opened, "two", Variant(), final_gpus=1)
    assert opened(space="normed.yaml").study.read(key) == 1


def test_a_student_of_an_earlier_generation_teaches_all_processes(
    normed: Path, opened: OpenContext
) -> None:
    student = trained(opened, "first", Variant(), final_budget="1 epoch")
    variant = Variant(values={"alpha": 0.2}, teacher=StudentTeacher("before", student, NET))
    alone = trained(opened, "alone", variant, final_budget="1 epoch")
    two = trained(opened, "two", variant, final_budget="1 epoch", final_gpus=2)
    assert_alike(two, alone)


def test_a_process_without_memory_has_all_go_on_in_micro_batches(
    normed: Path, opened: OpenContext, events: list[Event]
) -> None:
    Path("little-memory").touch()
    trained(opened, "two", Variant(), final_gpus=2)
    context = opened(space="normed.yaml")
    assert context.study.read(keys.MICRO_BATCH.of(run_key(Path("two/final.pt")))) == 13
    assert any("tried again in micro-batches of 13" in event.text for event in events)


def test_distill_makes_a_final_on_two_and_says_so(normed: Path) -> None:
    few = {"trials": 3, "top_k": 1, "min_accuracy": 0, "rungs": {"count": 1}}
    recipe = load_recipe("recipe.yaml", {"space": "normed.yaml", **few})
    [final] = api.search(recipe).record.finals
    other = next(number for number in range(1, 4) if number != final.number)
    api.distill("small", trial=other, final_gpus=2)
    first, second = load_study("small", Path("studies")).finals
    assert (first.metrics["processes"], second.metrics["processes"]) == (1, 2)
    assert second.metrics["batch_norm_examples"] == 50
    assert "batch norm's statistics are of 50 examples" in (second.folder / "README.md").read_text()
    page = Path("reports/small/index.html").read_text()
    assert page.count("on 2 GPUs or processes, batch norm of 50 examples") == 1
    assert load_study("small", Path("studies")).recipe["final_gpus"] == 2


def test_ctrl_c_ends_all_processes(normed: Path) -> None:
    text = RECIPE.replace("tiny.yaml", "normed.yaml").replace("4 epochs", "10000 epochs")
    prepared = prepare(normed, f"{text}final_gpus: 2\n".replace("trials: 7", "trials: 2"))
    (prepared / "own.py").write_text((prepared / "own.py").read_text() + NORMED)
    command = [sys.executable, "-m", "nasdistill", "search", "--recipe", "recipe.yaml"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while len(replicas := replicas_below(process.pid)) < 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in said
        left = [status for pid in replicas if (status := process_status(pid)) is not None]
        assert all(status.state in "ZX" for status in left)
    finally:
        process.kill()


def test_who_failed_is_told_and_not_who_lost_another() -> None:
    lost = {"kind": "lost", "problem": "Connection closed by peer"}
    full = {"kind": "memory", "problem": "no room"}
    error = several._error([1, 1], [lost, full])
    assert isinstance(error, MemoryError) and str(error) == "no room"
    assert "process 2 of the 3 that trained a final ended by signal 9" in str(
        several._error([1, -9, None], [lost])
    )
    assert "process 1 of the 2 that trained a final ended with status 1" in str(
        several._error([1, 1], [lost, lost])
    )


def test_a_study_on_fewer_cards_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_cards(load_recipe(None, {"final_gpus": 3, "device": "cpu"}))
    monkeypatch.setattr(several, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_cards(load_recipe(None, {"final_gpus": 2}))
    with pytest.raises(UserError, match="--final-gpus 3: this process sees 2 CUDA devices"):
        check_cards(load_recipe(None, {"final_gpus": 3}))


def test_each_process_sees_its_own_of_the_visible_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert several._environments(cuda, 2) == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    cards = [each["CUDA_VISIBLE_DEVICES"] for each in several._environments(cuda, 2)]
    assert cards == ["3", "5"]
