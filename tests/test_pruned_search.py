"""A whole search of students that are cut from their teacher."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import KILLED_SEARCH, write_blobs

import nasdistill
from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.data import load_data
from nasdistill.finals import estimate
from nasdistill.finals.estimate import Pace, duration
from nasdistill.models import Classifier, artifact, build
from nasdistill.models.counts import count_architecture
from nasdistill.recipe import load_recipe
from nasdistill.space import Architecture
from nasdistill.study import Study
from nasdistill.training.batch_norm import reestimate
from nasdistill.training.checkpoint import read_checkpoint
from nasdistill.trials import channels
from nasdistill.trials.channels import looked_at_batches
from nasdistill.trials.context import StudyContext, open_context
from nasdistill.trials.cutting import steps_to_make
from nasdistill.trials.plugins import load_plugins

BLOCK = {"type": "basic"}
VALUES = {
    "stem": {"type": "conv3", "width": 16},
    "stages": [{"block": BLOCK, "width": 16, "depth": 2}],
}
RECIPE = """\
space: pruned
data: npz:blobs.npz
teacher: folder:teacher
study: small
trials: 3
top_k: 1
minimize: [params]
max_params: 20k
min_accuracy: 0.2
rungs: {first: 100 images, eta: 2, count: 2}
final_budget: 1 epochs
batch_size: 50
views: 1
precision: fp32
device: cpu
workers: 1
"""


def teacher(folder: Path) -> None:
    """Writes a net of two blocks that has learned the bars."""
    dataset = load_data(
        "npz:blobs.npz", device=torch.device("cpu"), seed=0, image_size=None, channels=None
    )
    architecture = Architecture("resnet", VALUES)
    torch.manual_seed(0)
    net = build(architecture, dataset.input, 3)
    module = Classifier(net, (0.4,), (0.25,))
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    images, labels = dataset.train.images[:300], dataset.train.labels[:300]
    for _ in range(2):
        for batch in torch.randperm(len(images)).split(50):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(images[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    spec = artifact.ModelSpec(architecture, dataset.preparation, dataset.classes)
    artifact.write_final(folder, module=module.eval(), spec=spec, metrics={}, card="# Bars\n")


@pytest.fixture
def bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_blobs(tmp_path / "blobs.npz")
    teacher(tmp_path / "teacher")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_a_search_is_killed_and_resumed_and_its_final_stands_alone(bars: Path) -> None:
    killed = subprocess.run([sys.executable, str(KILLED_SEARCH), "trial"], cwd=bars, check=False)
    assert killed.returncode == -9
    outcome = api.resume("small")
    assert outcome.record.state == "complete"
    folder = bars / "studies" / "small" / "finals" / "1"
    architecture: dict[str, Any] = json.loads((folder / "architecture.json").read_text())
    assert architecture["family"] == "pruned"
    assert architecture["values"]["base"] == {"family": "resnet", "values": VALUES}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["begin"], metrics["begin_weights"]) == ("teacher", "cut from folder:teacher")
    (bars / "teacher").rename(bars / "elsewhere")
    assert nasdistill.load(folder)(torch.rand(2, 1, 16, 16)).shape == (2, 3)
    # The teacher has moved, and the study with it.
    again = api.resume("small", overrides={"teacher": "folder:elsewhere"})
    assert again.already_complete


def test_features_are_matched_to_the_teachers_after_a_kill_as_before(bars: Path) -> None:
    """Steps and finals compare channels that were kept; the fresh control learns a projection."""
    terms = "[{term: labels}, {term: kl}, {term: features, weight: 10}]"
    recipe = RECIPE.replace("trials: 3", "trials: 1\nbaseline: true").replace("20k", "8k")
    recipe = recipe.replace("1 epochs", "4 epochs") + f"final: {{terms: {terms}}}\n"
    (bars / "recipe.yaml").write_text(recipe)
    killed = subprocess.run([sys.executable, str(KILLED_SEARCH), "final"], cwd=bars, check=False)
    assert killed.returncode == -9
    work = bars / "studies" / "small" / "finals"
    checkpoints = list(work.rglob("final.pt"))
    assert len(checkpoints) == 1
    assert dict(read_checkpoint(checkpoints[0])["auxiliaries"]) == {}
    notes: list[str] = []
    resumed = api.resume("small", on_event=lambda event: notes.append(event.text))
    assert resumed.record.state == "complete"
    (matched,) = (text for text in notes if "the same layers of the teacher" in text)
    assert matched.endswith("compared with the same layers of the teacher: stem, stage0")
    assert not any("begins again" in text for text in notes)
    metrics = json.loads((bars / "studies/small/finals/1/metrics.json").read_text())
    assert metrics["begin"] == "teacher" and "fresh" in json.dumps(metrics)


def test_limits_that_no_cut_keeps(bars: Path) -> None:
    with pytest.raises(UserError, match=r"--max-params 500: the smallest net .* has [\d,]+ param"):
        nasdistill.search(load_recipe("recipe.yaml", {"max_params": 500}))
    assert not (bars / "studies" / "small").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("table:answers.npz", "no net that students could be cut from"),
        ("timm:resnet19", "timm has no 'resnet19'"),
        ("folder:nowhere", "there is no nowhere/architecture.json"),
        ("nobody", "unknown teacher"),
    ],
)
def test_what_students_cannot_be_cut_from(bars: Path, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        nasdistill.search(load_recipe("recipe.yaml", {"teacher": spec}))


def test_students_are_cut_from_steps_that_are_made_once(bars: Path) -> None:
    """The net at half its width has 8 of 16 channels, so it is the only step there can be."""
    study = bars / "studies" / "small"
    recipe = load_recipe("recipe.yaml", {"trials": 1, "max_params": 8_000})
    outcome = nasdistill.search(recipe)
    student = nasdistill.load(study / "finals" / "1").net
    steps = {path.name for path in (study / "cut").glob("*.safetensors")}
    assert steps >= {"1-scores.safetensors", "0.5.safetensors", "0.5-scores.safetensors"}
    assert outcome.record.stages["cutting"] > 0
    # What was made is taken as it is; a damaged step is made again, and is the same.
    step = study / "cut" / "0.5.safetensors"
    before = step.read_bytes()
    step.write_bytes(before[:100])
    events: list[str] = []
    changes = {"study": "small", "trial": outcome.record.finals[0].number}
    (study / "finals" / "1" / "model.onnx").unlink()
    nasdistill.distill(**changes, on_event=lambda event: events.append(event.text))
    assert any("0.5.safetensors" in text and "is made again" in text for text in events)
    assert step.read_bytes() == before
    again = nasdistill.load(study / "finals" / "1").net
    for name, weight in student.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def opened(**options: Any) -> StudyContext:
    recipe = load_recipe("recipe.yaml", options)
    study = Study.open(recipe, Path("studies"), "a test")
    return open_context(study, load_plugins(None), lambda event: None)


def test_the_steps_of_the_cut_are_in_the_time_that_is_foretold(bars: Path) -> None:
    """At three quarters of its width the net still has 16 channels, at a quarter 8 as at a half."""
    context = opened()
    (step,) = steps_to_make(context)
    assert step.values["keep"]["width"] == 0.5
    macs = count_architecture(step, context.dataset.input, 3).macs
    pace = Pace(0.001, 0.0003, 2 * macs, counted=0.0, answer=0.002, tested=0.003, latency=0.0)
    parts = duration(context, pace, 2)
    # An epoch of 500 images, and 320 to judge channels and batch norm by, of half the work.
    assert parts.cutting == pytest.approx((500 * 0.001 + 320 * 0.0013) / 2)
    longer = duration(opened(study="longer", final_budget="8 epochs"), pace, 2)
    assert longer.cutting == pytest.approx((2 * 500 * 0.001 + 320 * 0.0013) / 2)
    fresh = duration(opened(study="fresh", begin="fresh"), pace, 2)
    assert fresh.cutting == 0
    # Each of three students has its batch norm estimated anew on 320 images, two at a time.
    assert parts.trials - fresh.trials == pytest.approx(3 * 320 * 0.0003 / 2)
    estimate._measure_pace(context, 1)
    made = bars / "studies" / "small" / "cut" / "0.5.safetensors"
    assert not made.exists(), "students are timed without what they are cut from"
    made.touch()
    assert steps_to_make(context) == []


def test_no_picture_is_alone_where_batch_norm_is_estimated(
    bars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image has no variance on a map of 1x1."""
    monkeypatch.setattr(channels, "LOOKED_AT", 33)
    context = opened()
    batches = [images for images, _ in looked_at_batches(context.dataset, (16, 16))]
    assert [len(images) for images in batches] == [17, 16]
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(1))
    reestimate(net, [images.float() for images in batches])
    assert not torch.isnan(net[1].running_var).any()


def test_a_teacher_that_is_no_net_of_the_space(bars: Path) -> None:
    recipe = load_recipe("recipe.yaml", {"begin": "pretrained"})
    with pytest.raises(UserError, match="--begin pretrained: .* allowed: teacher, fresh"):
        nasdistill.search(recipe)
