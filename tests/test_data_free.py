"""A teacher, no training pictures: a folder with validation and test alone, searched to its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted_search import Moment
from PIL import Image
from small_study import TINY
from torch import nn

from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.common.events import Event
from nasdistill.data.pictures import Preparation
from nasdistill.models import Classifier, artifact, build
from nasdistill.recipe import load_recipe
from nasdistill.results import StudyRecord, load_study
from nasdistill.space import Architecture

SCRIPT = Path(__file__).parent / "interrupted_search.py"
CLASSES = ("high", "low", "middle")
LINEAR = Architecture(
    "mlp", {"activation": "relu", "dropout": 0.0, "layers": {"type": "none", "widths": []}}
)
WAY = Preparation(1, (16, 16), (16, 16))
SEARCH: dict[str, Any] = {
    "space": "tiny.yaml",
    "data": "folder:few",
    "teacher": "folder:teacher",
    "synthetic": "96",
    "trials": "3",
    "top_k": "1",
    "minimize": "params",
    "max_params": "10k",
    "min_accuracy": "0.5",
    "first_rung": "300 images",
    "batch_size": "32",
    "precision": "fp32",
    "device": "cpu",
    "workers": "1",
}
"""A search that says nothing of the budget of a final, and so takes the default: 8 epochs."""


def write_pictures(folder: Path, count: int) -> None:
    """Writes pictures of noise, grey, each with a bright bar where its class says."""
    rng = np.random.default_rng(len(str(folder)))
    for name, row in zip(CLASSES, (3, 11, 7), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 200, (16, 16), dtype=np.uint8)
            pixels[row : row + 2, 3:13] += 55
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def write_teacher(folder: Path) -> None:
    """Writes a teacher that sums the pixels where the bar of each class may be."""
    net = build(LINEAR, WAY.input, len(CLASSES))
    head = net.get_submodule("head")
    assert isinstance(head, nn.Linear)
    weight = torch.zeros(len(CLASSES), 16, 16)
    for label, row in enumerate((3, 11, 7)):
        weight[label, row - 1 : row + 3, 3:13] = 0.3
    head.weight.data.copy_(weight.flatten(1))
    head.bias.data.zero_()
    spec = artifact.ModelSpec(LINEAR, WAY, CLASSES)
    module = Classifier(net, (0.4,), (0.25,)).eval()
    artifact.write_final(folder, module=module, spec=spec, metrics={}, card="")


def prepare_few(folder: Path) -> Path:
    """Fills a folder with a teacher, a space, and pictures to validate and test on."""
    for part in ("validation", "test"):
        write_pictures(folder / "few" / part, 20)
    write_teacher(folder / "teacher")
    (folder / "tiny.yaml").write_text(TINY)
    return folder


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return prepare_few(tmp_path)


class Commands:
    """`nasdistill` in forks of one process, which has imported it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, arguments: Sequence[str], moment: Moment = ("never", "", 1)) -> int:
        """The exit status of a command; at a moment, if it comes, it is told to end."""
        order = {"arguments": arguments, "moment": moment, "signal": int(signal.SIGINT)}
        assert self._process.stdin is not None and self._process.stdout is not None
        print(
            json.dumps({**order, "folder": str(self.folder)}), file=self._process.stdin, flush=True
        )
        return int(self._process.stdout.readline())

    def said(self) -> str:
        """What the last command said."""
        return (self.folder / "said.txt").read_text()

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def search_flags(study: str) -> list[str]:
    options = {**SEARCH, "study": study}
    return ["search", *(p for k, v in options.items() for p in (f"--{k.replace('_', '-')}", v))]


def outcome(record: StudyRecord) -> list[Any]:
    """What must not depend on an interruption."""
    trials = [(c.fingerprint, c.state, [r.accuracy for r in c.rungs]) for c in record.candidates]
    return [trials, [(f.number, f.metrics["test_accuracy"]) for f in record.finals]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a study that ran through, and one that was stopped twice and gone on with."""
    commands = Commands(prepare_few(tmp_path_factory.mktemp("free")))
    steps: list[tuple[list[str], Moment, int]] = [
        (search_flags("whole"), ("never", "", 1), 0),
        (search_flags("parts"), ("os.rename", "trunk.pt", 2), 128 + signal.SIGINT),
        (["resume", "parts"], ("open", "final.pt", 2), 128 + signal.SIGINT),
        (["resume", "parts"], ("never", "", 1), 0),
    ]
    try:
        for arguments, moment, status in steps:
            assert commands.run(arguments, moment) == status, commands.said()
        yield commands.folder
    finally:
        commands.end()


def test_a_search_without_training_pictures_ends_with_a_student_that_can_tell(
    searched: Path,
) -> None:
    record = load_study("whole", searched / "studies")
    assert record.state == "complete"
    assert record.data["examples"] == {"train": 0, "score": 30, "audit": 30, "test": 60}
    (final,) = record.finals
    assert final.metrics["test_accuracy"] > 0.6  # chance is 1 in 3
    assert final.metrics["teacher_test_accuracy"] > 0.9
    assert final.metrics["synthetic_images"] == 96 and final.metrics["epochs"] == 8


def test_the_card_and_the_report_say_that_no_training_picture_was_used(searched: Path) -> None:
    card = (searched / "studies/whole/finals/1/README.md").read_text()
    assert "for 8 epochs of 96 images made from the teacher\nalone; no real training" in card
    page = (searched / "reports/whole/index.html").read_text()
    assert "Trained on 96 images made from the teacher alone" in page
    assert "train 0, score 30, audit 30, test 60" in page


def test_a_stopped_search_goes_on_to_the_same_outcome(searched: Path) -> None:
    whole, parts = (load_study(name, searched / "studies") for name in ("whole", "parts"))
    assert outcome(parts) == outcome(whole)


def test_more_finals_tuning_and_evaluating_need_no_training_pictures_either(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(searched, folder)
    monkeypatch.chdir(folder)
    made = {final.number for final in load_study("whole", folder / "studies").finals}
    scored = [c for c in load_study("whole", folder / "studies").candidates if c.score is not None]
    other = next(c.number for c in scored if c.number not in made)
    finals = api.distill("whole", trial=other).record.finals
    assert {final.number for final in finals} == made | {other}
    assert api.evaluate("whole/1")["examples"] == 60
    points = api.tune("whole", over=["temperature"], temperatures=[2, 4], epochs=1).points
    assert len(points) == 2
    with pytest.raises(UserError, match="no train split.*alpha.*--over temperature"):
        api.tune("whole", epochs=1)
