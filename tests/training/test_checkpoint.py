"""Checkpoints that are cut off, or another run's: set aside, and the run begins again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import write_blobs
from torch import nn

from nasdistill.common.errors import DamagedFileError
from nasdistill.common.events import Event
from nasdistill.data import Dataset, load_data
from nasdistill.losses import Objective
from nasdistill.models import Classifier
from nasdistill.space import Architecture
from nasdistill.training import BatchStream, LRSchedule, Run, seed_weights, train
from nasdistill.training.checkpoint import go_on_from, write_checkpoint
from nasdistill.training.from_scratch import Hyperparameters, train_teacher

MLP = Architecture(
    "mlp", {"activation": "relu", "dropout": 0.0, "layers": {"type": "one", "widths": [8]}}
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz", train=200, test=40)
    return load_data(f"npz:{path}", device=torch.device("cpu"))


def make(data: Dataset, width: int = 4, **changed: Any) -> Run:
    seed_weights(0, "student")
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(256, width), nn.BatchNorm1d(width), nn.Linear(width, 3)
    )
    student = Classifier(net, data.mean, data.std)
    options: dict[str, Any] = {
        "horizon": 500,
        "lr_schedule": LRSchedule(0.01, 100, None, 500),
        "seed": 3,
    }
    stream = changed.pop("stream", BatchStream(data, 50, 2, 7))
    return Run([student], stream, Objective.labels(), **(options | changed))


def trained(run: Run, until: int) -> Run:
    for _ in train(run, until):
        pass
    return run


def state_of(run: Run) -> Any:
    return copy.deepcopy((run.students.state_dict(), run.optimizer.state_dict(), run.step))


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b)


@pytest.fixture(scope="module")
def saved(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `make(data)` after 200 examples."""
    path = tmp_path_factory.mktemp("saved") / "run.pt"
    trained(make(data), 200).save(path)
    return path


def begins_again(run: Run, path: Path) -> str:
    """The warning about a checkpoint; the run must be as it was, and the file set aside."""
    content, before, warnings = path.read_bytes(), state_of(run), []
    go_on_from(run, path, warnings.append)
    assert alike(state_of(run), before), "something of the checkpoint was taken over"
    assert not path.exists()
    aside = path.with_name(path.name + ".damaged")
    assert aside.read_bytes() == content
    aside.unlink()
    [warning] = warnings
    assert (
        str(path) in warning and f"put aside as {aside.name}, and this run begins again" in warning
    )
    return warning


def test_a_whole_one_is_gone_on_from(data: Dataset, saved: Path) -> None:
    run = make(data)
    go_on_from(run, saved, pytest.fail)
    assert run.examples == 200
    assert alike(state_of(trained(run, 400)), state_of(trained(make(data), 400)))
    go_on_from(run, saved.with_name("none.pt"), pytest.fail)


def test_one_of_an_earlier_release_has_no_identity(data: Dataset, tmp_path: Path) -> None:
    old = trained(make(data), 200)
    old.save(tmp_path / "run.pt")
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    del state["identity"]
    write_checkpoint(state, tmp_path / "run.pt")
    run = make(data)
    go_on_from(run, tmp_path / "run.pt", pytest.fail)
    assert alike(state_of(run), state_of(old))
    write_checkpoint(state, tmp_path / "run.pt")
    assert "another run" in begins_again(make(data, width=5), tmp_path / "run.pt")


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 4},
        {"horizon": 600},
        {"lr_schedule": LRSchedule(0.02, 100, None, 500)},
        {"weight_decay": 0.1},
        {"described": "another temperature"},
        {"batch_size": 25},
        {"views": 3},
    ],
)
def test_another_runs_progress_is_never_taken_over(
    data: Dataset, saved: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(saved.read_bytes())
    of_stream = {key: changed.pop(key) for key in ("batch_size", "views") if key in changed}
    stream = replace(BatchStream(data, 50, 2, 7), **of_stream)
    run = make(data, **changed, stream=stream)
    assert "the checkpoint of another run: its seed, budget, data" in begins_again(run, path)


def test_other_data_make_another_run(data: Dataset, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(saved.read_bytes())
    other = replace(data, fingerprint="f" * 32)
    assert "another run" in begins_again(make(other), path)


def test_precision_and_micro_batches_may_change(data: Dataset, saved: Path) -> None:
    run = make(data, precision="bf16", micro_batch=10)
    run.restore(saved)
    assert run.examples == 200


@settings(max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_at_any_byte(data: Dataset, saved: Path, share: float) -> None:
    whole, path = saved.read_bytes(), saved.with_name("cut.pt")
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "cut off, or not a checkpoint" in begins_again(make(data), path)


Spoil = Callable[[dict[str, Any]], object]
SPOILED: dict[str, Spoil] = {
    "no step": lambda state: state.pop("step"),
    "step of text": lambda state: state.update(step="4"),
    "step below 0": lambda state: state.update(step=-1),
    "step beyond": lambda state: state.update(step=10**9),
    "no students": lambda state: state.pop("students"),
    "students of a list": lambda state: state.update(students=[1]),
    "a weight less": lambda state: state["students"].popitem(),
    "a weight of text": lambda state: state["students"].update({"0.mean": "x"}),
    "another shape": lambda state: state["students"].update({"0.mean": torch.zeros(7)}),
    "no optimiser": lambda state: state.pop("optimizer"),
    "optimiser of a number": lambda state: state.update(optimizer=3),
    "moments of text": lambda state: state["optimizer"].update(state="x"),
    "a moment less": lambda state: state["optimizer"]["state"][0].popitem(),
    "moments of another": lambda state: state["optimizer"]["state"].update({99: {}}),
    "a moment's shape": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(2)),
    "identity of a list": lambda state: state.update(identity=[]),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_values_of_other_kinds(data: Dataset, saved: Path, tmp_path: Path, kind: str) -> None:
    state = torch.load(saved, weights_only=True)
    SPOILED[kind](state)
    write_checkpoint(state, tmp_path / "run.pt")
    begins_again(make(data), tmp_path / "run.pt")


def test_files_that_are_no_checkpoints(data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    for content in (b"", b"hello", b"\x80\x02]q\x00."):
        path.write_bytes(content)
        begins_again(make(data), path)
    torch.save([1, 2], path)
    with pytest.raises(DamagedFileError, match="holds no tensors by name"):
        make(data).restore(path)


@pytest.mark.parametrize("damaged", ["teacher.checkpoint.pt", "teacher.checkpoint.progress.pt"])
def test_a_teacher_in_training_begins_again(damaged: str, data: Dataset, tmp_path: Path) -> None:
    events: list[Event] = []

    def teacher(checkpoint: Path) -> dict[str, torch.Tensor]:
        settings = Hyperparameters(precision="fp32")
        trained = train_teacher(
            data,
            MLP,
            epochs=2,
            seed=0,
            emit=events.append,
            hyperparameters=settings,
            checkpoint=checkpoint,
        )
        return dict(trained.module.state_dict())

    checkpoint = tmp_path / "teacher.checkpoint.pt"
    whole = teacher(checkpoint)
    path = tmp_path / damaged
    path.write_bytes(path.read_bytes()[:500])
    events.clear()
    again = teacher(checkpoint)
    assert alike(whole, again)
    assert events[0].kind == "warning" and f"{path}: cut off" in events[0].text
    assert any("epoch 1 of 2" in event.text for event in events)
    assert path.with_name(f"{path.name}.damaged").exists()
