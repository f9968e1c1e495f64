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
from nasdistill.data import load_data
from nasdistill.data.pictures import Preparation
from nasdistill.models import Classifier, artifact, build
from nasdistill.recipe import load_recipe
from nasdistill.results import StudyRecord, load_study
from nasdistill.space import Architecture
from nasdistill.teachers import load_teacher
from nasdistill.training import teacher as teaching

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
    options = {**SEARCH, "study": study, "first_rung": "300 images"}
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
    points = api.tune("whole", over=["temperature"], temperatures=[2.0, 4.0], epochs=1).points
    assert len(points) == 2
    with pytest.raises(UserError, match="no train split.*alpha.*--over temperature"):
        api.tune("whole", epochs=1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"synthetic": None},
            "no train split. Put images into train/<class>/, or search with --sy",
        ),
        ({"teacher": "auto"}, "Found: --teacher auto is trained on it (name a teacher). Allowed: "),
        ({"teacher": "table:a.npz"}, "--teacher table:a.npz has answers to training images alone"),
        ({"sampling": "balanced"}, "--sampling balanced counts its classes"),
        ({"class_weights": "balanced"}, "--class-weights weigh labels"),
        ({"baseline": True}, "--baseline learns from labels alone"),
        ({"scoring": {"alpha": 0.1}}, "Found: scoring learns labels by alpha. Allowed: terms"),
        (
            {"final": {"terms": [{"term": "kl"}, {"term": "dkd"}, {"term": "crd"}]}},
            "Found: final learns labels by dkd; final learns labels by crd. Allowed",
        ),
        (
            {"final": {"stages": [{"until": 0.5}, {"until": 1, "alpha": 0}]}},
            "final learns labels by alpha",
        ),
        (
            {"final": {"alpha": 0, "examples": {"by": "correct_only"}}},
            "final learns labels by examples: correct_only",
        ),
        (
            {
                "teachers": {"box": {"table": "a.npz"}, "all": {"mean_of": ["teacher", "box"]}},
                "final": {"terms": [{"term": "kl", "teacher": "all"}]},
            },
            "the teacher 'box' has answers to training images alone",
        ),
        ({"space": "alpha.yaml"}, "the space 'tiny' searches alpha, the weight of labels"),
    ],
)
def test_what_needs_training_pictures_or_labels_is_refused_by_name(
    few: Path, options: dict[str, Any], told: str
) -> None:
    alpha = "  distillation:\n    alpha: {choice: [0.0, 0.5]}\n"
    Path("alpha.yaml").write_text(TINY + alpha)
    given = {**SEARCH, "study": "wrong", **options}
    with pytest.raises(UserError) as caught:
        api.search(load_recipe(None, {k: v for k, v in given.items() if v is not None}))
    assert str(caught.value).startswith("data 'folder:few': no train split")
    assert told in str(caught.value)
    assert not Path("studies/wrong").exists()


def test_one_of_both_objectives_alone_is_not_enough(few: Path) -> None:
    given = {**SEARCH, "final": {"alpha": 0, "feed": {"synthetic": {"images": 96}}}}
    del given["synthetic"]
    with pytest.raises(UserError, match="Found: scoring is fed from it .*; scoring learns labels"):
        api.search(load_recipe(None, given))


def test_a_teacher_is_evaluated_on_what_there_is_and_neither_trained_nor_recorded(
    few: Path,
) -> None:
    events: list[Event] = []
    card = api.teacher_evaluate("folder:teacher", data="folder:few", on_event=events.append)
    assert card["validation_accuracy"] > 0.9 and card["validation_examples"] == 60
    assert card["train_accuracy"] is None and card["gap"] is None
    assert not any("overfitted" in event.text for event in events)
    with pytest.raises(UserError, match="no train split to train a teacher on, as --teacher auto"):
        api.teacher_evaluate("auto", data="folder:few")
    for refused in (
        lambda: api.teacher_train(data="folder:few", out=Path("made")),
        lambda: api.teacher_record("folder:teacher", data="folder:few", out=Path("a.npz")),
    ):
        with pytest.raises(UserError, match="data 'folder:few': no train split. Put images into"):
            refused()
    assert not Path("made").exists() and not Path("a.npz").exists()


def test_the_precision_of_logits_is_probed_on_validation_pictures(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data("folder:few", device=torch.device("cpu"), may_lack_training=True)
    teacher = load_teacher("folder:teacher", data, device=torch.device("cpu"))
    monkeypatch.setattr(teaching, "emulates_bf16", lambda module: False)
    monkeypatch.setattr(teaching, "BF16_WORTH", float("inf"))
    monkeypatch.setattr(teaching, "SAME_CLASS", 0.5)
    assert teaching.fastest_logit_precision(teacher, data) == "bf16"


def test_a_teacher_of_other_classes_has_no_head_to_be_tuned(few: Path) -> None:
    for part in ("validation", "test"):
        shutil.rmtree(few / "few" / part / "middle")
    with pytest.raises(UserError, match="tells 3 classes apart, the data 'folder:few' 2, without"):
        api.search(load_recipe(None, {**SEARCH, "study": "wrong"}))
    (few / "few/validation/middle").mkdir()  # a class without pictures is a class
    card = api.teacher_evaluate("folder:teacher", data="folder:few")
    assert card["classes"] == 3 and card["validation_examples"] == 40


def test_a_teacher_whose_normalisation_is_that_of_training_pictures_is_refused(few: Path) -> None:
    Path("own.py").write_text(
        "from torch import nn\nfrom nasdistill.models import artifact\n\n\n"
        "def bare(classes, input):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(256, classes))\n\n\n"
        "def whole(classes, input):\n"
        "    return artifact.load('teacher')\n"
    )
    with pytest.raises(UserError, match="images normalised as the training split, but the data"):
        api.teacher_evaluate("bare", data="folder:few", import_file="own.py")
    card = api.teacher_evaluate("whole", data="folder:few", import_file="own.py")
    assert card["validation_accuracy"] > 0.9


def test_with_training_pictures_nothing_is_refused(few: Path) -> None:
    write_pictures(few / "few" / "train", 4)
    options = {"trials": "1", "sampling": "balanced", "scoring": {"alpha": 0.1}}
    rungs = {"first": "100 images", "count": 1}
    recipe = load_recipe(None, {**SEARCH, **options, "rungs": rungs, "study": "both"})
    (final,) = api.search(recipe).record.finals
    assert final.metrics["synthetic_images"] == 96
