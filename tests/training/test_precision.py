"""Precision: what a processor emulates is found with small layers, and not timed on batches."""

from __future__ import annotations

import pytest
import torch
from model_helpers import conv, objective, run_of
from small_study import write_blobs
from torch import Tensor, nn

from nasdistill.data import Dataset, load_data
from nasdistill.models.depthwise import DepthwiseConv2d
from nasdistill.training import precision, timing
from nasdistill.training.precision import emulates_bf16
from nasdistill.training.timing import fastest_precision


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_blobs(tmp_path_factory.mktemp("blobs") / "blobs.npz")
    return load_data(f"npz:{path}", device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def _forget() -> None:
    precision._emulated.cache_clear()


def processor(monkeypatch: pytest.MonkeyPatch, **times_as_long: float) -> None:
    """A processor on which layers of a kind take so many times as long in bf16."""

    def seconds(layer: nn.Module, inputs: Tensor) -> float:
        if next(layer.parameters()).dtype == torch.float32:
            return 1.0
        if isinstance(layer, nn.Linear):
            return times_as_long.get("linear", 0.5)
        assert isinstance(layer, nn.Conv2d)
        return times_as_long.get("dense" if layer.groups == 1 else "depthwise", 0.5)

    monkeypatch.setattr(precision, "_forward_seconds", seconds)


def separable() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 1), DepthwiseConv2d(4, 3, 1), nn.Linear(16, 4))


def test_the_kinds_of_layers_that_a_module_has_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, depthwise=90.0)
    assert emulates_bf16(separable())
    assert not emulates_bf16(separable(), but_depthwise=True)
    assert not emulates_bf16(conv())
    foreign = nn.Conv2d(4, 4, 3, groups=4)  # another library's, which autocast does not spare
    assert emulates_bf16(foreign, but_depthwise=True)
    assert not emulates_bf16(separable().to("meta")), "only a CPU is probed"


def test_a_little_slower_in_a_small_layer_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, dense=3.0, linear=3.0)
    assert not emulates_bf16(conv())


def test_what_is_emulated_is_not_timed_on_batches(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []
    monkeypatch.setattr(timing, "_seconds", lambda run, *steps: timed.append(run.precision) or 1.0)
    labels = objective({"term": "labels"})
    processor(monkeypatch, dense=12.0)
    assert fastest_precision(run_of(data, [conv()], labels)) == "fp32"
    assert timed == []
    precision._emulated.cache_clear()
    processor(monkeypatch, depthwise=90.0)
    fastest_precision(run_of(data, [separable()], labels))
    assert set(timed) == {"fp32", "bf16-mixed"}


def test_a_probe_is_a_few_passes_of_a_small_layer_at_its_own_precision() -> None:
    seen: list[tuple[torch.dtype, int]] = []

    class Layer(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append((input.dtype, input.numel()))
            return super().forward(input)

    assert precision._forward_seconds(Layer(8, 8).bfloat16(), torch.zeros(8, 8)) > 0.0
    assert seen == [(torch.bfloat16, 64)] * (1 + precision.PROBE_REPEATS)
